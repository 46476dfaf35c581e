import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { operatorFamilies } from '../src/onnx/import/table.js';
import { recording } from './record.js';

const file = new URL('../../../docs/engine/onnx-files.md', import.meta.url);
const mark = '<!-- table -->\n';

function table(): string {
  const rows = Object.entries(operatorFamilies).map(([family, operators]) => {
    const names = Object.entries(operators).map(([name, { note, gradient }]) => {
      const limits = [gradient === 'none' ? 'no gradient' : '', note ?? ''].filter((text) => text !== '');
      return `\`${name}\`${limits.length > 0 ? ` (${limits.join('; ')})` : ''}`;
    });
    return `**${family}**: ${names.join(', ')}\n`;
  });
  const count = Object.values(operatorFamilies).reduce((sum, family) => sum + Object.keys(family).length, 0);
  return `${mark}\n${count} operators.\n\n${rows.join('\n')}`;
}

test('the operators in the docs are those of the table', () => {
  const text = readFileSync(file, 'utf8');
  const whole = text.slice(0, text.indexOf(mark)) + table();
  if (recording) writeFileSync(file, whole);
  expect(readFileSync(file, 'utf8'), 'RECORD=1 npx vitest run packages/engine/test/onnx-table.test.ts').toBe(whole);
});
