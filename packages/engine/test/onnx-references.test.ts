import { describe, expect, test } from 'vitest';
import * as e from '../src/index.js';
import { fixtureNames, fixturePath, magnitude, reference, worst } from './onnx-fixtures.js';

/** The exporter calls one size by two symbols, and cuts the position table to the smaller of 24 and the length. */
const same: Record<string, Record<string, e.Dim>> = { 'gpt2-dynamo18': { s6: 's33', s50: 6, s81: 6 } };

describe.each(fixtureNames)('%s', (name) => {
  test("gives the runtime's outputs and PyTorch's gradients", async () => {
    const model = await e.readOnnxModel(fixturePath(name), { sizes: same[name] });
    const { inputs, outputs, cotangent, gradients } = reference(name);
    const names = Object.keys(gradients);
    expect(names.length).toBeGreaterThan(1);
    const params = model.values(names);
    const output = Object.keys(outputs)[0]!;
    await using program = await e.compile(
      ({ weights, inputs, cotangent }) => {
        const run = (weights: Record<string, e.Tensor>) => model.apply({ weights, inputs });
        const loss = (weights: Record<string, e.Tensor>) => e.sum(e.mul(run(weights)[output]!, cotangent));
        return { outputs: run(weights), gradients: e.grad(loss)(weights) };
      },
      {
        weights: params as Record<string, e.TensorSpec>,
        inputs: model.inputs,
        cotangent: like(cotangent, Object.values(model.inputs)[0]!),
      },
    );
    const found = await program.run({ weights: params, inputs, cotangent } as never);
    for (const [key, value] of Object.entries(outputs)) {
      expect.soft(worst((found.outputs as Record<string, e.HostTensor>)[key]!, value), key).toBeLessThan(1e-5);
    }
    // Some are zero but for rounding (a key's bias moves all scores alike): they are measured by the largest gradient.
    const largest = Math.max(...names.map((key) => magnitude(gradients[key]!)));
    for (const key of names) {
      const own = (found.gradients as Record<string, e.HostTensor>)[key]!;
      expect.soft(worst(own, gradients[key]!, largest / 100), key).toBeLessThan(1e-4);
    }
  });
});

/** Axes that are symbolic in the input, and of one size in both, are symbolic here too. */
function like({ dtype, shape }: e.HostTensor, input: e.TensorSpec): e.TensorSpec {
  return { dtype, shape: shape.map((size, i) => (typeof input.shape[i] === 'string' ? input.shape[i] : size)) };
}
