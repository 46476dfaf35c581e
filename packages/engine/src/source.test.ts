import { describe, expect, test } from 'vitest';
import * as e from './index.js';
import { Source, withSource } from './source.js';

const matrix = () => e.constant(e.zeros('float32', [2, 3]));
/** The line of the caller's caller, as V8 has it. */
const line = (offset = 0) => Number(/:(\d+):\d+\)?$/.exec(new Error().stack!.split('\n')[2]!)![1]) + offset;
const lineOf = (tensor: e.Tensor) => Number(tensor.node.source.text!.split(':').at(-2));

describe('every traced value knows the line of user code that asked for it', () => {
  test('through operators made of others', () => {
    const x = e.tanh(matrix());
    expect(lineOf(x)).toBe(line(-1));
    const loss = e.crossEntropy(x, e.constant(e.zeros('int64', [2])));
    expect(lineOf(loss)).toBe(line(-1));
    expect(loss.node.source.text).toMatch(/^packages\/engine\/src\/source\.test\.ts:\d+:\d+$/);
    expect(loss.node.derived).toBe(false);
  });

  test('a gradient has the line whose gradient it is, a gradient of a gradient as well', () => {
    let forward = 0;
    const square = (x: e.Tensor) => {
      const y = e.tanh(x);
      forward = line(-1);
      return e.sum(y);
    };
    const gradient = e.grad(square)(matrix());
    expect(lineOf(gradient)).toBe(forward);
    expect(gradient.node.derived).toBe(true);
    const second = e.grad((x: e.Tensor) => e.sum(e.grad(square)(x)))(matrix());
    expect(lineOf(second)).toBe(forward);
  });

  test('work under a name', () => {
    const x = matrix();
    expect(withSource(Source.named('optimizer'), () => e.tanh(x)).node.source.text).toBe('optimizer');
    expect(() => withSource(Source.named('optimizer'), () => e.add(x, e.constant(e.zeros('float32', [7]))))).toThrow(
      /\(3 against 7\), at packages\/engine\/src\/source\.test\.ts:\d+:\d+ for optimizer$/,
    );
  });
});

test('mistakes in shapes and dtypes end with their line', () => {
  const messageOf = (fn: () => unknown) => {
    try {
      fn();
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error('nothing was thrown');
  };
  const where = /, at packages\/engine\/src\/source\.test\.ts:\d+:\d+$/;
  expect(messageOf(() => e.matMul(matrix(), matrix()))).toMatch(where);
  expect(messageOf(() => e.add(matrix(), e.constant(e.zeros('int64', [3]))))).toMatch(where);
  const wrongRule = e.customVjp(
    (x: e.Tensor) => x,
    (_, dy) => [e.reshape(dy, [7])],
  );
  expect(messageOf(() => e.grad((x: e.Tensor) => e.sum(wrongRule(x)))(matrix()))).toMatch(
    /cannot become \[7\], at packages\/engine\/src\/source\.test\.ts:\d+:\d+ for the line at packages\/engine/,
  );
});
