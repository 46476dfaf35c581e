import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { type Progress, readCheckpoint, writeCheckpoint } from './meta/meta-checkpoint.js';

export interface EpochOptions<Event> {
  /** Passes over the batches; 1 when left out. */
  readonly epochs?: number;
  /** Where the run's state is kept (a safetensors file), and after how many steps; after every epoch when left out. */
  readonly checkpoint?: { readonly path: string; readonly every?: number };
  /**
   * A checkpoint to go on from, of a run with the same options. The result is that of a run without a break where the
   * batches are the same: an array, or a function of the epoch alone.
   */
  readonly resume?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (event: Event) => void;
}

export interface EpochResult {
  readonly steps: number;
  /** Mean loss of each epoch. */
  readonly epochLosses: readonly number[];
}

/** What is trained, as the loop sees it. */
export interface Epochs<Task, Event> {
  /** Everything that must be the same for a resumed run to be the run it goes on from. */
  readonly configuration: Readonly<Record<string, unknown>>;
  /** One step on a batch; `skipped` when its gradient was not finite and nothing was changed. */
  run(tasks: readonly Task[]): Promise<{ loss: number; skipped?: boolean; shown: object }>;
  snapshot(): Promise<Named<HostTensor>>;
  restore(state: Named<HostTensor>): Promise<void>;
  params(): Promise<Named<HostTensor>>;
  emit(event: Event): void;
  /** What to do when it diverges. */
  readonly advice: string;
}

type Batches<Task> =
  | Iterable<readonly Task[]>
  | ((epoch: number) => Iterable<readonly Task[]> | AsyncIterable<readonly Task[]>);

/**
 * Epochs of batches, with progress, checkpoints and a clear end.
 *
 * @returns what the run found, and the parameters at its end; these also when it stops by an error, with it
 * @throws FewtuneError OPTION_INVALID, FILE_NOT_FOUND, FILE_UNREADABLE
 */
export async function runEpochs<Task, Event>(
  batches: Batches<Task>,
  options: EpochOptions<Event>,
  work: Epochs<Task, Event>,
): Promise<{ params: Named<HostTensor>; result?: EpochResult; error?: unknown }> {
  const { epochs = 1, resume } = options;
  if (!Number.isInteger(epochs) || epochs < 1) {
    throw new FewtuneError('OPTION_INVALID', `epochs is ${epochs}; it must be a whole number of at least 1.`);
  }
  const configuration = { ...work.configuration, epochs };
  const resumed = resume === undefined ? undefined : await readCheckpoint(resume, configuration);
  if (resumed) await work.restore(resumed.state);
  try {
    const result = await loop(batches, options, work, configuration, resumed?.progress);
    return { params: await work.params(), result };
  } catch (error) {
    return { params: await work.params(), error };
  }
}

async function loop<Task, Event>(
  batches: Batches<Task>,
  { epochs = 1, checkpoint, signal }: EpochOptions<Event>,
  work: Epochs<Task, Event>,
  configuration: Readonly<Record<string, unknown>>,
  from: Progress = { epoch: 0, batches: 0, sum: 0, steps: 0, epochLosses: [] },
): Promise<EpochResult> {
  const started = performance.now();
  const epochLosses = [...from.epochLosses];
  let step = from.steps;
  const keep = async (epoch: number, batches: number, sum: number) => {
    if (!checkpoint) return;
    const progress = { epoch, batches, sum, steps: step, epochLosses };
    await writeCheckpoint(checkpoint.path, configuration, progress, await work.snapshot());
  };
  for (let epoch = from.epoch; epoch < epochs; epoch++) {
    const done = epoch === from.epoch ? from.batches : 0;
    let sum = done > 0 ? from.sum : 0;
    let count = 0;
    for await (const tasks of typeof batches === 'function' ? batches(epoch) : batches) {
      if (count++ < done) continue;
      throwIfAborted(signal);
      if (tasks.length === 0) throw new FewtuneError('ROWS_EMPTY', 'a batch has no episode; give it at least one.');
      const { loss, skipped, shown } = await work.run(tasks);
      step++;
      if (skipped || !Number.isFinite(loss)) {
        const what = Number.isFinite(loss) ? 'its gradient is not finite' : `the loss became ${loss}`;
        throw new FewtuneError(
          'LOSS_NOT_FINITE',
          `meta-training diverged in step ${step}: ${what}. ${work.advice} The weights are those before that step.`,
        );
      }
      sum += loss;
      if (checkpoint?.every && step % checkpoint.every === 0) await keep(epoch, count, sum);
      work.emit({ epoch: epoch + 1, epochs, step, loss, ...shown, elapsedMs: performance.now() - started } as Event);
    }
    if (count === 0) throw new FewtuneError('ROWS_EMPTY', `epoch ${epoch + 1} has no batch of episodes.`);
    epochLosses.push(sum / count);
    await keep(epoch + 1, 0, 0);
  }
  return { steps: step, epochLosses };
}
