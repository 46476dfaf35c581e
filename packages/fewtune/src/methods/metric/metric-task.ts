import { type HostTensor, hostTensor, type Named, type TensorSpec } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import type { EmbeddingModel } from './embedding-model.js';

/**
 * An episode's data for metric learning. A way may have as many support rows as there are: where the names of classes
 * are known, the embedding of a way's name is simply one more row of it.
 */
export interface MetricTask {
  /** Inputs of the model for all rows: the support's first, then the queries'. */
  readonly x: Named<HostTensor>;
  /** The way of each support row, 0 to ways − 1, and of each query. */
  readonly support: Int32Array;
  readonly query: Int32Array;
  /** The same rows seen otherwise (other tokens dropped, another crop), for the contrast of views. */
  readonly views?: Named<HostTensor>;
}

/**
 * What a traced episode is given besides its rows: which of them are the support's and which the queries', and float32
 * `members` [ways, support], 1 where a row is of the way.
 *
 * @throws FewtuneError ROWS_EMPTY, CLASS_SINGLE, LABEL_UNKNOWN
 */
export function episodeFeeds(support: Int32Array, queries: number): Record<string, HostTensor> {
  if (support.length === 0) throw new FewtuneError('ROWS_EMPTY', 'the support set has no rows; give it at least one.');
  if (queries === 0) throw new FewtuneError('ROWS_EMPTY', 'the query set has no rows; give it at least one.');
  const ways = waysOf(support);
  if (ways < 2) throw new FewtuneError('CLASS_SINGLE', 'the support set has one way; an episode needs at least two.');
  const shown = support.length;
  const members = new Float32Array(ways * shown);
  const counts = new Int32Array(ways);
  for (const [row, way] of support.entries()) {
    if (way < 0)
      throw new FewtuneError('LABEL_UNKNOWN', `row ${row} of the support set has way ${way}; ways begin at 0.`);
    members[way * shown + row] = 1;
    counts[way]!++;
  }
  const empty = counts.indexOf(0);
  if (empty !== -1) {
    throw new FewtuneError(
      'ROWS_EMPTY',
      `way ${empty} has no row in the support set, which has ways up to ${ways - 1}.`,
    );
  }
  return {
    supportRows: rowNumbers(0, shown),
    queryRows: rowNumbers(shown, queries),
    members: hostTensor('float32', [ways, shown], members),
  };
}

/** The specs of {@link episodeFeeds}, of any sizes. */
export const episodeSpecs: Named<TensorSpec> = {
  supportRows: { dtype: 'int64', shape: ['support'] },
  queryRows: { dtype: 'int64', shape: ['queries'] },
  members: { dtype: 'float32', shape: ['ways', 'support'] },
};

/** float32 [queries, ways], 1 at the way of each query. @throws FewtuneError LABEL_UNKNOWN */
export function answersOf({ support, query }: Pick<MetricTask, 'support' | 'query'>): HostTensor {
  const ways = waysOf(support);
  return hostTensor('float32', [query.length, ways], oneHotRows(query, ways));
}

export const waysOf = (support: Int32Array): number => support.reduce((most, way) => Math.max(most, way), -1) + 1;

const rowNumbers = (from: number, count: number): HostTensor =>
  hostTensor(
    'int64',
    [count],
    Array.from({ length: count }, (_, i) => from + i),
  );

function oneHotRows(labels: Int32Array, ways: number): Float32Array {
  const rows = new Float32Array(labels.length * ways);
  for (const [row, way] of labels.entries()) {
    if (way < 0 || way >= ways) {
      throw new FewtuneError(
        'LABEL_UNKNOWN',
        `row ${row} of the query set has way ${way}; the support has ways 0 to ${ways - 1}.`,
      );
    }
    rows[row * ways + way] = 1;
  }
  return rows;
}

/**
 * @param rows how many there must be, where inputs have one row each
 * @throws FewtuneError OPTION_INVALID when inputs are missing, or of another dtype or size than the model's
 */
export function checkInputs(
  { inputs }: Pick<EmbeddingModel, 'inputs'>,
  x: Named<HostTensor>,
  what: string,
  rows?: number,
): void {
  for (const [name, { dtype, shape }] of Object.entries(inputs)) {
    const given = x[name];
    const wanted = shape.map((size) => (size === 'rows' ? (rows ?? size) : size));
    const fits =
      given?.dtype === dtype &&
      given.shape.length === shape.length &&
      wanted.every((size, axis) => typeof size === 'string' || size === given.shape[axis]);
    if (fits) continue;
    const found = given ? `${given.dtype} [${given.shape.join(', ')}]` : 'missing';
    const why = rows === undefined ? '' : `; support and queries together are ${rows} rows`;
    throw new FewtuneError(
      'OPTION_INVALID',
      `${what}: "${name}" is ${found}; the model takes ${dtype} [${shape.join(', ')}]${why}.`,
    );
  }
}
