import { expect, test } from 'vitest';
import { draw, parseCsv, writeCsv } from './table-file.js';

test('quotes, commas and line breaks inside quotes, CRLF, no newline at the end', () => {
  expect(parseCsv('a,b\r\n"x, ""y""\nz",1\n,2')).toEqual([
    ['a', 'b'],
    ['x, "y"\nz', '1'],
    ['', '2'],
  ]);
});

test('what is written is read back', () => {
  const table = { texts: ['he said "no", twice', 'a\nb'], labels: ['x', 'y'] };
  expect(parseCsv(writeCsv(table)).slice(1)).toEqual([
    ['he said "no", twice', 'x'],
    ['a\nb', 'y'],
  ]);
});

test('a draw has the same number of every class, and depends on its seed alone', () => {
  const labels = Array.from({ length: 60 }, (_, index) => 'abc'[index % 3]!);
  const table = { texts: labels.map((label, index) => `${label}${index}`), labels };
  const drawn = draw(table, 4, 1);
  expect(drawn.labels.join('')).toBe('aaaabbbbcccc');
  expect(drawn.texts.every((text, index) => text.startsWith(drawn.labels[index]!))).toBe(true);
  expect(new Set(drawn.texts).size).toBe(12);
  expect(draw(table, 4, 1)).toEqual(drawn);
  expect(draw(table, 4, 2)).not.toEqual(drawn);
});
