import type { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import { type Adapt, type AdaptationKind, parseAdaptation } from './adaptation.js';
import { bitfitKind } from './bitfit.js';
import { bottleneckKind } from './bottleneck.js';
import { fullKind } from './full.js';
import { ia3Kind } from './ia3.js';
import { loraKind } from './lora.js';
import { loreftKind } from './loreft.js';
import { near } from './near-names.js';
import { prefixKind } from './prefix.js';
import { promptKind } from './prompt.js';
import { veraKind } from './vera.js';

/** Every way of fine-tuning by its name; a new one is a file and a line here. */
export const adaptations = {
  lora: loraKind,
  ia3: ia3Kind,
  vera: veraKind,
  bitfit: bitfitKind,
  full: fullKind,
  bottleneck: bottleneckKind,
  loreft: loreftKind,
  prefix: prefixKind,
  prompt: promptKind,
} as const satisfies Record<string, AdaptationKind<z.ZodType>>;

export type AdaptationName = keyof typeof adaptations;
export type AdaptationOptions<Name extends AdaptationName> = z.input<(typeof adaptations)[Name]['schema']>;

/**
 * A way of fine-tuning by its name, with its options: what `tune` is given.
 *
 * @throws FewtuneError OPTION_INVALID
 * @example
 * const adapt = adaptationOf('lora', { rank: 16, targets: ['query', 'value'] });
 */
export function adaptationOf<Name extends AdaptationName>(name: Name, options?: AdaptationOptions<Name>): Adapt {
  if (!Object.hasOwn(adaptations, name)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `no way of fine-tuning is named "${name}"${near(name, Object.keys(adaptations))}.`,
    );
  }
  const { schema, adapt } = adaptations[name] as unknown as AdaptationKind<z.ZodType>;
  return adapt(parseAdaptation(name, schema, options ?? {}));
}
