import { type HostTensor, hostTensor } from '@fewtune/engine';
import { FewtuneError } from '../errors.js';
import { createRandom } from './random.js';
import type { ImageSet } from './read-images.js';

/**
 * Images turned counter-clockwise by quarter turns, without resampling.
 *
 * @param images float32 [n, channels, size, size]
 * @param turns quarter turns of each image, or of all
 * @throws FewtuneError OPTION_INVALID when the images are not square
 */
export function rotateImages(images: HostTensor, turns: number | ArrayLike<number>): HostTensor {
  const [count, channels, height, width] = images.shape as [number, number, number, number];
  if (images.shape.length !== 4 || height !== width) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `quarter turns need square images; these are [${images.shape.join(', ')}].`,
    );
  }
  const size = width;
  const values = images.data as Float32Array;
  const turned = new Float32Array(values.length);
  const last = size - 1;
  // Where the value comes from that stands at (row, column) after the turn.
  const sources = [
    (row: number, column: number) => row * size + column,
    (row: number, column: number) => column * size + last - row,
    (row: number, column: number) => (last - row) * size + last - column,
    (row: number, column: number) => (last - column) * size + row,
  ];
  for (let plane = 0; plane < count * channels; plane++) {
    const own = typeof turns === 'number' ? turns : turns[Math.floor(plane / channels)]!;
    const source = sources[((own % 4) + 4) % 4]!;
    const at = plane * size * size;
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        turned[at + row * size + column] = values[at + source(row, column)]!;
      }
    }
  }
  return hostTensor('float32', images.shape, turned);
}

/**
 * Four times the classes: each, turned by 0, 1, 2 and 3 quarter turns, is a class of its own, as the Omniglot protocol has
 * it (Santoro et al. 2016, arXiv:1605.06065; Vinyals et al. 2016). Class c turned by t is class 4 c + t, named `name@90`
 * and so on; the unturned keep their names. Split the classes first: a turned class of the test part is no new class to a
 * model that was trained on the unturned one.
 *
 * @throws FewtuneError OPTION_INVALID when the images are not square
 */
export function rotationClasses(set: ImageSet): ImageSet {
  const turned = [0, 1, 2, 3].map((turns) => rotateImages(set.images, turns).data as Float32Array);
  const [count, ...shape] = set.images.shape as [number, ...number[]];
  const each = turned[0]!.length / count;
  const images = new Float32Array(4 * turned[0]!.length);
  for (let row = 0; row < 4 * count; row++) {
    const from = Math.floor(row / 4);
    images.set(turned[row % 4]!.subarray(from * each, (from + 1) * each), row * each);
  }
  const nameOf = (name: string, turns: number) => (turns === 0 ? name : `${name}@${90 * turns}`);
  return {
    images: hostTensor('float32', [4 * count, ...shape], images),
    labels: Int32Array.from({ length: 4 * count }, (_, row) => 4 * set.labels[Math.floor(row / 4)]! + (row % 4)),
    classes: set.classes.flatMap((name) => [0, 1, 2, 3].map((turns) => nameOf(name, turns))),
    files: set.files.flatMap((file) => [file, file, file, file]),
    skipped: set.skipped,
  };
}

/**
 * The other way to use turns: the classes stay as they are, and in every episode each is turned by a random number of
 * quarter turns, support and queries alike. MAML's own Omniglot code does it so.
 *
 * @param index of the episode; the turns depend on `seed` and `index` alone
 * @returns [ways], 0 to 3
 */
export function episodeTurns(ways: number, seed: number, index: number): Int32Array {
  const random = createRandom(createRandom(seed).int(2 ** 32) ^ Math.imul(index + 1, 0x85ebca6b));
  return Int32Array.from({ length: ways }, () => random.int(4));
}
