import type { HostTensor, Named, Tensor } from '@fewtune/engine';
import type { EncodeHooks, Encoder, LinearFn } from '@fewtune/models';
import type { Adaptation } from './adaptation.js';
import { type AddedAdapter, additionOf, longestText } from './additions.js';

/** What of an adaptation is a kind's own. */
export interface AddedKind {
  /** What is trained, beside weights of the encoder that are trained whole. */
  readonly params: Named<HostTensor>;
  readonly saved?: Named<HostTensor>;
  /** What `encode` takes while it is trained. */
  functions(params: Named<Tensor>): { readonly linear?: LinearFn; readonly hooks?: EncodeHooks };
  /** What was trained, as it is used. */
  adapter(params: Named<HostTensor>): AddedAdapter;
}

/** Training of an adapter that is computed along with the encoder, whose weights stay as they are. */
export function addedAdaptation(
  { config, weights, tokenizer }: Pick<Encoder, 'config' | 'weights' | 'tokenizer'>,
  ids: readonly (readonly number[])[],
  { params, saved = {}, functions, adapter }: AddedKind,
): Adaptation {
  const part = <T>(all: Named<T>, names: object) =>
    Object.fromEntries(Object.keys(names).map((name) => [name, all[name]!]));
  const finished = (trained: Named<HostTensor>) => ({
    ...adapter(part(trained, params)),
    ...(Object.keys(saved).length > 0 && { saved: part(trained, saved) }),
  });
  const addition = additionOf(adapter(params));
  const longest = longestText(config, addition.virtual);
  const { linear, hooks } = addition;
  return {
    params: { ...params, ...saved },
    frozen: Object.fromEntries(Object.entries(weights).filter(([name]) => !saved[name])),
    ids: ids.map((row) => (row.length > longest ? [...row.slice(0, longest - 1), row.at(-1)!] : row)),
    padId: tokenizer.padId,
    ...(linear && { linear: (own, frozen) => functions({ ...frozen, ...own }).linear! }),
    ...(hooks && { hooks: (own, frozen) => functions({ ...frozen, ...own }).hooks! }),
    addition,
    merge: (trained) => {
      const { weights: added, saved: whole } = finished(trained);
      return { ...weights, ...whole, ...added };
    },
    adapter: finished,
  };
}
