import { expect, test } from 'vitest';
import type { OnnxNode } from '../onnx/model.js';
import { overwritable } from './overwriting.js';

const node = (opType: string, input: string[], output: string): OnnxNode => ({
  opType,
  name: output,
  input,
  output: [output],
});
const over = (...nodes: OnnxNode[]) => overwritable(nodes, new Map([['w', { input: 'w', output: 'new' }]]));

test('a value is written over when all that reads it has done so before', () => {
  const forward = node('MatMul', ['x', 'w'], 'y');
  expect(over(forward, node('Sub', ['w', 'y'], 'new'))).toEqual(['w']);
  // A product reads all of it for every element of its result.
  expect(over(node('MatMul', ['w', 'x'], 'new'))).toEqual([]);
  // Something else reads it, and may do so later; so may what reads it in another shape.
  expect(over(forward, node('Sub', ['w', 'y'], 'new'), node('MatMul', ['w', 'x'], 'z'))).toEqual([]);
  const view = node('Reshape', ['w', 'shape'], 'flat');
  expect(over(view, node('Exp', ['flat'], 'y'), node('Sub', ['w', 'y'], 'new'))).toEqual(['w']);
  expect(over(forward, view, node('Sub', ['w', 'y'], 'new'), node('Exp', ['flat'], 'z'))).toEqual([]);
  // In another order of its elements, one might be read after it was written.
  const turned = node('Transpose', ['w'], 'turned');
  expect(over(turned, node('Sub', ['turned', 'x'], 'new'))).toEqual([]);
});

test('nothing that may stop the run comes after', () => {
  const early = node('Gather', ['table', 'ids'], 'x');
  const update = node('Sub', ['w', 'x'], 'new');
  expect(over(early, update)).toEqual(['w']);
  expect(over(early, update, node('Gather', ['table', 'others'], 'z'))).toEqual([]);
  // By the same numbers it would have been stopped before.
  const labels = node('Unsqueeze', ['ids', 'axes'], 'column');
  expect(over(early, update, labels, node('GatherElements', ['y', 'column'], 'z'))).toEqual(['w']);
});
