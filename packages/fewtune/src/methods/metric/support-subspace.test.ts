import { expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { classDistances, unitRows } from '../../evaluation/distances.js';
import { argmaxRows } from '../../evaluation/metrics.js';
import { headLogits } from '../linear/logistic.js';
import { classMeans } from './class-means.js';
import { euclideanPrototypeHead, intoSubspace, supportSubspace } from './support-subspace.js';

const [hidden, classes] = [20, 6];

/** Unit rows about a centre of each class; centres are those of `seed`, the noise is of `draw`. */
function cloud(perClass: number, seed: number, draw: number, noise = 0.25) {
  const [centreRandom, random] = [createRandom(seed), createRandom(draw)];
  const centres = Array.from({ length: classes * hidden }, () => centreRandom.gaussian());
  const labels = Int32Array.from({ length: classes * perClass }, (_, i) => Math.floor(i / perClass));
  const rows = [...labels].flatMap((label) =>
    Array.from({ length: hidden }, (_, j) => centres[label * hidden + j]! + 4 * noise * random.gaussian()),
  );
  return { hidden, classes, features: unitRows(Float32Array.from(rows), hidden), labels };
}
const support = cloud(5, 1, 2);
const queries = cloud(30, 1, 3);

test('the basis is orthonormal, and holds the differences of the class means whole', () => {
  const space = supportSubspace(support);
  expect(space.rank).toBe(classes - 1);
  const row = (r: number) => space.basis.subarray(r * hidden, (r + 1) * hidden);
  for (let a = 0; a < space.rank; a++) {
    for (let b = 0; b < space.rank; b++) {
      const product = row(a).reduce((sum, value, j) => sum + value * row(b)[j]!, 0);
      expect(product).toBeCloseTo(a === b ? 1 : 0, 6);
    }
  }
  const means = classMeans(support, false);
  const inside = intoSubspace(space, means);
  const distance = (x: Float32Array, width: number, a: number, b: number) =>
    Math.hypot(...Array.from({ length: width }, (_, j) => x[a * width + j]! - x[b * width + j]!));
  for (let c = 1; c < classes; c++) {
    expect(distance(inside, space.rank, 0, c)).toBeCloseTo(distance(means, hidden, 0, c), 5);
  }
});

test('the nearest mean is the same in the subspace and in the whole space', () => {
  const space = supportSubspace(support);
  const inside = { ...support, hidden: space.rank, features: intoSubspace(space, support.features) };
  const whole = argmaxRows(headLogits(euclideanPrototypeHead(support), queries.features), classes);
  const within = headLogits(euclideanPrototypeHead(inside), intoSubspace(space, queries.features));
  expect([...argmaxRows(within, classes)]).toEqual([...whole]);
});

test('the Euclidean head ranks classes by distance', () => {
  const means = classMeans(support, false);
  const logits = headLogits(euclideanPrototypeHead(support), queries.features);
  for (let i = 0; i < 10; i++) {
    const squares = (c: number) =>
      Array.from(
        { length: hidden },
        (_, j) => (queries.features[i * hidden + j]! - means[c * hidden + j]!) ** 2,
      ).reduce((a, b) => a + b, 0);
    // logit_c = ‖x‖² − ‖x − m_c‖², and rows have length 1.
    for (let c = 0; c < classes; c++) expect(logits[i * classes + c]).toBeCloseTo(1 - squares(c), 5);
  }
});

test('queries lie nearer their class and farther from others than in the whole space', () => {
  const space = supportSubspace(support);
  const before = classDistances(queries);
  const after = classDistances({ ...queries, hidden: space.rank, features: intoSubspace(space, queries.features) });
  expect(after.intra).toBeLessThan(before.intra);
  expect(after.inter).toBeGreaterThan(before.inter);
});

test('means that coincide, or lie on a line, give as many directions as there are', () => {
  const line = {
    hidden: 3,
    classes: 3,
    features: Float32Array.of(0, 1, 0, 0, 2, 0, 0, 4, 0),
    labels: Int32Array.of(0, 1, 2),
  };
  expect(supportSubspace(line).rank).toBe(1);
  const one = { ...line, features: new Float32Array(9).fill(1) };
  expect(supportSubspace(one).rank).toBe(0);
});
