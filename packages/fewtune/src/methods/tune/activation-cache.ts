import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  compile,
  constant,
  convertFloat,
  type HostTensor,
  hostTensor,
  type Named,
  type Program,
} from '@fewtune/engine';
import { constantWeights, type Encoder, encodeLower, heldTensors, lengthBatches, packingOf } from '@fewtune/models';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { cacheRoot } from '../feature-store.js';
import { mapValues } from '../named.js';
import type { Adaptation } from '../peft/adaptation.js';
import { layerOf } from '../peft/trained-layers.js';
import { digestOf } from '../run-checkpoint.js';
import type { Tokenised } from './examples.js';
import { packTokens, tokenSpecs } from './forward.js';

export interface ActivationCacheOptions {
  /** Up to so many bytes stand in memory, more on disk; 512 MiB. */
  readonly memoryBytes?: number;
  /** Where a file goes; `activations` beside the cached features. */
  readonly folder?: string;
  /** Of a file; `float16` takes half the room and is no longer exact. `float32` when left out. */
  readonly dtype?: 'float32' | 'float16';
  /** Leaves the file, for the next run on the same sentences. */
  readonly keep?: boolean;
}

interface CacheContext {
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** Tokens of one batch, as in `SentenceEmbedder`. */
const tokensPerBatch = 768;
/** What may stand in memory. */
export const defaultMemory = 512 * 2 ** 20;

/** Where a sentence's states stand, counted in tokens. */
interface Place {
  readonly at: number;
  readonly tokens: number;
}

/** States one after another, in memory or in a file. */
interface Store {
  read(at: number, into: Float32Array): Promise<void>;
  close(): Promise<void>;
}

/**
 * Hidden states after the lower layers of an encoder, computed once for each distinct sentence: what is not trained gives
 * the same states in every epoch. `dispose()` frees them, and removes a file unless it is to stay.
 */
export class ActivationCache {
  private constructor(
    /** After so many layers. */
    readonly layers: number,
    readonly hidden: number,
    /** Of all states, as they are kept. */
    readonly bytes: number,
    readonly onDisk: boolean,
    /** Sentences that were computed; 0 when a file was found. */
    readonly computed: number,
    private readonly places: ReadonlyMap<string, Place>,
    private readonly store: Store,
  ) {}

  /**
   * @param adaptation whose weights of the lower layers are frozen
   * @param tokens     sentences, each distinct one of which is computed
   * @param layers     1 or more
   * @throws FewtuneError OUTPUT_UNWRITABLE, INTERRUPTED
   */
  static async create(
    encoder: Pick<Encoder, 'config' | 'hidden'>,
    adaptation: Pick<Adaptation, 'params' | 'frozen' | 'linear' | 'padId'>,
    tokens: Tokenised,
    layers: number,
    options: ActivationCacheOptions = {},
    context: CacheContext = {},
  ): Promise<ActivationCache> {
    const { memoryBytes = defaultMemory, dtype = 'float32', keep = false } = options;
    const { places, distinct, total } = placesOf(tokens);
    const { hidden } = encoder;
    const inMemory = 4 * total * hidden;
    const compute = (write: (states: Float32Array, place: Place) => void | Promise<void>) =>
      computeStates(encoder, adaptation, distinct, layers, context, (row, states) => {
        const place = places.get(keyOf(distinct.ids[row]!, distinct.types?.[row]))!;
        return write(states, place);
      });
    const made = (bytes: number, onDisk: boolean, computed: number, store: Store) =>
      new ActivationCache(layers, hidden, bytes, onDisk, computed, places, store);
    if (inMemory <= memoryBytes) {
      const states = new Float32Array(total * hidden);
      await compute((own, { at }) => states.set(own, at * hidden));
      return made(inMemory, false, distinct.ids.length, memoryStore(states, hidden));
    }
    const lower = Object.fromEntries(
      Object.entries({ ...adaptation.frozen, ...adaptation.params }).filter(
        ([name]) => (layerOf(name) ?? layers) < layers,
      ),
    );
    const about = JSON.stringify([encoder.config, layers, dtype, [...places.keys()]]);
    const key = createHash('sha256')
      .update(digestOf(heldTensors(lower)))
      .update(about)
      .digest('hex');
    const folder = options.folder ?? join(cacheRoot(), 'activations');
    const file = new StateFile(join(folder, `${key.slice(0, 40)}.states`), hidden, dtype, total);
    try {
      const found = await file.isThere();
      if (!found) await file.write(folder, compute);
      return made(file.bytes, true, found ? 0 : distinct.ids.length, await file.open(keep));
    } catch (cause) {
      if (cause instanceof FewtuneError || !(cause as NodeJS.ErrnoException).code) throw cause;
      throw new FewtuneError(
        'OUTPUT_UNWRITABLE',
        `the states of the frozen layers (${Math.round(file.bytes / 2 ** 20)} MiB) cannot be kept in ${folder}: ` +
          `${(cause as Error).message}. Set FEWTUNE_CACHE to a folder with room, or cacheActivations to false.`,
        { cause },
      );
    }
  }

  /** States of some sentences, one after another. @returns float32 [tokens, hidden] */
  async states(tokens: Tokenised): Promise<HostTensor> {
    const places = tokens.ids.map((row, i) => {
      const place = this.places.get(keyOf(row, tokens.types?.[i]));
      if (place) return place;
      throw new FewtuneError('INTERNAL', `no states are kept of the sentence with ids ${row.slice(0, 8).join(' ')} …`);
    });
    const total = places.reduce((sum, place) => sum + place.tokens, 0);
    const data = new Float32Array(total * this.hidden);
    let filled = 0;
    for (const { at, tokens: count } of places) {
      await this.store.read(at, data.subarray(filled * this.hidden, (filled + count) * this.hidden));
      filled += count;
    }
    return hostTensor('float32', [total, this.hidden], data);
  }

  async dispose(): Promise<void> {
    await this.store.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

const keyOf = (ids: readonly number[], types?: readonly number[]): string =>
  types ? `${ids.join(' ')}/${types.join('')}` : ids.join(' ');

/** Bytes of the states of some sentences, each distinct one once. */
export function activationBytes(tokens: Tokenised, hidden: number): number {
  return 4 * placesOf(tokens).total * hidden;
}

function placesOf({ ids, types }: Tokenised) {
  const places = new Map<string, Place>();
  const rows: number[] = [];
  let total = 0;
  for (const [row, own] of ids.entries()) {
    const key = keyOf(own, types?.[row]);
    if (places.has(key)) continue;
    places.set(key, { at: total, tokens: own.length });
    rows.push(row);
    total += own.length;
  }
  const distinct: Tokenised = {
    ids: rows.map((row) => ids[row]!),
    ...(types && { types: rows.map((row) => types[row]!) }),
  };
  return { places, distinct, total };
}

/** Runs the lower layers over all sentences, batches of like lengths packed. */
async function computeStates(
  { config, hidden }: Pick<Encoder, 'config' | 'hidden'>,
  { params, frozen, linear, padId }: Pick<Adaptation, 'params' | 'frozen' | 'linear' | 'padId'>,
  { ids, types }: Tokenised,
  layers: number,
  { threads, signal }: CacheContext,
  write: (row: number, states: Float32Array) => void | Promise<void>,
): Promise<void> {
  const program = (await compile(
    (inputs) => {
      const fixed = constantWeights(frozen);
      const start = mapValues(params, (value, name) => constant(value, name));
      const packing = packingOf(inputs as never);
      return encodeLower(config, { ...fixed, ...start }, inputs as never, layers, {
        linear: linear?.(start, fixed),
        packing,
      });
    },
    tokenSpecs(types !== undefined),
    { threads, name: 'lower layers' },
  )) as unknown as Program<Named<HostTensor>, HostTensor>;
  try {
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(signal);
      const own = batch.map((row) => ids[row]!);
      const { data } = await program.run(
        packTokens({ ids: own, ...(types && { types: batch.map((row) => types[row]!) }) }, padId),
      );
      let at = 0;
      for (const row of batch) {
        const end = at + ids[row]!.length * hidden;
        await write(row, (data as Float32Array).subarray(at, end));
        at = end;
      }
    }
  } finally {
    await program.dispose();
  }
}

const memoryStore = (states: Float32Array, hidden: number): Store => ({
  read: async (at, into) => into.set(states.subarray(at * hidden, at * hidden + into.length)),
  close: async () => {},
});

/** States in a file: numbers and nothing else, so that its size says whether it is whole. */
class StateFile {
  readonly bytes: number;
  private readonly width: number;

  constructor(
    private readonly path: string,
    private readonly hidden: number,
    private readonly dtype: 'float32' | 'float16',
    tokens: number,
  ) {
    this.width = hidden * (dtype === 'float32' ? 4 : 2);
    this.bytes = tokens * this.width;
  }

  async isThere(): Promise<boolean> {
    return (await stat(this.path).catch(() => undefined))?.size === this.bytes;
  }

  /** Beside its place, then renamed: a run that is killed leaves nothing that looks whole. */
  async write(
    folder: string,
    compute: (write: (states: Float32Array, place: Place) => Promise<void>) => Promise<void>,
  ): Promise<void> {
    await mkdir(folder, { recursive: true });
    const partial = `${this.path}.${randomBytes(6).toString('hex')}.partial`;
    const handle = await open(partial, 'wx');
    try {
      await compute(async (states, { at }) => {
        const { data } = this.dtype === 'float32' ? { data: states } : halved(states);
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        await handle.write(bytes, 0, bytes.length, at * this.width);
      });
      await handle.close();
      await rename(partial, this.path);
    } catch (error) {
      await handle.close().catch(() => {});
      await rm(partial, { force: true });
      throw error;
    }
  }

  async open(keep: boolean): Promise<Store> {
    const handle: FileHandle = await open(this.path, 'r');
    return {
      read: async (at, into) => {
        const raw = new Uint8Array((into.length / this.hidden) * this.width);
        const { bytesRead } = await handle.read(raw, 0, raw.length, at * this.width);
        if (bytesRead !== raw.length) {
          throw new FewtuneError('FILE_UNREADABLE', `${this.path} ends too early; remove it and start anew.`);
        }
        if (this.dtype === 'float32') into.set(new Float32Array(raw.buffer));
        else
          into.set(
            convertFloat(hostTensor('float16', [into.length], new Uint16Array(raw.buffer)), 'float32')
              .data as Float32Array,
          );
      },
      close: async () => {
        await handle.close();
        if (!keep) await rm(this.path, { force: true });
      },
    };
  }
}

const halved = (states: Float32Array) =>
  convertFloat(hostTensor('float32', [states.length], states), 'float16') as { data: Uint16Array };
