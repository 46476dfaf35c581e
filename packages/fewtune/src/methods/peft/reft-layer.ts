import {
  add,
  arange,
  cast,
  concat,
  type Dim,
  div,
  type HostTensor,
  hostTensor,
  less,
  linear,
  logicalOr,
  matMul,
  mul,
  type Named,
  reshape,
  slice,
  sqrt,
  sub,
  sum,
  sumSquares,
  type Tensor,
  zeros,
} from '@fewtune/engine';
import type { EncodeHooks } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { orthonormal } from './low-rank.js';
import { namesMeant, ownOf, type Targets } from './targets.js';

/** `all` tokens, or the first n and the last m of a text as pyreft writes it: `f1+l1`, `f3`, `l2`. */
export type ReftPositions = string;

export interface ReftSettings {
  readonly rank: number;
  /** `all`, or layers by name: `layer.5`, `*.layer.5`. */
  readonly targets: Targets;
  readonly ranks?: Readonly<Record<string, number>>;
}

/** n of the first tokens and m of the last; undefined when it is none. */
export function positionsOf(positions: ReftPositions): 'all' | { first: number; last: number } | undefined {
  if (positions === 'all') return 'all';
  const [, f, l] = /^(?:f(\d+))?(?:(?:^|\+)l(\d+))?$/.exec(positions) ?? [];
  return f || l ? { first: Number(f ?? 0), last: Number(l ?? 0) } : undefined;
}

/** Layers of an encoder by their modules' common beginning: `encoder.layer.0`. */
export function layersOf(weights: Named<unknown>): string[] {
  return [...new Set(Object.keys(weights).flatMap((name) => /^.*\.layer\.\d+(?=\.)/.exec(name) ?? []))];
}

/**
 * Interventions at their start: R is a random orthonormal basis, W = R and b = 0, so that each is the identity.
 *
 * @returns for each layer `<layer>.reft_R` [r, hidden], `<layer>.reft_W` [r, hidden], `<layer>.reft_b` [r]
 * @throws FewtuneError OPTION_INVALID when a target means no layer, or a rank is wider than the states
 */
export function startReft(
  weights: Named<HostTensor>,
  { rank, targets, ranks = {} }: ReftSettings,
  random: Random,
): Record<string, HostTensor> {
  const all = layersOf(weights);
  const layers = targets === 'all' ? all : namesMeant(targets, all, 'loreft: no layer of this encoder');
  namesMeant(Object.keys(ranks), layers, 'loreft: no layer that is changed');
  const hidden = weights['embeddings.LayerNorm.weight']!.shape[0]!;
  const params: Record<string, HostTensor> = {};
  for (const layer of layers) {
    const r = ownOf(ranks, layer, rank);
    if (r > hidden) throw new FewtuneError('OPTION_INVALID', `loreft: a rank of ${r}; states have ${hidden} numbers.`);
    const basis = orthonormal(
      Float64Array.from({ length: r * hidden }, () => random.gaussian()),
      r,
    );
    params[`${layer}.reft_R`] = hostTensor('float32', [r, hidden], Float32Array.from(basis));
    params[`${layer}.reft_W`] = hostTensor('float32', [r, hidden], Float32Array.from(basis));
    params[`${layer}.reft_b`] = zeros('float32', [r]);
  }
  return params;
}

/**
 * LoReFT: h + Rᵀ (W h + b − R h) after a layer, at some tokens, with the rows of R orthonormal. Wu et al. 2024, equation 2,
 * arXiv:2404.03592. First and last tokens share one intervention.
 *
 * @param params as of {@link startReft}
 * @param basis  R as it is used, of what is trained; see {@link orthonormalRows}
 */
export function reftHooks(
  positions: ReftPositions,
  params: Named<Tensor>,
  basis: (trained: Tensor) => Tensor = (R) => R,
): EncodeHooks {
  const at = positionsOf(positions)!;
  const layers = layersOf(params);
  return {
    afterLayer: (index, states, { attentionMask, toTokens }) => {
      const layer = layers.find((name) => name.endsWith(`.${index}`));
      const trained = params[`${layer}.reft_R`];
      if (!trained) return states;
      const R = basis(trained);
      const change = matMul(linear(states, sub(params[`${layer}.reft_W`]!, R), params[`${layer}.reft_b`]!), R);
      return add(states, at === 'all' ? change : mul(change, toTokens(chosen(attentionMask, at))));
    },
  };
}

/** 1 at the first and last tokens of each text, else 0: [batch, seq, 1]. */
function chosen(attentionMask: Tensor, { first, last }: { first: number; last: number }): Tensor {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const place = reshape(arange(seq), [1, seq]);
  const length = sum(attentionMask, { axes: [1], keepDims: true }); // [batch, 1]
  const fromEnd = sub(sub(length, place), 1); // 0 at the last one, below on padding
  const isLast = less(fromEnd, last);
  const isFirst = less(place, first);
  const either = cast(first === 0 ? isLast : last === 0 ? isFirst : logicalOr(isFirst, isLast), 'float32');
  return reshape(mul(either, cast(attentionMask, 'float32')), [batch, seq, 1]);
}

/**
 * Rows made orthonormal in their order, by Gram and Schmidt's method: the Q of a QR decomposition. What is trained is any
 * matrix of full rank; what is used lies on the manifold, whatever a step did.
 *
 * @param x [r, hidden]
 */
export function orthonormalRows(x: Tensor): Tensor {
  const rows: Tensor[] = [];
  for (let i = 0; i < (x.shape[0] as number); i++) {
    let row = slice(x, 0, i, i + 1); // [1, hidden]
    if (rows.length > 0) {
      const before = concat([...rows], 0); // a node keeps the list it is given
      row = sub(row, matMul(matMul(row, before, { transposeB: true }), before));
    }
    rows.push(div(row, sqrt(sumSquares(row))));
  }
  return concat(rows, 0);
}

/** The same of numbers: trained interventions as they are used. */
export function finishedReft(params: Named<HostTensor>): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(params).map(([name, tensor]) => {
      if (!name.endsWith('.reft_R')) return [name, tensor];
      const basis = orthonormal(Float64Array.from(tensor.data as Float32Array), tensor.shape[0]!);
      return [name, hostTensor('float32', tensor.shape, Float32Array.from(basis))];
    }),
  );
}
