import { readFileSync } from 'node:fs';
import {
  compile,
  gather,
  type HostTensor,
  hostTensor,
  mul,
  type Named,
  normals,
  sum,
  type Tensor,
  valueAndGrad,
} from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { riseAlong } from '../meta/along-gradient.fixture.js';
import { dimensionWeights, prototypeShares } from './episode-scores.js';
import { episodeLoss, type MetricLossOptions, queryScores } from './metric-loss.js';
import { answersOf, episodeFeeds } from './metric-task.js';
import { unitRows } from './unit-rows.js';

/** Made by metric-episodes.py beside it, with PyTorch in float64, and easyfsl where it has the method. */
const fixture = JSON.parse(
  readFileSync(new URL('../../../test/fixtures/metric-episodes.json', import.meta.url), 'utf8'),
) as {
  supportWays: number[];
  queryWays: number[];
  shapes: Record<string, number[]>;
  values: Record<string, number[]>;
  expected: Record<string, { scores: number[]; loss: number; gradient: Record<string, number[]> }>;
};

const plain: MetricLossOptions = {
  head: 'prototype',
  metric: 'euclidean',
  scale: 1,
  learnScale: false,
  attention: false,
  dimensionWeights: false,
  viewContrast: 0,
  viewTemperature: 0.5,
  correlation: 0,
  relationHidden: 5,
  seed: 7,
};

const cases: Record<string, Partial<MetricLossOptions>> = {
  euclidean: { learnScale: true },
  cosine: { metric: 'cosine', learnScale: true },
  mahalanobis: { metric: 'mahalanobis' },
  attention: { attention: true },
  dimensionWeights: { dimensionWeights: true },
  matching: { head: 'matching', learnScale: true },
  relation: { head: 'relation' },
  viewContrast: { viewContrast: 0.7, learnScale: true },
  correlation: { correlation: 0.3, learnScale: true },
};

type Ways = { readonly support: Int32Array; readonly query: Int32Array };
const ways = { support: Int32Array.from(fixture.supportWays), query: Int32Array.from(fixture.queryWays) };

/** Scores, loss, and its gradient by the embeddings, those of the other views, and what the head learns. */
async function evaluated(
  given: Partial<MetricLossOptions>,
  params: Named<HostTensor>,
  { support, query }: Ways = ways,
) {
  const options = { ...plain, ...given };
  const feeds = { ...episodeFeeds(support, query.length), answers: answersOf({ support, query }) };
  await using program = await compile(
    ({ params, feeds }) => {
      const { supportRows, queryRows, members, answers } = feeds as Record<string, Tensor>;
      const episode = { supportRows: supportRows!, queryRows: queryRows!, members: members!, answers: answers! };
      const own = params as Named<Tensor>;
      const z = { support: gather(own.z!, supportRows!), query: gather(own.z!, queryRows!) };
      const scores = queryScores(options, own, { z: z.support, members: members! }, z.query);
      const model = { embed: (_: Named<Tensor>, { rows }: Named<Tensor>) => rows! };
      const lossOf = (p: Named<Tensor>) =>
        episodeLoss(model, options, p, { rows: p.z! }, episode, p.views && { rows: p.views });
      const { value, gradient } = valueAndGrad(lossOf)(own);
      return { scores, value, gradient: gradient as Record<string, Tensor> };
    },
    { params: params as Record<string, HostTensor>, feeds },
  );
  const { scores, value, gradient } = await program.run({ params: params as Record<string, HostTensor>, feeds });
  return {
    scores: scores as HostTensor,
    loss: Number((value as HostTensor).data[0]),
    gradient: gradient as Named<HostTensor>,
  };
}

/** Of the fixture, the embeddings and what a case's gradient is taken by. */
const paramsOf = (names: readonly string[]) =>
  Object.fromEntries(names.map((name) => [name, hostTensor('float32', fixture.shapes[name]!, fixture.values[name]!)]));

const worst = (expected: readonly number[], found: HostTensor) =>
  Math.max(...expected.map((value, i) => Math.abs(value - Number(found.data[i]))));

describe.each(Object.entries(cases))('%s', (name, options) => {
  const expected = fixture.expected[name]!;
  const gradientNames = Object.keys(expected.gradient);

  test('scores, loss and gradients are PyTorch’s', async () => {
    const found = await evaluated(options, paramsOf(gradientNames));
    // float32 against float64: scores up to 16, gradients up to 1.
    expect(worst(expected.scores, found.scores)).toBeLessThan(1e-5);
    expect(Math.abs(found.loss - expected.loss)).toBeLessThan(1e-5);
    for (const [param, values] of Object.entries(expected.gradient)) {
      expect(worst(values, found.gradient[param]!), param).toBeLessThan(1e-5);
    }
  });

  test('elsewhere the loss rises along its gradient as that says', async () => {
    const normal = normals(11);
    const params = Object.fromEntries(
      gradientNames.map((param) => {
        const shape = param === 'z' || param === 'views' ? [10, 6] : sizesFor6(param);
        const count = shape.reduce((product, size) => product * size, 1);
        return [
          param,
          hostTensor(
            'float32',
            shape,
            Float32Array.from({ length: count }, () => 0.6 * normal()),
          ),
        ];
      }),
    );
    const other = { support: Int32Array.of(0, 1, 0, 1, 1, 0), query: Int32Array.of(1, 0, 0, 1) };
    const { gradient } = await evaluated(options, params, other);
    const lossAt = async (moved: Named<HostTensor>) => (await evaluated(options, moved, other)).loss;
    const { norm, rise } = await riseAlong(gradient, params, 1e-2, lossAt);
    expect(norm).toBeGreaterThan(0.05);
    expect(rise).toBeCloseTo(1, 2);
  });
});

/** The fixture's embeddings have four numbers, here they have six. */
const sizesFor6 = (param: string) => fixture.shapes[param]!.map((size) => ({ 4: 6, 8: 12 })[size] ?? size);

describe('one example a way', () => {
  const one = { support: Int32Array.of(0, 1, 2), query: Int32Array.of(2, 0) };
  const z = hostTensor('float32', [5, 3], [1, 2, 0, 0, 1, 1, 3, 0, 1, 2, 0, 1, 1, 1, 0]);

  test('attention and dimension weights are equal, and scores those of plain prototypes', async () => {
    await using program = await compile(
      ({ z, members, temperature }) => ({
        shares: prototypeShares({ z, members }, temperature),
        weights: dimensionWeights({ z, members }),
      }),
      {
        z: { dtype: 'float32', shape: [3, 3] },
        members: { dtype: 'float32', shape: [3, 3] },
        temperature: { dtype: 'float32', shape: [] },
      },
    );
    const { members } = episodeFeeds(one.support, 2);
    const found = await program.run({
      z: hostTensor('float32', [3, 3], [...(z.data as Float32Array).subarray(0, 9)]),
      members: members!,
      temperature: hostTensor('float32', [], [0.1]),
    });
    expect([...(found.shares as HostTensor).data]).toEqual([1, 0, 0, 0, 1, 0, 0, 0, 1]);
    expect([...(found.weights as HostTensor).data]).toEqual([1, 1, 1]);

    const attention = { 'metric/log_attention_temperature': hostTensor('float32', [], [-2]) };
    const improved = await evaluated({ attention: true, dimensionWeights: true }, { z, ...attention }, one);
    const { scores, gradient } = await evaluated({}, { z }, one);
    expect([...improved.scores.data]).toEqual([...scores.data]);
    expect(worst([...(gradient.z!.data as Float32Array)], improved.gradient.z!)).toBeLessThan(1e-6);
    expect(improved.gradient['metric/log_attention_temperature']!.data[0]).toBeCloseTo(0, 6);
  });
});

test('attention takes weight from a row unlike the others of its way; a second row of a way is worth half', async () => {
  await using program = await compile(
    ({ z, members, temperature }) => ({ shares: prototypeShares({ z, members }, temperature) }),
    {
      z: { dtype: 'float32', shape: [5, 2] },
      members: { dtype: 'float32', shape: [2, 5] },
      temperature: { dtype: 'float32', shape: [] },
    },
  );
  const { shares } = await program.run({
    z: hostTensor('float32', [5, 2], [1, 0, 1, 0.1, -1, 0.2, 0, 1, 1, 1]),
    members: episodeFeeds(Int32Array.of(0, 0, 0, 1, 1), 1).members!,
    temperature: hostTensor('float32', [], [0.2]),
  });
  const [first, second, outlier, , , , , , ...halves] = [...((shares as HostTensor).data as Float32Array)];
  expect(outlier!).toBeLessThan(0.01);
  expect(first! + second! + outlier!).toBeCloseTo(1, 6);
  expect(halves.map((share) => Math.round(share * 1e6) / 1e6)).toEqual([0.5, 0.5]);
});

test('a row of zeros stays zero and passes no gradient on', async () => {
  const x = hostTensor('float32', [3, 2], [3, 4, 0, 0, 1e-12, 0]);
  const towards = hostTensor('float32', [3, 2], [1, 0, 1, 1, 0, 1]);
  await using program = await compile(
    ({ x, towards }) => {
      const unit = unitRows(x);
      const { gradient } = valueAndGrad((own: { x: Tensor }) => sum(mul(unitRows(own.x), towards)))({ x });
      return { unit, gradient: (gradient as { x: Tensor }).x };
    },
    { x: { dtype: 'float32', shape: [3, 2] }, towards: { dtype: 'float32', shape: [3, 2] } },
  );
  const { unit, gradient } = await program.run({ x, towards });
  expect(worst([0.6, 0.8, 0, 0, 1, 0], unit as HostTensor)).toBeLessThan(1e-6);
  // d/dx ⟨x/‖x‖, t⟩ = (t − u⟨u, t⟩)/‖x‖
  expect(worst([0.128, -0.096, 0, 0], gradient as HostTensor)).toBeLessThan(1e-6);
  expect(Number((gradient as HostTensor).data[5]) / 1e12).toBeCloseTo(1, 5);

  // A dead embedding in an episode of cosines: the gradient stays that of the others.
  const z = hostTensor('float32', [4, 2], [1, 2, 0, 0, 2, 1, 0, 0]);
  const episode = { support: Int32Array.of(0, 1), query: Int32Array.of(0, 1) };
  for (const head of ['prototype', 'matching'] as const) {
    const found = await evaluated({ head, metric: 'cosine' }, { z }, episode);
    expect(Math.max(...[...(found.gradient.z!.data as Float32Array)].map(Math.abs))).toBeLessThan(1);
  }
});
