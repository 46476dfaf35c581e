import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { methods } from '../src/methods/registry.js';

const page = await readFile(new URL('../../../docs/methods/README.md', import.meta.url), 'utf8');

test.each(Object.values(methods))(
  'docs/methods/README.md names every option of $name and its default',
  ({ name, defaults }) => {
    const section = page.split(/^## /m).find((part) => part.split('\n')[0]!.includes(`\`${name}\``))!;
    for (const [option, value] of Object.entries(defaults as object)) {
      const row = section.split('\n').find((line) => line.startsWith('|') && line.includes(`\`${option}\``));
      expect(row, option).toBeDefined();
      expect(row, option).toContain(String(value));
    }
  },
);
