import type { Encoder } from '@fewtune/models';
import { type Prediction, prediction } from '../../artifact/classifier.js';
import { FewtuneError } from '../../errors.js';
import { headLogits } from '../linear/logistic.js';
import type { Adapter } from './adapter.js';
import { AdapterBank, type AdapterBankOptions } from './adapter-bank.js';
import type { LabelledHead } from './model-adapters.js';
import { near } from './near-names.js';

/** A prediction by an adapter with its head. */
export interface AdapterPrediction extends Prediction {
  readonly adapter: string;
}

/**
 * Many fine-tuned classifiers over one encoder and one session: adapters with the heads they were trained with. Each text
 * of a call has its own; adding and removing do not disturb calls under way.
 *
 * @example
 * await using server = await AdapterServer.create(await loadEncoder());
 * for (const { name, adapter, head } of await readAdapters('models/tickets')) if (head) server.add(name, adapter, head);
 * const [first, second] = await server.predict(['my card was swallowed', 'two pizzas'], ['tickets', 'orders']);
 */
export class AdapterServer {
  readonly #heads = new Map<string, LabelledHead>();

  private constructor(private readonly bank: AdapterBank) {}

  static async create(encoder: Encoder, options: Omit<AdapterBankOptions, 'normalise'> = {}): Promise<AdapterServer> {
    return new AdapterServer(await AdapterBank.create(encoder, { ...options, normalise: false }));
  }

  get names(): string[] {
    return [...this.#heads.keys()];
  }

  /**
   * Takes an adapter in with its head, or others under the same name.
   *
   * @param head weight [labels, hidden] and bias [labels], on the encoder's pooled states
   * @throws FewtuneError ADAPTER_MISMATCH when either is for another encoder; as `AdapterBank.add`
   */
  add(name: string, adapter: Adapter, head: LabelledHead): void {
    const { hidden } = this.bank.encoder;
    const { weight, bias, labels } = head;
    if (bias.length !== labels.length || weight.length !== labels.length * hidden) {
      throw new FewtuneError(
        'ADAPTER_MISMATCH',
        `the head of "${name}" has ${weight.length} weights and ${bias.length} biases for ${labels.length} labels; ` +
          `the encoder gives ${hidden} numbers a text.`,
      );
    }
    this.bank.add(name, adapter);
    this.#heads.set(name, head);
  }

  /** @throws FewtuneError ADAPTER_UNKNOWN */
  remove(name: string): void {
    this.#headOf(name);
    this.bank.remove(name);
    this.#heads.delete(name);
  }

  /**
   * The most probable label of each text, by the head of its adapter.
   *
   * @param adapters one for all texts, or one for each
   * @throws FewtuneError ADAPTER_UNKNOWN for a name that is not there: never an answer by another; OPTION_INVALID, INTERRUPTED
   */
  async predict(
    texts: readonly string[],
    adapters: string | readonly string[],
    options: { signal?: AbortSignal } = {},
  ): Promise<AdapterPrediction[]> {
    const names = typeof adapters === 'string' ? texts.map(() => adapters) : adapters;
    // What belongs together is looked up now: a head that is replaced meanwhile is not that of the vectors.
    const heads = names.map((name) => this.#headOf(name));
    const vectors = await this.bank.embed(texts, names, options);
    const { hidden } = this.bank.encoder;
    return names.map((name, row) => {
      const head = heads[row]!;
      const logits = headLogits(head, vectors.subarray(row * hidden, (row + 1) * hidden));
      return { adapter: name, ...prediction(logits, head.labels) };
    });
  }

  async dispose(): Promise<void> {
    await this.bank.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #headOf(name: string): LabelledHead {
    const head = this.#heads.get(name);
    if (head) return head;
    throw new FewtuneError('ADAPTER_UNKNOWN', `there is no adapter "${name}"${near(name, this.names)}. Add it first.`);
  }
}
