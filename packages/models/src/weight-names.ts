import type { HostTensor } from '@fewtune/engine';

/** Task checkpoints (BertForMaskedLM, …) put the encoder under one of these. */
const prefix = /^(bert|roberta|mpnet|distilbert)\./;

/** What `encode` reads: no pooler, no task head, no stored position indices. */
const encoderWeight = /^(embeddings|encoder|transformer)\.(?!position_ids)/;

/** Whether a tensor of the checkpoint belongs to the encoder. */
export function isEncoderWeight(name: string): boolean {
  return encoderWeight.test(name.replace(prefix, ''));
}

/** The weight's name without the task prefix; TensorFlow-born checkpoints call a norm's weights gamma and beta. */
export function nameInEncoder(name: string): string {
  return name
    .replace(prefix, '')
    .replace(/LayerNorm\.gamma$/, 'LayerNorm.weight')
    .replace(/LayerNorm\.beta$/, 'LayerNorm.bias');
}

/** float16 to float32; anything else as it is. */
export function widenFloat16(tensor: HostTensor): HostTensor {
  if (tensor.dtype !== 'float16') return tensor;
  const halves = tensor.data as Uint16Array;
  const data = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) data[i] = fromHalf(halves[i]!);
  return { dtype: 'float32', shape: tensor.shape, data };
}

/** IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
