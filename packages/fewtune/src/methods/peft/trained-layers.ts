/** Layers are counted from 0; what is below them (embeddings, what all layers share) stands at -1. */

/** The layer that a weight belongs to; undefined when it is above all, as a pooler or a head is. */
export function layerOf(name: string): number | undefined {
  const layer = /(?:^|\.)layers?\.(\d+)\./.exec(name)?.[1];
  if (layer !== undefined) return Number(layer);
  return /^(pooler|classifier)\./.test(name) ? undefined : -1;
}

/**
 * The lowest layer with a trained weight: below it nothing needs a gradient.
 *
 * @param names of trained weights
 * @returns -1 when embeddings or something that all layers share is trained; `layers` when nothing of the encoder is
 */
export function lowestTrained(names: Iterable<string>, layers: number): number {
  return [...names].reduce((lowest, name) => Math.min(lowest, layerOf(name) ?? layers), layers);
}

/**
 * Gradual unfreezing (Howard & Ruder 2018, section 3.3, arXiv:1801.06146): the top layer first, one more each epoch, the
 * embeddings last.
 *
 * @returns the lowest layer that is trained in each epoch
 */
export const gradually = (epochs: number, layers: number, lowest = -1): number[] =>
  Array.from({ length: epochs }, (_, epoch) => Math.max(lowest, layers - 1 - epoch));

/**
 * After how many layers states are best kept: as high as possible, for as many epochs as possible, the first of which
 * computes them. An epoch that trains a lower layer cannot use them.
 *
 * @param lowest the lowest trained layer of each epoch
 * @returns 0 when nothing is saved
 */
export function cachedLayers(lowest: readonly number[]): number {
  const saved = (layers: number) => layers * (lowest.filter((trained) => trained >= layers).length - 1);
  return lowest.reduce((best, layers) => (saved(layers) > saved(best) ? layers : best), 0);
}

/** What an epoch trains, and what it is given. */
export interface Stage {
  /** The lowest layer that is trained. */
  readonly lowest: number;
  /** Batches hold the states after so many layers; 0: tokens. */
  readonly from: number;
}

/**
 * The stages of a run, one an epoch.
 *
 * @param trained names of all weights that are trained in the end
 * @param cached  whether states may be kept
 */
export function stagesOf(
  trained: Iterable<string>,
  layers: number,
  { epochs, unfreeze, cached }: { epochs: number; unfreeze: 'all' | 'gradual'; cached: boolean },
): Stage[] {
  const bottom = lowestTrained(trained, layers);
  const lowest = unfreeze === 'gradual' ? gradually(epochs, layers, bottom) : new Array<number>(epochs).fill(bottom);
  const from = cached ? cachedLayers(lowest) : 0;
  return lowest.map((own) => ({ lowest: own, from: own >= from ? from : 0 }));
}
