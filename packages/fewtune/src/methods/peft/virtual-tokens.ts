import { type HostTensor, hostTensor, linear, type Named, slice, type Tensor, tanh, zeros } from '@fewtune/engine';
import type { EncodeHooks } from '@fewtune/models';
import { z } from 'zod';
import type { Random } from '../../data/random.js';
import { uniformDown } from './lora-layer.js';
import { products } from './low-rank.js';

/** Under PEFT's name: a prompt is [virtual, hidden], a prefix [virtual, layers · 2 · hidden]. */
export const tableName = 'prompt_embeddings';

/** Words of the encoder drawn at random, as PEFT's `SAMPLE_VOCAB`: a prompt that looks like text. */
export function startPrompt(weights: Named<HostTensor>, virtual: number, random: Random): HostTensor {
  const table = weights['embeddings.word_embeddings.weight']!;
  const [rows, hidden] = table.shape as [number, number];
  const data = new Float32Array(virtual * hidden);
  for (let i = 0; i < virtual; i++) {
    const row = Math.floor(random.next() * rows);
    data.set((table.data as Float32Array).subarray(row * hidden, (row + 1) * hidden), i * hidden);
  }
  return hostTensor('float32', [virtual, hidden], data);
}

/** Prompt tuning: Lester et al. 2021, section 2, arXiv:2104.08691. */
export const promptHooks = (table: Tensor): EncodeHooks => ({ prompt: table });

/**
 * A prefix at its start: keys and values normal with deviation `spread`, trained as they stand, or made by two layers
 * from one embedding a token (Li & Liang 2021, section 4.3, arXiv:2101.00190) as PEFT's `prefix_projection` does it.
 *
 * @param projection width of the middle layer; 0 for none
 */
export function startPrefix(
  { virtual, layers, hidden, projection }: { virtual: number; layers: number; hidden: number; projection: number },
  random: Random,
): Record<string, HostTensor> {
  const normal = (shape: [number, number], deviation: number) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from({ length: shape[0] * shape[1] }, () => deviation * random.gaussian()),
    );
  const width = layers * 2 * hidden;
  if (projection === 0) return { [tableName]: normal([virtual, width], prefixSpread) };
  return {
    'prefix.embedding.weight': normal([virtual, hidden], 1),
    'prefix.transform.0.weight': hostTensor('float32', [projection, hidden], uniformDown(projection, hidden, random)),
    'prefix.transform.0.bias': zeros('float32', [projection]),
    'prefix.transform.2.weight': hostTensor('float32', [width, projection], uniformDown(width, projection, random)),
    'prefix.transform.2.bias': zeros('float32', [width]),
  };
}

/** Of keys and values at the start. */
const prefixSpread = 0.1;

/** The table of a prefix from what is trained: [virtual, layers · 2 · hidden]. */
export function prefixTable(params: Named<Tensor>): Tensor {
  const table = params[tableName];
  if (table) return table;
  const middle = tanh(
    linear(params['prefix.embedding.weight']!, params['prefix.transform.0.weight']!, params['prefix.transform.0.bias']),
  );
  return linear(middle, params['prefix.transform.2.weight']!, params['prefix.transform.2.bias']);
}

/** Prefix tuning: keys and values before those of every layer. Li & Liang 2021, arXiv:2101.00190; laid out as PEFT's. */
export function prefixHooks(table: Tensor, layers: number): EncodeHooks {
  const [length, width] = table.shape as [number, number];
  const hidden = width / layers / 2;
  const part = (at: number) => slice(table, 1, at * hidden, (at + 1) * hidden);
  return { prefix: { length, keyValue: (layer) => ({ key: part(2 * layer), value: part(2 * layer + 1) }) } };
}

/** A prefix as it is kept: the table, whatever made it. */
export function finishedPrefix(params: Named<HostTensor>): Record<string, HostTensor> {
  const table = params[tableName];
  if (table) return { [tableName]: table };
  const through = (name: string, from: Float64Array, active: (value: number) => number): Float64Array => {
    const weight = params[`${name}.weight`]!;
    const [outer, inner] = weight.shape as [number, number];
    const bias = params[`${name}.bias`]!.data as Float32Array;
    const made = products(weight.data as Float32Array, outer, inner, from, virtual); // [virtual, outer]
    return made.map((value, i) => active(value + bias[i % outer]!));
  };
  const words = params['prefix.embedding.weight']!;
  const virtual = words.shape[0]!;
  const middle = through('prefix.transform.0', Float64Array.from(words.data as Float32Array), Math.tanh);
  const made = through('prefix.transform.2', middle, (value) => value);
  return { [tableName]: hostTensor('float32', [virtual, made.length / virtual], Float32Array.from(made)) };
}

/** How many, as an option. */
export const virtualField = z.number().int().positive().max(128).default(8);

/** Between no virtual tokens and some lies nothing. */
export const wholeField = z.literal(1).default(1);
