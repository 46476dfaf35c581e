import type { EmitContext } from '../tensor.js';

/**
 * Writes a convolution with groups. ONNX Runtime's WebGPU kernels (1.30) give wrong numbers for some group sizes, as
 * comparing with the CPU found: those are written as one convolution a group.
 *
 * @param inputs x [n, in, ...], w, and bias [out] if any
 * @param per    channels of a group
 */
export function emitGrouped(
  context: EmitContext,
  type: 'Conv' | 'ConvTranspose',
  inputs: readonly string[],
  attributes: Readonly<Record<string, number | string | readonly number[]>> & { group: number },
  per: { in: number; out: number },
): readonly string[] {
  const { group } = attributes;
  const wrong = type === 'Conv' ? per.out > 4 && per.out % 4 !== 0 : per.out === 1 && per.in > 1;
  if (context.backend !== 'webgpu' || group === 1 || !wrong) return context.node(type, inputs, attributes);
  const parts = inputs.map((input, i) =>
    context.node('Split', [input], { axis: i === 0 ? 1 : 0, num_outputs: group }, { outputs: group }),
  );
  const single = { ...attributes, group: 1 };
  const results = Array.from({ length: group }, (_, g) =>
    context.node(
      type,
      parts.map((part) => part[g]!),
      single,
    ),
  );
  return context.node('Concat', results.flat(), { axis: 1 });
}
