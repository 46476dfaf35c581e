import { expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { classDistances, unitRows } from '../../evaluation/distances.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits } from '../linear/logistic.js';
import { classMeans } from './class-means.js';
import { choleskySolveRows, shrunkCholesky, withinClassCovariance } from './covariance.js';
import { intoSubspace, subspacePrototypeHead, supportSubspace } from './support-subspace.js';

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
  const space = supportSubspace(support, 1);
  expect(space.rank).toBe(classes - 1);
  const row = (r: number) => space.map.subarray(r * hidden, (r + 1) * hidden);
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

/** ‖x_i − m_c‖² under a metric [hidden, hidden]. */
function squared(i: number, c: number, metric: (a: number, b: number) => number): number {
  const means = classMeans(support, false);
  const d = Array.from({ length: hidden }, (_, j) => queries.features[i * hidden + j]! - means[c * hidden + j]!);
  return d.reduce((sum, da, a) => sum + da * d.reduce((inner, db, b) => inner + metric(a, b) * db, 0), 0);
}

test('without whitening the head ranks classes by their distance in the whole space', () => {
  const logits = headLogits(subspacePrototypeHead(support, 1), queries.features);
  for (let i = 0; i < 20; i++) {
    const distances = Array.from({ length: classes }, (_, c) => squared(i, c, (a, b) => (a === b ? 1 : 0)));
    // Both fall short of −‖x − m_c‖² by what is the same for every class.
    for (let c = 1; c < classes; c++) {
      expect(logits[i * classes + c]! - logits[i * classes]!).toBeCloseTo(distances[0]! - distances[c]!, 4);
    }
  }
});

test('with it, by the Mahalanobis distance of the shrunk covariance', () => {
  const shrinkage = 0.6;
  const lower = shrunkCholesky(withinClassCovariance(support), hidden, shrinkage);
  const identity = Float32Array.from({ length: hidden * hidden }, (_, i) => (i % (hidden + 1) === 0 ? 1 : 0));
  const inverse = choleskySolveRows(lower, identity, hidden);
  const logits = headLogits(subspacePrototypeHead(support, shrinkage), queries.features);
  for (let i = 0; i < 20; i++) {
    const distances = Array.from({ length: classes }, (_, c) => squared(i, c, (a, b) => inverse[a * hidden + b]!));
    for (let c = 1; c < classes; c++) {
      const [found, wanted] = [logits[i * classes + c]! - logits[i * classes]!, distances[0]! - distances[c]!];
      expect(Math.abs(found - wanted)).toBeLessThan(1e-4 * Math.max(...distances));
    }
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

test('with a single row in every class nothing is whitened; a shrinkage out of range is refused', () => {
  const single = cloud(1, 1, 4);
  expect([...supportSubspace(single).map]).toEqual([...supportSubspace(single, 1).map]);
  for (const shrinkage of [0, 1.5, Number.NaN]) {
    expect(() => supportSubspace(support, shrinkage)).toThrow(`above 0 to 1, not ${shrinkage}`);
    expect(() => subspacePrototypeHead(support, shrinkage)).toThrow(`above 0 to 1, not ${shrinkage}`);
  }
});

test('one wrong label in five costs it more than the class means alone: it believes labels', () => {
  let [whitened, plain] = [0, 0];
  for (let seed = 0; seed < 30; seed++) {
    const shown = cloud(5, seed, 100 + seed);
    const labels = shown.labels.map((label, i) => (i % 5 === 0 ? (label + 1) % classes : label));
    const asked = cloud(20, seed, 200 + seed);
    const right = (shrinkage: number) => {
      const head = subspacePrototypeHead({ ...shown, labels }, shrinkage);
      return accuracy(argmaxRows(headLogits(head, asked.features), classes), asked.labels) / 30;
    };
    whitened += right(0.2);
    plain += right(1);
  }
  expect(whitened).toBeLessThan(plain);
});
