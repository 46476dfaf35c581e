import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { errorCodes } from '../src/errors.js';

test('docs/errors.md lists every code with its kind, in the order of the table in errors.ts', async () => {
  const page = await readFile(new URL('../../../docs/errors.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` +\| (\w+) +\|/gm)].map(([, code, kind]) => [code, kind]);
  expect(rows).toEqual(Object.entries(errorCodes));
});
