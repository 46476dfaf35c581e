import { expect, test } from 'vitest';
import type { Part } from './parts.js';
import { banking77Rows } from './rows.js';

const part = (method: string, draw: number, accuracy: number, seconds: number): Part => ({
  shots: 5,
  draw,
  method,
  accuracy,
  seconds,
  correct: '',
  details: {},
  commit: 'abc',
  date: '2026-01-01',
});
const parts = [
  part('prototype', 0, 0.76, 2),
  part('prototype', 1, 0.8, 4),
  part('linear', 0, 0.81, 5),
  part('linear', 1, 0.8, 5),
  part('lora', 0, 0.8, 100),
  part('lora', 1, 0.81, 100),
  part('full', 0, 0.83, 150),
  part('full', 1, 0.84, 170),
];
const rowOf = (rows: ReturnType<typeof banking77Rows>, what: string) => rows.find((row) => row.what.startsWith(what))!;

test('means over draws, the better of the fine-tuned methods, paired with linear', () => {
  const rows = banking77Rows(parts, 5, 'no peer');
  expect(rowOf(rows, 'prototype, 5')).toMatchObject({ ours: 0.78, target: '>= 0.77', meets: true });
  expect(rowOf(rows, 'best of lora, full (full)')).toMatchObject({ ours: 0.835, meets: true });
  expect(rowOf(rows, 'full against linear, 5 per class: difference').ours).toBeCloseTo(0.03, 10);
  expect(rowOf(rows, 'full against linear, 5 per class: draws won')).toMatchObject({ ours: 2, meets: true });
  expect(rowOf(rows, 'full seconds').ours).toBe(160);
});

test('without SetFit its rows say so and judge nothing', () => {
  const time = rowOf(banking77Rows(parts, 5, 'no peer'), 'linear, published draw, 5 per class: time');
  expect(time).toMatchObject({ ours: 5, peer: null, meets: null, note: 'no peer' });
});

test('with SetFit accuracy and time are compared on the published draw', () => {
  const rows = banking77Rows([...parts, part('setfit', 0, 0.82, 700)], 5, 'no peer');
  expect(rowOf(rows, 'linear, published draw, 5 per class: accuracy')).toMatchObject({ ours: 0.81, meets: false });
  expect(rowOf(rows, 'linear, published draw, 5 per class: time')).toMatchObject({ peer: 700, meets: true });
  expect(rowOf(rows, 'full, published draw, 5 per class: time')).toMatchObject({
    target: '<= 0.2x peer',
    meets: false,
  });
});

test('another number of examples a class has no targets of its own', () => {
  const rows = banking77Rows([{ ...part('linear', 0, 0.9, 5), shots: 3 }], 3, 'no peer');
  expect(rowOf(rows, 'linear, 3 per class')).toMatchObject({ target: null, meets: null });
});
