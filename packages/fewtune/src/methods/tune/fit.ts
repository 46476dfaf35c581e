import { freemem } from 'node:os';
import { planStep, type StepPlan } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { fitBatchSize, layersToRecompute } from './memory-fit.js';
import { stepOptions, type Trained } from './tune-program.js';

/** What a batch may be left open in. */
export interface BatchChoices {
  readonly batchSize: number | 'auto';
  readonly recompute: 'none' | 'all' | 'auto' | number;
  readonly memoryBytes: number | 'auto';
}

/** The largest that `auto` tries: larger batches compute an example no faster, and make fewer steps. */
const mostRows = 64;

/**
 * How many rows a batch has and how many layers are computed twice, where that was left open: rows first, layers only when
 * rows alone do not fit. The batch that counts is the largest there can be, of the longest sentences.
 *
 * @param trainedWith the step with so many rows and layers
 * @param lengths     of each sentence, in tokens
 * @param lora        the step of LoRA in the place of full fine-tuning, where that is another way
 * @throws FewtuneError MEMORY_EXCEEDED when it does not fit into what is allowed, or free; with what would
 */
export function fitted(
  trainedWith: (batchSize: number, recompute: number) => Trained,
  lengths: readonly number[],
  layers: number,
  { batchSize, recompute, memoryBytes }: BatchChoices,
  lora?: () => Trained,
): { batchSize: number; recompute: number } {
  const fixedLayers = recompute === 'auto' ? 0 : layersOf(recompute, layers);
  const open = batchSize === 'auto' || recompute === 'auto';
  const bytesOf = stepBytes(trainedWith, lengths);
  // What is left open leaves half to others; what is asked for may have all.
  const limit = memoryBytes !== 'auto' ? memoryBytes : open ? Math.floor(available() / 2) : available();
  const rows = batchSize === 'auto' ? fitBatchSize((size) => bytesOf(size, fixedLayers), limit, mostRows) : batchSize;
  const twice =
    recompute === 'auto' ? layersToRecompute((count) => bytesOf(rows ?? 1, count), limit, layers) : fixedLayers;
  const fits = rows !== undefined || recompute === 'auto';
  if (fits && twice !== undefined && bytesOf(rows ?? 1, twice) <= limit)
    return { batchSize: rows ?? 1, recompute: twice };
  throw new FewtuneError(
    'MEMORY_EXCEEDED',
    shortage(bytesOf, limit, layers, { batchSize: rows ?? 1, recompute: twice ?? layers }, lora, lengths),
  );
}

/** Layers by a word. */
const layersOf = (recompute: 'none' | 'all' | number, layers: number): number =>
  recompute === 'none' ? 0 : recompute === 'all' ? layers : Math.min(recompute, layers);

/** Bytes that this process can still have, as far as the system says. */
const available = (): number => process.availableMemory?.() ?? freemem();

type BytesOf = (batchSize: number, recompute: number) => number;

function stepBytes(
  trainedWith: (batchSize: number, recompute: number) => Trained,
  lengths: readonly number[],
): BytesOf {
  const plans = new Map<number, readonly StepPlan[]>();
  let copies = 0;
  return (batchSize, recompute) => {
    let known = plans.get(recompute);
    if (!known) {
      const trained = trainedWith(batchSize, recompute);
      copies = copiesOf(trained);
      const stages = new Map(trained.stages.map((stage) => [`${stage.lowest} ${stage.from}`, stage]));
      known = [...stages.values()].map((stage) => planStep(stepOptions(trained, stage)));
      plans.set(recompute, known);
    }
    const sizes = longestBatch(lengths, batchSize);
    return copies + Math.max(...known.map((plan) => plan.memory(sizes).total));
  };
}

/** Bytes of what a run keeps beside its step: the last good weights with their two moments, to go back to. */
export function copiesOf({ adaptation, head }: Pick<Trained, 'adaptation' | 'head'>): number {
  const values = Object.values({ ...adaptation.params, ...head });
  return 3 * values.reduce((sum, { data }) => sum + data.byteLength, 0);
}

/** Sizes of the largest batch there can be, of the longest sentences. */
export function longestBatch(
  lengths: readonly number[],
  batchSize: number,
): { batch: number; seq: number; tokens: number } {
  const rows = [...lengths].sort((a, b) => b - a).slice(0, batchSize);
  return { batch: rows.length, seq: rows[0] ?? 1, tokens: rows.reduce((sum, length) => sum + length, 0) };
}

/** What is needed, what is allowed, and every single change that would do. */
function shortage(
  bytesOf: BytesOf,
  limit: number,
  layers: number,
  { batchSize, recompute }: { batchSize: number; recompute: number },
  lora: (() => Trained) | undefined,
  lengths: readonly number[],
): string {
  const shown = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`;
  const needs = `a step of ${batchSize} rows needs about ${shown(bytesOf(batchSize, recompute))}, and ${shown(limit)} are allowed`;
  const fits: string[] = [];
  const twice = layersToRecompute((count) => bytesOf(batchSize, count), limit, layers);
  if (twice !== undefined) fits.push(`recompute ${twice}`);
  const smaller = fitBatchSize((size) => bytesOf(size, recompute), limit, batchSize) ?? 0;
  const batch = (size: number) => `batchSize ${size} with accumulate ${Math.ceil(batchSize / size)} (the same step)`;
  if (smaller > 0) fits.push(batch(smaller));
  const both = twice === undefined ? (fitBatchSize((size) => bytesOf(size, layers), limit, batchSize) ?? 0) : 0;
  if (both > smaller) fits.push(`${batch(both)} and recompute "all"`);
  if (lora && stepBytes(lora, lengths)(batchSize, 0) <= limit) fits.push('lora instead of full');
  if (fits.length > 0) return `${needs}. Would fit: ${fits.join('; ')}.`;
  return `${needs}; even one row needs ${shown(bytesOf(1, layers))}. Allow more, or take a smaller encoder.`;
}
