import { compile, type HostTensor, type Named, type Program, sizeOf, type TensorSpec } from '@fewtune/engine';
import { constantWeights, lengthBatches } from '@fewtune/models';
import { throwIfAborted } from '../../errors.js';
import { mapValues, prefixed, under } from '../named.js';
import type { Adaptation } from '../peft/adaptation.js';
import type { ActivationCache } from './activation-cache.js';
import type { Tokenised } from './examples.js';
import { batchSpecs, type TunedModel, targetsIn, taskLogits } from './forward.js';
import { joined } from './logits.js';
import type { Score, Task } from './task.js';
import { feedsOf } from './tune-program.js';

/** What a look at held-out examples found. */
export interface HeldOut {
  readonly loss: number;
  readonly score: Score;
}

/** Tokens of one batch, as in `SentenceEmbedder`. */
const tokensPerBatch = 768;

/** Loss and score on examples that are not learned from, by weights that change: these are inputs of its program. */
export class Validator {
  private constructor(
    private readonly model: TunedModel & { readonly adaptation: Adaptation; readonly task: Task },
    private readonly rows: readonly number[],
    private readonly tokens: Tokenised,
    private readonly program: Program<Named<HostTensor>, Named<HostTensor>>,
    private readonly cache?: ActivationCache,
  ) {}

  /**
   * @param params of which names and sizes count
   * @param rows   those of the task that are looked at
   * @param tokens those of each of these rows
   * @param cache  of their states, where these are read instead of tokens
   */
  static async open(
    model: TunedModel & { readonly adaptation: Adaptation; readonly task: Task },
    params: Named<HostTensor>,
    rows: readonly number[],
    tokens: Tokenised,
    { threads, cache }: { threads?: number; cache?: ActivationCache } = {},
  ): Promise<Validator> {
    const { adaptation, task } = model;
    const specs: Record<string, TensorSpec> = {
      ...batchSpecs({ ...model, from: cache?.layers, typed: tokens.types !== undefined }),
      ...prefixed(
        'param',
        mapValues(params, ({ dtype, shape }) => ({ dtype, shape })),
      ),
    };
    const program = await compile(
      (inputs) => {
        const frozen = constantWeights(adaptation.frozen);
        const logits = taskLogits({ ...model, from: cache?.layers }, under('param', inputs), frozen, inputs);
        const targets = targetsIn(inputs);
        const weight = task.weight?.(targets) ?? sizeOf([inputs.attentionMask!.shape[0]!], 'float32');
        return { logits, loss: task.loss(logits, targets), weight };
      },
      specs,
      { threads, name: 'validation' },
    );
    return new Validator(model, rows, tokens, program as Program<Named<HostTensor>, Named<HostTensor>>, cache);
  }

  /** @throws FewtuneError INTERRUPTED */
  async look(params: Named<HostTensor>, signal?: AbortSignal): Promise<HeldOut> {
    const { task } = this.model;
    const found: Float32Array[] = [];
    let [losses, weights] = [0, 0];
    for (const batch of lengthBatches(this.tokens.ids, { tokensPerBatch })) {
      throwIfAborted(signal);
      const of = <T>(values: readonly T[]): T[] => batch.map((index) => values[index]!);
      const { types } = this.tokens;
      const ids = of(this.tokens.ids);
      const batched = { rows: of(this.rows), ids, ...(types && { types: of(types) }) };
      const feeds = await feedsOf(this.model, batched, this.cache);
      const { logits, loss, weight } = await this.program.run({ ...feeds, ...prefixed('param', params) });
      const own = Number(weight!.data[0]);
      if (own > 0) losses += own * Number(loss!.data[0]); // a mean over nothing is no number
      weights += own;
      const perRow = ids.map((row) => task.outputs.length * (task.reads === 'tokens' ? row.length : 1));
      let at = 0;
      for (const [i, index] of batch.entries()) {
        found[index] = (logits!.data as Float32Array).slice(at, at + perRow[i]!);
        at += perRow[i]!;
      }
    }
    return { loss: losses / weights, score: task.score(joined(found), this.rows) };
  }

  async dispose(): Promise<void> {
    await this.program.dispose();
  }
}
