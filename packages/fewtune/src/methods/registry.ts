import { FewtuneError } from '../errors.js';
import { linear } from './linear/linear.js';
import { maml } from './meta/maml-method.js';
import type { Method, MethodName } from './method.js';
import { prototype } from './metric/prototype.js';
import { bitfit } from './peft/bitfit.js';
import { bottleneck } from './peft/bottleneck.js';
import { full } from './peft/full.js';
import { ia3 } from './peft/ia3.js';
import { lora } from './peft/lora.js';
import { loreft } from './peft/loreft.js';
import { prefix } from './peft/prefix.js';
import { prompt } from './peft/prompt.js';
import { vera } from './peft/vera.js';
import { tfidf } from './tfidf/tfidf.js';

/** Every method by its name; a new one is a folder and a line here. */
export const methods: Readonly<Record<MethodName, Method<unknown>>> = {
  tfidf,
  prototype,
  linear,
  maml,
  lora,
  full,
  ia3,
  bitfit,
  vera,
  bottleneck,
  loreft,
  prefix,
  prompt,
};

/**
 * The method's options with its defaults filled in.
 * @throws FewtuneError OPTION_INVALID naming each option that is wrong
 */
export function parseOptions(name: MethodName, options: Readonly<Record<string, unknown>> = {}): unknown {
  const found = methods[name].schema.safeParse(options);
  if (found.success) return found.data;
  const wrong = found.error.issues.map(({ path, message }) =>
    path.length > 0 ? `${path.join('.')}: ${message}` : message,
  );
  const known = Object.entries(methods[name].defaults as object).map(([option, value]) => `${option}=${value}`);
  throw new FewtuneError(
    'OPTION_INVALID',
    `method ${name}: ${wrong.join('; ')}. Its options, with their defaults: ${known.join(', ')}.`,
    { cause: found.error },
  );
}
