import type { HostTensor, Named } from '@fewtune/engine';
import { type Encoder, fingerprint, SentenceEmbedder } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';
import { type Adapter, adaptEncoder, adaptedModules, applyAdapter, checkAdapter, mergeAdapter } from './adapter.js';
import { partOfAdapter } from './shared-part.js';

/**
 * The encoder with a share of an adapter's update in its weights: W + weight · (W' − W).
 *
 * @throws FewtuneError ADAPTER_MISMATCH; MODEL_UNSUPPORTED for an adapter that weights cannot hold, and for a share of DoRA
 */
export function mergeInto(encoder: Encoder, adapter: Adapter, weight = 1): Encoder {
  checkAdapter(encoder, adapter);
  const merged = adaptEncoder(encoder, shareOf(adapter, encoder.weights, weight));
  if (merged.addition && !encoder.addition) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${adapter.method} computes more than the encoder's weights can hold, so it cannot be merged. Keep it beside: adaptEncoder.`,
    );
  }
  return merged;
}

/**
 * Takes an adapter out of weights that it was merged into: what `mergeInto` did, backwards. The difference to the base is
 * what rounding leaves; `largestDifference` measures it.
 *
 * @param merged the encoder with the adapter in its weights, as `mergeInto` gave it
 * @param weight the share that was merged
 * @throws FewtuneError ADAPTER_MISMATCH by names and sizes; MODEL_UNSUPPORTED for DoRA, whole weights, and factors of 0,
 *   which leave nothing to divide by: load the base again
 */
export function unmergeFrom(merged: Encoder, adapter: Adapter, weight = 1): Encoder {
  const refuse = (what: string) =>
    new FewtuneError(
      'MODEL_UNSUPPORTED',
      `the adapter cannot be taken out of merged weights: ${what}. Load the base again.`,
    );
  const whole = Object.keys(adapter.saved ?? {}).find((name) => merged.weights[name]);
  if (whole) throw refuse(`it put ${whole} in as a whole, and the base's own is not in it`);
  const weights = mergeAdapter(merged.weights, inverseOf(adapter, merged.weights, weight, refuse));
  const base = { ...merged, weights };
  return { ...base, fingerprint: fingerprint(base) };
}

function inverseOf(
  adapter: Adapter,
  weights: Named<HostTensor>,
  weight: number,
  refuse: (what: string) => FewtuneError,
): Adapter {
  if (adapter.method !== 'ia3') {
    const part = partOfAdapter(adapter, weights, -weight);
    if (!part) throw refuse('DoRA divides by norms that are gone');
    return part;
  }
  // (IA)³ multiplies: the way back divides.
  const part = shareOf(adapter, weights, weight);
  const inverse = Object.entries(part.weights).map(([name, tensor]) => {
    if ((tensor.data as Float32Array).some((l) => Math.abs(l) < 1e-6)) throw refuse(`${name} has a factor of 0`);
    return [name, { ...tensor, data: (tensor.data as Float32Array).map((l) => 1 / l) }] as const;
  });
  return { ...adapter, weights: Object.fromEntries(inverse) };
}

/**
 * An adapter of which a share counts.
 *
 * @throws FewtuneError MODEL_UNSUPPORTED for DoRA with another share than 1, OPTION_INVALID
 */
export function shareOf(adapter: Adapter, weights: Named<HostTensor>, weight: number): Adapter {
  if (!Number.isFinite(weight)) throw new FewtuneError('OPTION_INVALID', `a weight of ${weight}; give a number.`);
  const part = partOfAdapter(adapter, weights, weight);
  if (part) return part;
  throw new FewtuneError('MODEL_UNSUPPORTED', `${weight} of a DoRA adapter is none; merge it with the weight 1.`);
}

/** The encoder with an adapter beside its weights, computed along: what merging is measured against. */
export function besideEncoder(encoder: Encoder, adapter: Adapter): Encoder {
  checkAdapter(encoder, adapter);
  const used = { ...adapter.weights, ...adapter.saved };
  const own = (traced: Readonly<Record<string, unknown>>) =>
    Object.fromEntries(Object.keys(used).map((name) => [name, traced[name]])) as Parameters<typeof applyAdapter>[2];
  const tables = adaptedModules(adapter).some((module) => adapter.weights[`${module}.lora_embedding_A`]);
  // Tables are read, not multiplied by: their update is merged here too.
  const weights = tables ? adaptEncoder(encoder, onlyTables(adapter)).weights : encoder.weights;
  return {
    ...encoder,
    weights: { ...weights, ...used },
    addition: {
      id: `beside ${encoder.fingerprint}`,
      linear: (traced) => applyAdapter(adapter, {}, own(traced)).linear,
    },
  };
}

function onlyTables(adapter: Adapter): Adapter {
  const { saved: _, ...rest } = adapter;
  const tables = Object.entries(adapter.weights).filter(([name]) => /\.lora_embedding_[AB]$/.test(name));
  return { ...rest, weights: Object.fromEntries(tables) };
}

/** What merging did to the sentence vectors of some texts. */
export interface EmbeddingReport {
  readonly texts: number;
  /** Largest |difference| of a number between the adapter beside the weights and in them: what merging costs. */
  readonly largestDifference: number;
  /** The same between the encoder with the adapter and without: what the adapter does. */
  readonly largestChange: number;
}

/**
 * Measures a merge on texts.
 *
 * @param merged `mergeInto(encoder, adapter, weight)`
 * @throws FewtuneError ROWS_EMPTY
 */
export async function measureMerge(
  encoder: Encoder,
  adapter: Adapter,
  merged: Encoder,
  texts: readonly string[],
  { weight = 1, threads, signal }: { weight?: number; threads?: number; signal?: AbortSignal } = {},
): Promise<EmbeddingReport> {
  if (texts.length === 0) throw new FewtuneError('ROWS_EMPTY', 'there is no text to measure the merge on.');
  const vectors = async (of: Encoder) => {
    const embedder = await SentenceEmbedder.create(of, threads === undefined ? {} : { threads });
    return embedder.embed(texts, { ...(signal && { signal }) }).finally(() => embedder.dispose());
  };
  const before = await vectors(besideEncoder(encoder, shareOf(adapter, encoder.weights, weight)));
  const after = await vectors(merged);
  return {
    texts: texts.length,
    largestDifference: largestDifference(before, after),
    largestChange: largestDifference(await vectors(encoder), after),
  };
}

/** Largest |a − b|; infinite where the lengths differ. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let most = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
}

/** Largest difference of a weight that both have. */
export function largestWeightDifference(a: Named<HostTensor>, b: Named<HostTensor>): number {
  const shared = Object.keys(a).filter((name) => b[name]);
  return Math.max(
    0,
    ...shared.map((name) => largestDifference(a[name]!.data as Float32Array, b[name]!.data as Float32Array)),
  );
}
