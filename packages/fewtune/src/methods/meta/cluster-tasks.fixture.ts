import { hostTensor } from '@fewtune/engine';
import { createRandom, type Random } from '../../data/random.js';
import type { Examples, MetaTask } from './meta-model.js';
import { mlp } from './mlp.js';

export const ways = 3;
export const inputs = 6;

/** Only the first two of six numbers tell a task's classes apart; the noise in the others is as large. */
function clusterTask(random: Random, shots: number, queries: number): MetaTask {
  const means = Array.from({ length: ways }, () => [random.gaussian() * 2, random.gaussian() * 2]);
  const draw = (each: number): Examples => {
    const rows = Array.from({ length: ways * each }, (_, row) => Math.floor(row / each));
    const x = rows.flatMap((way) =>
      Array.from({ length: inputs }, (_, i) => (means[way]![i] ?? 0) + random.gaussian() * (i < 2 ? 0.4 : 2)),
    );
    return { x: hostTensor('float32', [rows.length, inputs], x), y: hostTensor('int64', [rows.length], rows) };
  };
  return { support: draw(shots), query: draw(queries) };
}

export const tasks = (seed: number, count: number, shots = 2, queries = 5) => {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => clusterTask(random, shots, queries));
};

export const batches = (seed: number, count: number, size = 4) =>
  Array.from({ length: count }, (_, i) => tasks(seed * 1000 + i, size));

export const unseen = tasks(99, 60, 2, 10);

export const model = mlp({ inputs, hidden: [16], outputs: ways, seed: 3 });

/** Options under which it learns in seconds. */
export const small = { model, innerLr: 0.1, innerSteps: 2, metaLr: 0.01 };
