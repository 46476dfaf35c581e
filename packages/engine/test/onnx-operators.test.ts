import { expect, test } from 'vitest';
import * as e from '../src/index.js';
import { operatorFamilies } from '../src/onnx/import/table.js';
import { modelOf, operatorCases } from './onnx-operators.js';

test.each(operatorCases.map((one) => [`${one.op}${one.what ? ` (${one.what})` : ''}`, one] as const))(
  '%s gives what the runtime gives',
  async (_, one) => {
    const proto = modelOf(one);
    const feeds = Object.fromEntries(
      one.inputs.flatMap((tensor, i) => (tensor && !one.constants?.includes(i) ? [[`x${i}`, tensor] as const] : [])),
    );
    // The runtime is told nothing about outputs: it infers their types.
    for (const output of proto.graph.output) delete output.type;
    const session = await e.openOnnx(e.writeOnnx(proto));
    const expected = await session.run(feeds);
    await session.dispose();
    for (const output of proto.graph.output) {
      const { dtype } = expected[output.name]!;
      output.type = { tensorType: { elemType: e.onnxType[dtype] } };
    }
    const model = await e.readOnnxModel(e.writeOnnx(proto));
    await using program = await e.compile((inputs) => model.apply({ inputs }), model.inputs);
    const found = await program.run(feeds);
    for (const [name, { dtype, shape, data }] of Object.entries(expected)) {
      expect({ dtype: found[name]!.dtype, shape: [...found[name]!.shape] }).toEqual({ dtype, shape: [...shape] });
      const gaps = Array.from(data as Float32Array, (value, i) =>
        Math.abs(Number(value) - Number(found[name]!.data[i])),
      );
      const size = Math.max(1, ...Array.from(data as Float32Array, (value) => Math.abs(Number(value))));
      expect(Math.max(...gaps) / size, name).toBeLessThan(one.tolerance ?? 1e-5);
    }
  },
);

test('every operator of the table has a case here, or a test of its own', () => {
  const elsewhere = ['Constant', 'If', 'Swish', 'Upsample', 'com.microsoft.SimplifiedLayerNormalization'];
  const covered = new Set([...operatorCases.map(({ op }) => op), ...elsewhere]);
  const all = Object.values(operatorFamilies).flatMap((family) => Object.keys(family));
  expect(all.filter((op) => !covered.has(op))).toEqual([]);
});
