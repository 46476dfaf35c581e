import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const caught = (work: Promise<unknown>): Promise<e.NanFound> =>
  work.then(
    () => {
      throw new Error('nothing was thrown');
    },
    (error) => error,
  );

describe('debugNans', () => {
  test('names the operator that made the first NaN, its line, and what it was given', async () => {
    await using program = await e.compile(
      ({ x }) => {
        const shifted = e.sub(x, 2);
        const logs = e.log(shifted);
        return { y: e.sum(e.mul(logs, 3)), z: e.exp(x) };
      },
      { x: f32('n', 2) },
      { debugNans: true, name: 'logs' },
    );
    const good = await program.run({ x: e.hostTensor('float32', [1, 2], [3, 4]) });
    expect(good.y.data[0]).toBeCloseTo(3 * Math.log(2), 5);
    const error = await caught(program.run({ x: e.hostTensor('float32', [2, 2], [3, 1, 2, 0.5]) }));
    expect(error).toMatchObject({ code: 'NAN_FOUND', operator: 'Log', output: { nans: 2, infinities: 1 } });
    expect(error.line).toMatch(/debug-nans\.test\.ts:\d+:\d+$/);
    expect(error.inputs).toMatchObject([{ name: 'Sub', min: -1.5, max: 1, nans: 0, infinities: 0, shape: ['n', 2] }]);
    expect(error.message).toMatch(
      /^\[NAN_FOUND\] logs: Log at .*:\d+:\d+ made numbers that are not finite\n {2}result: Log/,
    );
    expect(error.message).toContain('input 0: Sub [n, 2], -1.5 to 1');
  });

  test('blames an input that came so', async () => {
    await using program = await e.compile(({ x }) => e.mul(x, 2), { x: f32(2) }, { debugNans: true });
    const error = await caught(program.run({ x: e.hostTensor('float32', [2], [1, Number.NaN]) }));
    expect(error).toMatchObject({ code: 'NAN_FOUND', operator: 'Input', output: { name: 'in/x', nans: 1 } });
  });

  test('does not blame an infinity that is meant', async () => {
    await using program = await e.compile(
      ({ scores, mask }) => e.softmax(e.where(mask, Number.NEGATIVE_INFINITY, scores)),
      { scores: f32('n', 2), mask: { dtype: 'bool', shape: ['n', 2] } } as const,
      { debugNans: true },
    );
    const scores = e.zeros('float32', [1, 2]);
    await program.run({ scores, mask: e.hostTensor('bool', [1, 2], [1, 0]) });
    const error = await caught(program.run({ scores, mask: e.hostTensor('bool', [1, 2], [1, 1]) }));
    expect(error).toMatchObject({ operator: 'Softmax', output: { nans: 2 } });
  });

  test('in a training step: the line whose gradient it is, and the step is not taken', async () => {
    await using step = await e.trainStep({
      params: { w: e.hostTensor('float32', [2], [0.5, 1]) },
      batch: { x: f32(2) },
      // The gradient of a root is infinite at 0, its value is not.
      loss: (p, { batch }) => e.sum(e.sqrt(e.mul(p.w!, batch.x))),
      optimizer: e.sgd(),
      schedule: e.constantRate(0.1),
      debugNans: true,
    });
    await step.run({ x: e.hostTensor('float32', [2], [1, 1]) });
    const before = await step.snapshot();
    const error = await caught(step.run({ x: e.hostTensor('float32', [2], [1, 0]) }));
    expect(error).toMatchObject({ code: 'NAN_FOUND' });
    expect(error.message).toMatch(/ in the gradient of .*debug-nans\.test\.ts:\d+:\d+ made/);
    expect(await step.snapshot()).toEqual(before);
  });
});
