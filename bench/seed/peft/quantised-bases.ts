import { type Encoder, quantizeEncoder } from '@fewtune/models';

/** How a base is held: the same names as the option `base` of `lora`. */
export const baseKinds = ['float32', 'int8', 'int4'] as const;
export type BaseKind = (typeof baseKinds)[number];

export function baseOfKind(encoder: Encoder, kind: BaseKind): Encoder {
  return kind === 'float32' ? encoder : quantizeEncoder(encoder, { bits: kind === 'int8' ? 8 : 4 });
}
