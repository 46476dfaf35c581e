import { linear } from './linear/linear.js';
import { prototype } from './metric/prototype.js';
import type { Method, MethodName } from './method.js';
import { full } from './peft/full.js';
import { lora } from './peft/lora.js';
import { tfidf } from './tfidf/tfidf.js';

/** Every way of learning a classifier, by name, in order of cost. */
export const methods: Readonly<Record<MethodName, Method<unknown>>> = {
  tfidf: tfidf as Method<unknown>,
  prototype: prototype as Method<unknown>,
  linear: linear as Method<unknown>,
  lora: lora as Method<unknown>,
  full: full as Method<unknown>,
};
