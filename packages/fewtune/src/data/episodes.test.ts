import fc from 'fast-check';
import { expect, test } from 'vitest';
import { episodeSampler, sampleEpisode, shapeOf, wayLabels } from './episodes.js';

/** Labels of 4 to 8 classes of 6 to 12 rows, mixed, with some rows left out. */
const labelled = fc
  .array(fc.integer({ min: 6, max: 12 }), { minLength: 4, maxLength: 8 })
  .chain((sizes) => {
    const all = [...sizes.flatMap((size, c) => Array<number>(size).fill(c)), -1, -1];
    return fc.shuffledSubarray(all, { minLength: all.length });
  })
  .map((labels) => Int32Array.from(labels));
const range = (min: number, max: number) =>
  fc.oneof(
    fc.integer({ min, max }),
    fc
      .tuple(fc.integer({ min, max }), fc.integer({ min, max }))
      .map(([a, b]) => ({ min: Math.min(a, b), max: Math.max(a, b) })),
  );
const shapes = fc.record({ ways: range(1, 4), shots: range(1, 3), queries: range(0, 3) });
const within = (value: number, of: number | { min: number; max: number }) =>
  typeof of === 'number' ? value === of : value >= of.min && value <= of.max;

test('an episode is balanced, holds no row twice, and its rows belong to their way', () => {
  fc.assert(
    fc.property(labelled, shapes, fc.integer(), fc.nat(), (labels, shape, seed, index) => {
      const episode = sampleEpisode({ labels, shape, seed }, index);
      const { ways, shots, queries } = shapeOf(episode);
      expect([within(ways, shape.ways), within(shots, shape.shots), within(queries, shape.queries)]).toEqual([
        true,
        true,
        true,
      ]);
      expect(new Set(episode.classes).size).toBe(ways);
      expect(new Set([...episode.support, ...episode.query]).size).toBe(ways * (shots + queries));
      const classOf = (way: number) => episode.classes[way]!;
      expect(episode.support.map((row) => labels[row]!)).toEqual(wayLabels(ways, shots).map(classOf));
      expect(episode.query.map((row) => labels[row]!)).toEqual(wayLabels(ways, queries).map(classOf));
    }),
  );
});

test('episode i depends on seed and i alone: any order, batch or start gives the same', () => {
  fc.assert(
    fc.property(labelled, shapes, fc.integer(), fc.nat({ max: 50 }), (labels, shape, seed, from) => {
      const sampler = episodeSampler({ labels, shape, seed });
      const forward = [...sampler.episodes(6, from * 3)];
      const backward = [5, 4, 3, 2, 1, 0].map((i) => episodeSampler({ labels, shape, seed }).episode(from * 3 + i));
      expect(backward.reverse()).toEqual(forward);
      expect([...sampler.batches(3, 2, from)].flat()).toEqual(forward);
    }),
  );
});

test('episodes differ from index to index and from seed to seed, and every class and row gets its turn', () => {
  const labels = Int32Array.from({ length: 400 }, (_, i) => i % 20);
  const shape = { ways: 5, shots: 2, queries: 3 };
  const first = [...episodeSampler({ labels, shape, seed: 1 }).episodes(400)];
  const keys = first.map(({ support }) => support.join());
  expect(new Set(keys).size).toBe(400);
  const other = [...episodeSampler({ labels, shape, seed: 2 }).episodes(400)];
  expect(other.filter(({ support }) => keys.includes(support.join()))).toEqual([]);
  // 400 episodes of 5 of 20 classes: 100 expected for each, standard deviation 8.7; 5 deviations either way.
  const turns = new Int32Array(20);
  for (const { classes } of first) for (const label of classes) turns[label]!++;
  expect(Math.min(...turns)).toBeGreaterThan(56);
  expect(Math.max(...turns)).toBeLessThan(144);
  // Each row is expected 25 times; a row that is never drawn has probability e^-25.
  expect(new Set(first.flatMap(({ support, query }) => [...support, ...query])).size).toBe(400);
});

test('only the classes given are drawn from', () => {
  const labels = Int32Array.from({ length: 60 }, (_, i) => i % 6);
  const sampler = episodeSampler({ labels, classes: [1, 4], shape: { ways: 2, shots: 1, queries: 1 }, seed: 3 });
  for (const { classes } of sampler.episodes(10)) expect([...classes].sort()).toEqual([1, 4]);
});

test('what cannot be drawn is refused before drawing, with what would fit', () => {
  const labels = Int32Array.from([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
  const classNames = ['refund', 'lost card', 'greeting'];
  const sampler = (ways: number, shots: number | { min: number; max: number }, queries: number) => () =>
    episodeSampler({ labels, classNames, shape: { ways, shots, queries }, seed: 0 });
  expect(sampler(2, 3, 2)).toThrow(
    expect.objectContaining({
      code: 'CLASS_TOO_SMALL',
      message:
        '3 shots + 2 queries need 5 examples of each class, but 1 of 3 classes have fewer: "lost card" (3). Every class ' +
        'has at least 3: ask for shots + queries <= 3 (say 2 and 1), add examples, or leave these classes out.',
    }),
  );
  expect(sampler(4, 1, 1)).toThrow(
    expect.objectContaining({
      code: 'OPTION_INVALID',
      message: 'episodes of 4 ways need 4 classes, but there are 3. Ask for at most 3 ways, or add classes.',
    }),
  );
  expect(sampler(2, { min: 3, max: 1 }, 1)).toThrow(/min 3 is larger than max 1/);
  expect(sampler(0, 1, 1)).toThrow(/ways: 0 is not a whole number of at least 1/);
  expect(sampler(2, 1.5, 1)).toThrow(/shots: 1.5/);
  expect(() => sampleEpisode({ labels, shape: { ways: 2, shots: 1, queries: 1 }, seed: Number.NaN })).toThrow(/seed/);
  expect(() => sampleEpisode({ labels, classes: [0, 0], shape: { ways: 1, shots: 1, queries: 1 }, seed: 0 })).toThrow(
    /twice/,
  );
});
