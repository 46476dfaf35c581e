/** Settings of a training step that fits into memory: pure functions over a prediction. */

/**
 * The largest batch that fits, a halving of the wanted one.
 *
 * @param bytesOf what a step with a batch of so many rows needs
 * @returns undefined when not even one row fits
 */
export function fitBatchSize(
  bytesOf: (batchSize: number) => number,
  limit: number,
  wanted: number,
): number | undefined {
  for (let size = wanted; size >= 1; size = Math.floor(size / 2)) if (bytesOf(size) <= limit) return size;
  return undefined;
}

/**
 * How many layers, the lowest first, must compute their values a second time for a step to fit: as few as possible,
 * because each costs another forward pass of its own.
 *
 * @param bytesOf what a step with so many recomputed layers needs
 * @param layers  that are trained
 * @returns undefined when not even all of them are enough
 */
export function layersToRecompute(
  bytesOf: (recompute: number) => number,
  limit: number,
  layers: number,
): number | undefined {
  for (let count = 0; count <= layers; count++) if (bytesOf(count) <= limit) return count;
  return undefined;
}
