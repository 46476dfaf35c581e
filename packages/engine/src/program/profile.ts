/** Where the time of a program goes: by operator and by line of the model, as ONNX Runtime's own profiler sees it. */
import type { DeviceTensor, SessionOptions } from '#backend';
import { recordProfile, runSession } from '#backend';
import { writeOnnx } from '../onnx/model.js';
import type { Node } from '../tensor.js';
import { emitGraph, type TracedGraph } from './graph.js';
import { idleOptimizers } from './optimizers.js';
import { size } from './print.js';

export interface ProfileOptions {
  /** Runs to average over, after one to warm up; 5 when left out. */
  readonly runs?: number;
}

export interface ProfileRow {
  /** An operator as ONNX Runtime runs it (it may have fused several), or a line of code. */
  readonly what: string;
  /** Operators run, in one run of the program. */
  readonly count: number;
  /** Milliseconds in one run. */
  readonly ms: number;
  /** Of the time of all operators, 0 to 1. */
  readonly share: number;
}

export interface LineRow extends ProfileRow {
  /** The part of `ms` that its gradient takes. */
  readonly gradientMs: number;
}

/** What a profile says. Prints as two tables. */
export class Profile {
  constructor(
    readonly runs: number,
    /** Milliseconds of one run, everything included. */
    readonly totalMs: number,
    /** Milliseconds of one run in operators; the rest is between them. */
    readonly operatorsMs: number,
    /** Most bytes in use at once for values inside the program: neither its inputs nor its outputs. */
    readonly peakBytes: number,
    readonly byOperator: readonly ProfileRow[],
    readonly byLine: readonly LineRow[],
  ) {}

  toString(): string {
    const ms = (value: number) => value.toFixed(value < 10 ? 2 : 1);
    const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
    const cells = ({ what, count, ms: time, share }: ProfileRow) => [ms(time), percent(share), String(count), what];
    return [
      `${ms(this.totalMs)} ms a run (mean of ${this.runs}), ${ms(this.operatorsMs)} ms of it in operators; ${size(this.peakBytes)} inside`,
      '',
      table([['ms', 'share', 'count', 'operator'], ...this.byOperator.map(cells)]),
      '',
      table([
        ['ms', 'share', 'gradient', 'count', 'line'],
        ...this.byLine.map((row) => {
          const [time, share, ...rest] = cells(row);
          return [time!, share!, ms(row.gradientMs), ...rest];
        }),
      ]),
    ].join('\n');
  }
}

/** Columns to the right, the last one to the left. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padStart(widths[i]!))).join('  '))
    .join('\n');
}

/** A traced program with what it is run on. */
export interface ProfiledProgram {
  readonly graph: TracedGraph;
  readonly feeds: Readonly<Record<string, DeviceTensor>>;
  /** Buffers that results may be written to, whose content nothing needs. */
  readonly scratch?: Readonly<Record<string, DeviceTensor | null>>;
}

interface Timed {
  readonly operator: string;
  readonly node: Node | undefined;
  readonly ms: number;
}

/** Profiles programs that run one after the other as one. Nothing that lives from run to run is changed. */
export async function profilePrograms(
  programs: readonly ProfiledProgram[],
  options: SessionOptions,
  { runs = 5 }: ProfileOptions = {},
): Promise<Profile> {
  const timed: Timed[] = [];
  let [totalMs, peakBytes] = [0, 0];
  for (const { graph, feeds, scratch } of programs) {
    const { model, origins } = emitGraph(graph);
    const fetches = Object.fromEntries(Object.keys(graph.outputs).map((name) => [name, scratch?.[name] ?? null]));
    const events = await recordProfile(
      writeOnnx(model),
      { ...options, skippedOptimizers: idleOptimizers(model) },
      async (session) => {
        for (let run = 0; run <= runs; run++) await runSession(session, feeds, fetches);
      },
    );
    // The first run warms up: whatever began before the second is not counted.
    const began = events.filter(({ name }) => name === 'model_run').sort((a, b) => a.ts - b.ts);
    const counted = events.filter(({ ts }) => ts >= began[1]!.ts);
    for (const { name, cat, dur, args } of counted) {
      if (name === 'model_run') totalMs += dur / 1000 / runs;
      if (cat !== 'Node' || !name.endsWith('_kernel_time')) continue;
      timed.push({ operator: args?.op_name ?? 'unknown', node: originOf(name, origins), ms: dur / 1000 });
      peakBytes = Math.max(peakBytes, Number(args?.mem_in_use_peak ?? 0));
    }
  }
  const operatorsMs = timed.reduce((sum, { ms }) => sum + ms, 0) / runs;
  const row = (what: string, group: readonly Timed[]): ProfileRow => {
    const ms = group.reduce((sum, event) => sum + event.ms, 0) / runs;
    return { what, ms, share: operatorsMs > 0 ? ms / operatorsMs : 0, count: group.length / runs };
  };
  const byLine = grouped(timed, ({ node }) => (node ? lineOf(node) : 'ONNX Runtime')).map(([line, group]) => {
    const gradient = group.filter(({ node }) => node?.derived);
    return { ...row(line, group), gradientMs: row(line, gradient).ms };
  });
  const byOperator = grouped(timed, ({ operator }) => operator).map(([operator, group]) => row(operator, group));
  const slowest = (a: ProfileRow, b: ProfileRow) => b.ms - a.ms;
  return new Profile(runs, totalMs, operatorsMs, peakBytes, byOperator.sort(slowest), byLine.sort(slowest));
}

function grouped(timed: readonly Timed[], key: (event: Timed) => string): [string, Timed[]][] {
  const groups = new Map<string, Timed[]>();
  for (const event of timed) {
    const name = key(event);
    const group = groups.get(name);
    if (group) group.push(event);
    else groups.set(name, [event]);
  }
  return [...groups];
}

/** Without the column. */
export const lineOf = ({ source }: Node): string => source.text?.replace(/:\d+$/, '') ?? 'no line';

/** An operator that ONNX Runtime made of others carries their names in its own. */
function originOf(event: string, origins: ReadonlyMap<string, Node>): Node | undefined {
  const name = event.slice(0, -'_kernel_time'.length);
  const exact = origins.get(name);
  if (exact) return exact;
  for (const [part] of name.matchAll(/[A-Z][A-Za-z]*_\d+/g)) {
    const node = origins.get(part);
    if (node) return node;
  }
  return undefined;
}
