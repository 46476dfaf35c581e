import { type HostTensor, hostTensor } from '@fewtune/engine';
import { type Episode, shapeOf, wayLabels } from './episodes.js';
import { rotateImages } from './rotations.js';

/** Support or query images of an episode: x float32 [rows, channels, height, width], y int64 [rows], the way of each. */
export interface ImageExamples {
  readonly x: HostTensor;
  readonly y: HostTensor;
}

/**
 * The images of an episode, as a task for `Maml`.
 *
 * @param images float32 [n, channels, height, width], the source the episode was drawn from
 * @param options.turns [ways], quarter turns of each way (see `episodeTurns`); none when left out
 * @throws FewtuneError OPTION_INVALID when images to be turned are not square
 */
export function imageTask(
  images: HostTensor,
  episode: Episode,
  { turns }: { turns?: ArrayLike<number> } = {},
): { support: ImageExamples; query: ImageExamples } {
  const { ways, shots, queries } = shapeOf(episode);
  const part = (rows: Int32Array, perWay: number): ImageExamples => {
    const labels = wayLabels(ways, perWay);
    const x = takeRows(images, rows);
    return {
      x: turns
        ? rotateImages(
            x,
            labels.map((way) => turns[way]!),
          )
        : x,
      y: hostTensor('int64', [rows.length], Array.from(labels)),
    };
  };
  return { support: part(episode.support, shots), query: part(episode.query, queries) };
}

/** Rows of a float32 tensor [n, ...], copied in the order asked for. */
export function takeRows(tensor: HostTensor, rows: ArrayLike<number>): HostTensor {
  const [count, ...shape] = tensor.shape as [number, ...number[]];
  const values = tensor.data as Float32Array;
  const each = values.length / count;
  const taken = new Float32Array(rows.length * each);
  for (let i = 0; i < rows.length; i++) taken.set(values.subarray(rows[i]! * each, (rows[i]! + 1) * each), i * each);
  return hostTensor('float32', [rows.length, ...shape], taken);
}
