import fc from 'fast-check';
import { expect, test } from 'vitest';
import { episodesFromJson, episodesToJson } from './episode-json.js';
import { type Episode, episodeSampler } from './episodes.js';

const labels = Int32Array.from({ length: 30 }, (_, i) => i % 5);

test('episodes survive JSON', () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 0, max: 3 }), (seed, queries) => {
      const shape = { ways: { min: 1, max: 5 }, shots: { min: 1, max: 3 }, queries };
      const drawn = [...episodeSampler({ labels, shape, seed }).episodes(4)];
      expect(episodesFromJson(episodesToJson(drawn, labels.length), labels)).toEqual(drawn);
    }),
  );
});

const good = { classes: [0, 1], support: [0, 1], query: [5, 6] };
const written = (change: object, rows = 30) => {
  const { classes, support, query } = { ...good, ...change };
  const episode: Episode = {
    classes: Int32Array.from(classes),
    support: Int32Array.from(support),
    query: Int32Array.from(query),
  };
  return episodesToJson([episode], rows);
};

test.each([
  [written({ support: [0, 31] }), /row 31 is out of range, the source has 30 rows/],
  [written({ query: [0, 6] }), /row 0 is in both support and query/],
  [written({ support: [0, 0] }), /row 0 is twice in support/],
  [written({ support: [0, 1, 5] }), /3 support rows cannot be shared by 2 ways/],
  [written({ query: [6, 5] }), /query row 6 has class 1, but stands where class 0 belongs/],
  [written({ classes: [0, 0] }), /class twice/],
  [written({}, 29), /drawn from 29 rows, but this source has 30/],
  [written({ support: [-1, 1] }), /episodes\.0\.support\.0/],
  ['{"format":"other"}', /format/],
  ['{', /not JSON/],
])('episodes that do not fit are refused: %s', (json, message) => {
  expect(episodesFromJson(written({}), labels)).toHaveLength(1);
  expect(() => episodesFromJson(json, labels)).toThrow(
    expect.objectContaining({ code: 'OPTION_INVALID', message: expect.stringMatching(message) }),
  );
});
