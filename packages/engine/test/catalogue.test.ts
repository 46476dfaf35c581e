import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import * as e from '../src/index.js';
import { catalogue, nameOf } from './catalogue.js';

/** Public functions of `src/ops` that are no operators: they work on the host's numbers. */
const hostFunctions = new Set(['quantizeNBits', 'constantNBits']);

/** What index.ts exports from `src/ops`. */
async function publicOperators(): Promise<string[]> {
  const folder = new URL('../src/ops/', import.meta.url);
  const files = readdirSync(folder).filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'));
  const modules = await Promise.all(files.map((file) => import(new URL(file, folder).href)));
  const made = new Set(modules.flatMap((module) => Object.values(module)));
  return Object.entries(e).flatMap(([name, value]) => (made.has(value) && !hostFunctions.has(name) ? [name] : []));
}

test('every public operator has a case, and every case a name of its own', async () => {
  const operators = await publicOperators();
  expect(operators.length).toBeGreaterThan(80);
  const covered = new Set(catalogue.map(({ operator }) => operator));
  const lacking = operators.filter((name) => !covered.has(name));
  expect(lacking, 'operators without a case').toEqual([]);
  const unknown = [...covered].filter((name) => !operators.includes(name));
  expect(unknown, 'cases of no export').toEqual([]);
  const names = catalogue.map(nameOf);
  expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
});
