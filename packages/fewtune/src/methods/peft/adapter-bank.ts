import {
  add,
  compile,
  type Dim,
  gather,
  type HostTensor,
  hostTensor,
  l2Normalize,
  matMul,
  type Program,
  reshape,
  type Tensor,
  type TensorSpec,
} from '@fewtune/engine';
import {
  constantWeights,
  type Encoder,
  encodeWith,
  type LinearFn,
  lengthBatches,
  padBatch,
  pool,
  product,
} from '@fewtune/models';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { type Adapter, adaptedModules, adapterScale, asLora, checkAdapter } from './adapter.js';
import { AdapterStack } from './adapter-stack.js';
import { near } from './near-names.js';
import { linearsMeant, ofPooler, type Targets } from './targets.js';

export interface AdapterBankOptions {
  /** Modules that adapters may change: every linear layer when left out. Fewer make each batch cheaper. */
  readonly targets?: Targets;
  readonly threads?: number;
  /** Whether vectors have length 1; true. Heads that were fine-tuned along read them as they are. */
  readonly normalise?: boolean;
}

/** An adapter's name, or null for the encoder as it is. */
export type AdapterName = string | null;

/** Tokens of one batch, as in `SentenceEmbedder`. */
const tokensPerBatch = 768;

type Inputs = Readonly<Record<string, HostTensor>>;

/**
 * Many LoRA adapters over one encoder and one session. The encoder's weights are constants of the session, the matrices
 * of all adapters are inputs of it, and each sentence of a batch picks its own: adding, removing and switching compile
 * nothing, and sentences with different adapters share a batch.
 *
 * A batch computes W x once for all its sentences, then A and B of each: gathered by row, multiplied as a batch (as
 * S-LoRA, Sheng et al. 2023, arXiv:2311.03285, and Punica do).
 *
 * @example
 * await using bank = await AdapterBank.create(await loadEncoder());
 * bank.add('tickets', await readAdapter('adapters/tickets'));
 * const vectors = await bank.embed(['my card was swallowed', 'hello'], ['tickets', null]);
 */
export class AdapterBank {
  readonly #slots = new Map<string, number>();
  /** Calls that still read a slot: it is not filled anew before they end. */
  readonly #readers = new Map<number, number>();
  readonly #stack: AdapterStack;

  private constructor(
    readonly encoder: Encoder,
    private readonly modules: readonly string[],
    private readonly program: Program<Inputs, HostTensor>,
  ) {
    const sizes = modules.map((module) => encoder.weights[`${module}.weight`]!.shape as [number, number]);
    this.#stack = new AdapterStack(sizes.map(([outer, inner]) => ({ inner, outer })));
  }

  /**
   * Traces and compiles the encoder. `dispose()` frees it.
   *
   * @throws FewtuneError OPTION_INVALID when a target means no layer
   */
  static async create(encoder: Encoder, options: AdapterBankOptions = {}): Promise<AdapterBank> {
    const { targets = 'all-linear', threads, normalise = true } = options;
    const modules = linearsMeant(encoder.weights, targets);
    const specs: Record<string, TensorSpec> = {
      inputIds: { dtype: 'int64', shape: ['batch', 'seq'] },
      attentionMask: { dtype: 'int64', shape: ['batch', 'seq'] },
      slots: { dtype: 'int64', shape: ['batch'] },
    };
    for (const [i, module] of modules.entries()) {
      const [outer, inner] = encoder.weights[`${module}.weight`]!.shape as [number, number];
      specs[`down${i}`] = { dtype: 'float32', shape: ['adapters', 'rank', inner] };
      specs[`up${i}`] = { dtype: 'float32', shape: ['adapters', 'rank', outer] };
    }
    const embed = (inputs: Readonly<Record<string, Tensor>>): Tensor => {
      const { inputIds, attentionMask } = inputs as Record<'inputIds' | 'attentionMask', Tensor>;
      const weights = constantWeights(encoder.weights);
      const linear = byRow(inputs, modules);
      const hidden = encodeWith(encoder, weights, { inputIds, attentionMask }, { linear });
      const pooled = pool(hidden, attentionMask, encoder.pooling);
      return normalise ? l2Normalize(pooled) : pooled;
    };
    const program = await compile(embed, specs, { threads, name: 'adapters' });
    return new AdapterBank(encoder, modules, program as Program<Inputs, HostTensor>);
  }

  get names(): string[] {
    return [...this.#slots.keys()];
  }

  /** Bytes of all matrices, beside the encoder's weights. */
  get bytes(): number {
    return this.#stack.bytes;
  }

  /**
   * Takes an adapter in, or another one under the same name. Calls under way go on with what they began with.
   *
   * @throws FewtuneError ADAPTER_MISMATCH when it is for another encoder; MODEL_UNSUPPORTED when it is more than A and B
   *   (DoRA, whole weights, embeddings): merge such a one with `adaptEncoder`
   */
  add(name: string, given: Adapter): void {
    checkAdapter(this.encoder, given);
    const adapter = asLora(given, `the adapter "${name}"`);
    const more = Object.keys({ ...adapter.weights, ...adapter.saved }).find((key) => !/\.lora_[AB]\.weight$/.test(key));
    if (more) {
      throw new FewtuneError(
        'MODEL_UNSUPPORTED',
        `the adapter "${name}" holds ${more}; a bank takes A and B of linear layers only. Merge it with adaptEncoder.`,
      );
    }
    const foreign = adaptedModules(adapter).find((module) => !ofPooler(module) && !this.modules.includes(module));
    if (foreign) {
      throw new FewtuneError(
        'ADAPTER_MISMATCH',
        `the adapter "${name}" changes ${foreign}, which this bank was not made for${near(foreign, this.modules)}. ` +
          'Make the bank with more targets.',
      );
    }
    const parts = this.modules.map((module) => {
      const [a, b] = [adapter.weights[`${module}.lora_A.weight`], adapter.weights[`${module}.lora_B.weight`]];
      return a && b && { a, b, scale: adapterScale(adapter, module) };
    });
    const taken = new Set([...this.#slots.values(), ...this.#readers.keys()]);
    let slot = 1; // 0 is the encoder as it is
    while (taken.has(slot)) slot++;
    this.#stack.fill(slot, parts);
    this.#slots.set(name, slot);
  }

  /** @throws FewtuneError ADAPTER_UNKNOWN */
  remove(name: string): void {
    this.#slotOf(name);
    this.#slots.delete(name);
  }

  /**
   * @param adapters one for all texts, or one for each
   * @returns [texts.length × hidden], row-major, each row of length 1 unless `normalise` is false
   * @throws FewtuneError ADAPTER_UNKNOWN for a name that is not there, INTERRUPTED
   */
  async embed(
    texts: readonly string[],
    adapters: AdapterName | readonly AdapterName[],
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    const list = adapters === null || typeof adapters === 'string' ? texts.map(() => adapters) : adapters;
    if (list.length !== texts.length) {
      throw new FewtuneError('OPTION_INVALID', `${list.length} adapters for ${texts.length} texts; give one for each.`);
    }
    const slots = list.map((name) => (name === null ? 0 : this.#slotOf(name)));
    const { hidden, tokenizer } = this.encoder;
    const ids = texts.map((text) => tokenizer.encode(text));
    const result = new Float32Array(texts.length * hidden);
    const used = new Set(slots);
    const matrices = this.#stack.inputs();
    for (const slot of used) this.#readers.set(slot, (this.#readers.get(slot) ?? 0) + 1);
    try {
      for (const batch of lengthBatches(ids, { tokensPerBatch })) {
        throwIfAborted(signal);
        const { data } = await this.program.run({
          ...padBatch(
            batch.map((index) => ids[index]!),
            tokenizer.padId,
          ),
          slots: hostTensor(
            'int64',
            [batch.length],
            batch.map((index) => slots[index]!),
          ),
          ...matrices,
        });
        const vectors = data as Float32Array;
        for (const [row, index] of batch.entries()) {
          result.set(vectors.subarray(row * hidden, (row + 1) * hidden), index * hidden);
        }
      }
    } finally {
      for (const slot of used) {
        const left = this.#readers.get(slot)! - 1;
        if (left > 0) this.#readers.set(slot, left);
        else this.#readers.delete(slot);
      }
    }
    return result;
  }

  async dispose(): Promise<void> {
    await this.program.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #slotOf(name: string): number {
    const slot = this.#slots.get(name);
    if (slot !== undefined) return slot;
    throw new FewtuneError(
      'ADAPTER_UNKNOWN',
      `there is no adapter "${name}"${near(name, this.names)}. Add it first, or ask for null, the encoder as it is.`,
    );
  }
}

/**
 * y = x Wᵀ + b + (x Aᵢᵀ) Bᵢᵀ, i the adapter of the row.
 *
 * @param inputs `slots` int64 [batch]; `down<m>` [adapters, rank, in], `up<m>` [adapters, rank, out], scaled
 */
function byRow(inputs: Readonly<Record<string, Tensor>>, modules: readonly string[]): LinearFn {
  const [batch, seq] = inputs.inputIds!.shape as [Dim, Dim];
  return (x, module, weight, bias) => {
    const base = product(x, weight, bias); // [batch · seq, out]
    const at = modules.indexOf(module);
    if (at < 0) return base;
    const [outer, inner] = weight.shape as [Dim, Dim];
    const rows = reshape(x, [batch, seq, inner]);
    const down = gather(inputs[`down${at}`]!, inputs.slots!); // [batch, rank, in]
    const up = gather(inputs[`up${at}`]!, inputs.slots!); // [batch, rank, out]
    const update = matMul(matMul(rows, down, { transposeB: true }), up); // [batch, seq, out]
    return add(base, reshape(update, [-1, outer]));
  };
}
