/** Recorded outcomes of test runs: the columns of docs/engine/operators.md. Node.js only. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { catalogue, nameOf } from './catalogue.js';

/** Columns in the order of the table, with the file's name. */
export const columns = ['forward', 'gradient', 'second-order', 'vmap', 'symbolic', 'cpu', 'webgpu'] as const;
export type Column = (typeof columns)[number] | 'onnx';
/** What came of each case, by its name: `yes`, or in a few words what else. */
export type Outcomes = Readonly<Record<string, string>>;

export const recording = process.env.RECORD === '1';

const fileOf = (column: Column) => new URL(`results/${column}.json`, import.meta.url);

export function recorded(column: Column): Outcomes {
  const file = fileOf(column);
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
}

/**
 * With `RECORD=1` writes the outcomes into the column's file (cases that were not run keep theirs, cases that are gone
 * leave). Else compares them with it.
 *
 * @throws Error naming the cases whose outcome is another one than the committed
 */
export function record(column: Column, outcomes: Outcomes): void {
  const known = recorded(column);
  if (recording) {
    const merged = { ...known, ...outcomes };
    const lines = catalogue.map(nameOf).flatMap((name) => (name in merged ? [[name, merged[name]]] : []));
    writeFileSync(fileOf(column), `${JSON.stringify(Object.fromEntries(lines), null, 2)}\n`);
    return;
  }
  const changed = Object.entries(outcomes).filter(([name, outcome]) => known[name] !== outcome);
  if (changed.length === 0) return;
  const shown = changed.slice(0, 8).map(([name, outcome]) => `${name}: "${outcome}", recorded "${known[name]}"`);
  throw new Error(
    `${changed.length} outcomes of "${column}" differ from the recorded (if intended, run with RECORD=1):\n${shown.join('\n')}`,
  );
}
