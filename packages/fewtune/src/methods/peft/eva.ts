import { compile, type HostTensor, hostTensor, matMul, type Named, sum, type Tensor } from '@fewtune/engine';
import { constantWeights, type Encoder, encode, packBatch, packedSpecs, packingOf, plainLinear } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { truncatedSvd } from './low-rank.js';

/** Sentences looked at in one run, and at most. */
const batchRows = 64;
const mostRows = 1024;

/**
 * EVA: where the inputs of each layer vary most, on the data that it will be trained on. Their principal directions are
 * what A starts from. Paischer et al. 2024, arXiv:2410.07170; without its redistribution of ranks.
 *
 * @param ids token ids of the training sentences
 * @returns A [rank, in] of each module
 */
export async function evaDirections(
  { config, weights }: Pick<Encoder, 'config' | 'weights'>,
  ids: readonly (readonly number[])[],
  padId: number,
  modules: readonly string[],
  rank: (module: string) => number,
  random: Random,
  threads?: number,
): Promise<Record<string, HostTensor>> {
  /** Which of several modules with the same input stands for all: query, key and value have one. */
  const sameInput = new Map<string, string>();
  const program = await compile(
    (batch) => {
      const seen = new Map<Tensor, string>();
      const results: Record<string, Tensor> = {};
      encode(config, constantWeights(weights), batch, {
        packing: packingOf(batch),
        linear: (x, module, weight, bias) => {
          if (modules.includes(module)) {
            const first = seen.get(x) ?? module;
            seen.set(x, first);
            sameInput.set(module, first);
            results[`${first}/products`] ??= matMul(x, x, { transposeA: true }); // x [tokens, in]: padding is not in it
            results[`${first}/sum`] ??= sum(x, { axes: [0] });
          }
          return plainLinear(x, module, weight, bias);
        },
      });
      return results;
    },
    packedSpecs,
    { threads, name: 'eva' },
  );
  const totals: Record<string, Float64Array> = {};
  let tokens = 0;
  try {
    // Spread over the data, which may be sorted by class.
    const stride = Math.max(1, Math.ceil(ids.length / mostRows));
    const rows = ids.filter((_, i) => i % stride === 0);
    for (let at = 0; at < rows.length; at += batchRows) {
      const batch = rows.slice(at, at + batchRows);
      tokens += batch.reduce((total, row) => total + row.length, 0);
      for (const [name, { data }] of Object.entries(await program.run(packBatch(batch, padId)))) {
        totals[name] ??= new Float64Array(data.length);
        const total = totals[name];
        for (let i = 0; i < data.length; i++) total[i]! += data[i] as number;
      }
    }
  } finally {
    await program.dispose();
  }
  return directionsOf(modules, sameInput, totals, tokens, rank, random);
}

function directionsOf(
  modules: readonly string[],
  sameInput: ReadonlyMap<string, string>,
  totals: Named<Float64Array>,
  tokens: number,
  rank: (module: string) => number,
  random: Random,
): Record<string, HostTensor> {
  const known = new Map<string, Float32Array>();
  const directions: Record<string, HostTensor> = {};
  for (const module of modules) {
    const first = sameInput.get(module)!;
    const sums = totals[`${first}/sum`]!;
    const inner = sums.length;
    const key = `${first} ${rank(module)}`;
    if (!known.has(key)) {
      const products = totals[`${first}/products`]!;
      const scatter = Float32Array.from(products, (value, at) => {
        return value - (sums[Math.floor(at / inner)]! * sums[at % inner]!) / tokens; // about the mean
      });
      const { v } = truncatedSvd(hostTensor('float32', [inner, inner], scatter), rank(module), random, 1e-8);
      known.set(key, Float32Array.from(v));
    }
    directions[module] = hostTensor('float32', [rank(module), inner], Float32Array.from(known.get(key)!));
  }
  return directions;
}
