import { compile, type HostTensor, type Named, type Program } from '@fewtune/engine';
import {
  constantWeights,
  type Encoder,
  lengthBatches,
  packBatch,
  packedPairSpecs,
  packedSpecs,
  packPairs,
} from '@fewtune/models';
import { throwIfAborted } from '../../errors.js';
import { readsTypes, type TuneExamples, tokenise } from './examples.js';
import { taskLogits } from './forward.js';
import type { Task } from './task.js';

/** Tokens of one batch, as in `SentenceEmbedder`. */
const tokensPerBatch = 768;

/** An encoder with a head: texts to logits. `dispose()` frees it. */
export class TaskLogits {
  private constructor(
    private readonly encoder: Encoder,
    private readonly task: Pick<Task, 'outputs' | 'reads'>,
    private readonly program: Program<Named<HostTensor>, HostTensor>,
  ) {}

  /** @param pairs whether it is to read pairs of texts */
  static async open(
    encoder: Encoder,
    task: Pick<Task, 'outputs' | 'reads' | 'logits'>,
    head: Named<HostTensor>,
    threads?: number,
    pairs = false,
  ): Promise<TaskLogits> {
    const program = await compile(
      (batch) => {
        const fixed = constantWeights({ ...encoder.weights, ...head });
        return taskLogits({ encoder, adaptation: {}, task }, {}, fixed, batch);
      },
      pairs && readsTypes(encoder) ? packedPairSpecs : packedSpecs,
      { threads, name: 'logits' },
    );
    return new TaskLogits(encoder, task, program as unknown as Program<Named<HostTensor>, HostTensor>);
  }

  /**
   * @returns logits of each text, in their order: [outputs], or [tokens, outputs] where tokens are read
   * @throws FewtuneError INTERRUPTED
   */
  async of(examples: TuneExamples, signal?: AbortSignal): Promise<Float32Array[]> {
    if (examples.texts.length === 0) return [];
    const { ids, types } = tokenise(this.encoder, examples);
    const found: Float32Array[] = [];
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(signal);
      const rows = batch.map((index) => ids[index]!);
      const { padId } = this.encoder.tokenizer;
      const packed = types
        ? packPairs(
            batch.map((index) => ({ ids: ids[index]!, types: types[index]! })),
            padId,
          )
        : packBatch(rows, padId);
      const { data } = await this.program.run(packed);
      let at = 0;
      for (const [i, index] of batch.entries()) {
        const size = this.task.outputs.length * (this.task.reads === 'tokens' ? rows[i]!.length : 1);
        found[index] = (data as Float32Array).slice(at, at + size);
        at += size;
      }
    }
    return found;
  }

  async dispose(): Promise<void> {
    await this.program.dispose();
  }
}

/** One array after another. */
export function joined(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
