import { hostTensor } from '@fewtune/engine';
import { expect, test } from 'vitest';
import { sampleEpisode } from './episodes.js';
import { imageTask } from './image-episode.js';
import type { ImageSet } from './read-images.js';
import { episodeTurns, rotateImages, rotationClasses } from './rotations.js';

/** n images of 3 × 3 in which each value tells image and place. */
const numbered = (count: number) =>
  hostTensor(
    'float32',
    [count, 1, 3, 3],
    Array.from({ length: count * 9 }, (_, i) => 10 * Math.floor(i / 9) + (i % 9)),
  );

test('quarter turns are counter-clockwise, and four of them are none', () => {
  // 0 1 2      2 5 8
  // 3 4 5  ->  1 4 7
  // 6 7 8      0 3 6
  expect([...rotateImages(numbered(1), 1).data]).toEqual([2, 5, 8, 1, 4, 7, 0, 3, 6]);
  expect([...rotateImages(numbered(1), 2).data]).toEqual([8, 7, 6, 5, 4, 3, 2, 1, 0]);
  expect([...rotateImages(numbered(1), 3).data]).toEqual([6, 3, 0, 7, 4, 1, 8, 5, 2]);
  let turned = numbered(2);
  for (let i = 0; i < 4; i++) turned = rotateImages(turned, [1, -1]);
  expect(turned).toEqual(numbered(2));
});

test('rotation classes: four times as many, each image beside its turns', () => {
  const set: ImageSet = {
    images: numbered(3),
    labels: Int32Array.of(0, 1, 1),
    classes: ['a', 'b/c'],
    files: ['a/1.png', 'b/c/1.png', 'b/c/2.png'],
    skipped: [],
  };
  const { images, labels, classes, files } = rotationClasses(set);
  expect(classes).toEqual(['a', 'a@90', 'a@180', 'a@270', 'b/c', 'b/c@90', 'b/c@180', 'b/c@270']);
  expect([...labels]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]);
  expect(files[5]).toBe('b/c/1.png');
  const row = (index: number) => [...(images.data as Float32Array).subarray(9 * index, 9 * index + 9)];
  expect(images.shape).toEqual([12, 1, 3, 3]);
  expect(row(4)).toEqual([...(numbered(3).data as Float32Array).subarray(9, 18)]);
  expect(row(5)).toEqual([12, 15, 18, 11, 14, 17, 10, 13, 16]);
});

test('images that are not square are refused', () => {
  const wide = hostTensor('float32', [1, 1, 2, 3], new Float32Array(6));
  expect(() => rotateImages(wide, 1)).toThrow('square images; these are [1, 1, 2, 3]');
});

test('an episode as a task, and every way of it turned alike in support and queries', () => {
  const images = numbered(8);
  const episode = sampleEpisode({
    labels: Int32Array.of(0, 0, 0, 1, 1, 1, 2, 2),
    shape: { ways: 2, shots: 1, queries: 1 },
    seed: 3,
  });
  const { support, query } = imageTask(images, episode);
  expect(support.y).toEqual(hostTensor('int64', [2], [0, 1]));
  const firsts = (data: ArrayLike<number | bigint>) => [0, 1].map((i) => Number(data[9 * i]));
  expect(firsts(support.x.data)).toEqual([...episode.support].map((row) => 10 * row));
  const turned = imageTask(images, episode, { turns: [0, 2] });
  expect(firsts(turned.support.x.data)).toEqual([10 * episode.support[0]!, 10 * episode.support[1]! + 8]);
  expect(firsts(turned.query.x.data)).toEqual([10 * episode.query[0]!, 10 * episode.query[1]! + 8]);
  expect(query.x.shape).toEqual([2, 1, 3, 3]);
});

test('turns of an episode depend on seed and index alone, and all four occur', () => {
  expect(episodeTurns(5, 7, 3)).toEqual(episodeTurns(5, 7, 3));
  const counts = [0, 0, 0, 0];
  for (let index = 0; index < 400; index++) for (const turn of episodeTurns(5, 7, index)) counts[turn]!++;
  for (const count of counts) expect(Math.abs(count - 500)).toBeLessThan(100);
});
