import type { HostTensor, Named } from '@fewtune/engine';
import { type Encoder, fingerprint } from '@fewtune/models';
import { type Adaptation, tunedEncoder } from '../peft/adaptation.js';
import { type Adapter, baseOf } from '../peft/adapter.js';
import type { Look, TunedStep } from './best-weights.js';
import type { TuneExamples } from './examples.js';
import { joined, TaskLogits } from './logits.js';
import type { ParameterReport } from './report.js';
import type { Task } from './task.js';

/** What a run went through. */
export interface TuneHistory {
  /** Every step that did not diverge. */
  readonly steps: readonly TunedStep[];
  /** Looks at held-out examples. */
  readonly looks: readonly Look[];
  /** The look whose weights were kept; absent where they are those of the last step. */
  readonly kept?: Look;
  /** How often the rate was halved because a step diverged. */
  readonly rateHalvings: number;
}

/** A fine-tuned encoder with its head. `dispose()` frees what `logits` opened. */
export class Tuned {
  #merged: Encoder | undefined;
  readonly #logits = new Map<boolean, Promise<TaskLogits>>();

  constructor(
    private readonly base: Encoder,
    readonly task: Task,
    private readonly adaptation: Adaptation,
    /** What the adaptation trained, under its own names. */
    readonly params: Named<HostTensor>,
    readonly head: Named<HostTensor>,
    readonly history: TuneHistory,
    readonly report: ParameterReport,
    private readonly threads: number | undefined,
  ) {}

  /** What was trained, apart from the encoder and without the head; undefined where PEFT has no such kind. */
  get adapter(): Adapter | undefined {
    const adapter = this.adaptation.adapter?.(this.params);
    return adapter && { ...adapter, base: baseOf(this.base, this.adaptation.base ?? this.base.weights) };
  }

  /** An ordinary encoder with what was trained in place. */
  encoder(): Encoder {
    if (this.#merged) return this.#merged;
    const weights = { ...this.base.weights, ...this.adaptation.merge(this.params) };
    const merged = tunedEncoder(this.base, this.adaptation, weights);
    this.#merged = { ...merged, fingerprint: fingerprint(merged) };
    return this.#merged;
  }

  /**
   * @returns [texts, outputs], row-major; where tokens are read, all tokens of one text after those of another
   * @throws FewtuneError INTERRUPTED
   */
  async logits(
    texts: readonly string[],
    { pairs, signal }: Pick<TuneExamples, 'pairs'> & { signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    const paired = pairs !== undefined;
    const open =
      this.#logits.get(paired) ?? TaskLogits.open(this.encoder(), this.task, this.head, this.threads, paired);
    this.#logits.set(paired, open);
    return joined(await (await open).of({ texts, pairs }, signal));
  }

  async dispose(): Promise<void> {
    for (const open of this.#logits.values()) await (await open).dispose();
    this.#logits.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
