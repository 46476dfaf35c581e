import { basename } from 'node:path';
import type { Encoder } from '@fewtune/models';
import { sha256Of } from '../artifact/sealed.js';
import type { TunedReport } from '../artifact/task-manifest.js';
import { packTask } from '../artifact/task-pack.js';
import { TaskSession } from '../artifact/task-session.js';
import type { TaskDataset } from '../data/task-dataset.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { type AdaptationName, adaptationOf } from '../methods/peft/adaptations.js';
import { joined } from '../methods/tune/logits.js';
import { describePlan, planTuning } from '../methods/tune/plan.js';
import { tune } from '../methods/tune/tune.js';
import { type Run, startRun } from '../run.js';
import { version } from '../version.js';
import { classifierReport } from './classifier-report.js';
import { divideTask } from './divide-task.js';
import {
  checkFinetuneTaskOptions,
  type FinetuneTaskOptions,
  finetuneTaskDefaults,
  plainSettings,
  tuneDefaults,
} from './finetune-task-options.js';
import { encoderNamed } from './merge.js';
import { measureAnswers, truthOf } from './task-answers.js';
import { baselineAnswers } from './task-baselines.js';
import { taskGraph } from './task-graph.js';
import { answersOf, notesOf, outputsOf, taskOf, temperatureOf, thresholdsOf } from './task-of.js';
import { TunedModel } from './tuned-model.js';

export type FinetuneTaskStage = 'load' | 'baselines' | 'tune' | 'evaluate';

export interface FinetuneTaskEvent {
  readonly stage: FinetuneTaskStage;
  /** Of the whole run, 0..1, never falling; an estimate. */
  readonly fraction: number;
  readonly elapsedMs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
}

export type FinetuneTaskRun = Run<FinetuneTaskEvent, TunedModel>;

/**
 * Fine-tunes an encoder for a task, measures it on rows that no fit saw, beside what needs no encoder, and gives a model
 * that runs and saves itself. The rows that measure are put aside first; of the others a share chooses the epoch, the
 * thresholds of several labels and the temperature of probabilities.
 *
 * @param base a Hub id, a folder, `minilm` for the embedded encoder (the default), or an encoder
 * @throws (through `result` and through iteration) FewtuneError OPTION_INVALID, ROWS_EMPTY, CLASS_SINGLE, LABEL_UNKNOWN,
 *   TARGET_INVALID, LOSS_NOT_FINITE, INTERRUPTED
 * @example
 * const data = await readTask('reviews.csv', { task: 'ordinal', text: 'review', label: 'stars' });
 * const run = finetuneTask('all-MiniLM-L6-v2', data);
 * for await (const { fraction, metrics } of run) console.log(fraction, metrics);
 * await using model = await run.result;
 * console.log(model.report.score); // { name: 'quadratic kappa', value, interval, others }
 */
export function finetuneTask(
  base: string | Encoder | undefined,
  data: TaskDataset,
  options: FinetuneTaskOptions = {},
): FinetuneTaskRun {
  return startRun((emit) =>
    learn(base, data, options, stages(emit)).catch((cause: unknown) => {
      // Whatever an abort made fail is an interruption, in whichever package it surfaced.
      if (cause instanceof FewtuneError || options.signal?.aborted !== true) throw cause;
      throw new FewtuneError('INTERRUPTED', 'interrupted before it finished', { cause });
    }),
  );
}

async function learn(
  base: string | Encoder | undefined,
  data: TaskDataset,
  options: FinetuneTaskOptions,
  emit: Emit,
): Promise<TunedModel> {
  const started = performance.now();
  checkFinetuneTaskOptions(options, data.targets.kind);
  const { method, test: share, validation, patience, baselines, seed } = { ...finetuneTaskDefaults, ...options };
  const { signal, threads } = options;
  const adapt = adaptationOf(method as AdaptationName, options.options as never);
  const names = outputsOf(data.targets);
  const { train, held, test, how } = divideTask(data, share, validation, seed);
  emit('load', 0, { examples: train.texts.length });
  const encoder = typeof base === 'object' ? base : await encoderNamed(base ?? 'minilm', signal);
  throwIfAborted(signal);
  const truth = truthOf(test, names);
  emit('baselines', 0);
  const others = baselines ? await baselineAnswers(train, test, names, { seed, threads, signal }) : [];

  const task = taskOf(train, names, encoder.tokenizer, options.loss);
  const heldTask = taskOf(held, names, encoder.tokenizer, options.loss, 'scale' in task ? task.scale : undefined);
  const settings = { ...tuneDefaults(method, train.texts.length), ...options.tune };
  const examples = { texts: train.texts, pairs: train.pairs };
  const whole = {
    ...settings,
    validation: { on: { examples: { texts: held.texts, pairs: held.pairs }, task: heldTask }, patience },
  };
  const plan = await planTuning(encoder, examples, task, adapt, whole, { seed, threads });
  emit('baselines', 1, { note: describePlan(plan) });
  const tuned = await tune(encoder, examples, task, adapt, whole, {
    seed,
    threads,
    signal,
    onProgress: ({ step, steps, loss, lr, epoch, look, warning }) =>
      emit('tune', step / steps, {
        epoch,
        loss,
        lr,
        ...(look && { heldOutLoss: look.loss, [look.score.name]: look.score.value }),
        ...(warning !== undefined && { warning }),
      }),
  });
  emit('evaluate', 0);
  const read = async () => {
    const heldLogits = await tuned.logits(held.texts, { pairs: held.pairs, signal });
    const temperature = temperatureOf(held, names, heldLogits);
    return {
      temperature,
      thresholds: thresholdsOf(held, names, heldLogits),
      files: packTask(taskGraph(tuned, tuned.encoder(), data.pairs !== undefined), temperature),
    };
  };
  const { temperature, thresholds, files } = await read().finally(() => tuned.dispose());
  const { kept } = tuned.history;
  const { trainableBody, trainableHead } = tuned.report;
  const session = await TaskSession.open(files, { threads });
  const logits = await session.run(test.texts, { pairs: test.pairs, signal }).catch(async (error: unknown) => {
    await session.dispose();
    throw error;
  });
  const answers = answersOf(test, logits, names, session.tokenizer, thresholds);
  const score = measureAnswers(answers, truth, names, seed);
  const report: TunedReport = {
    schemaVersion: 1,
    task: 'fine-tuned',
    kind: data.targets.kind,
    pairs: data.pairs !== undefined,
    library: { name: 'fewtune', version },
    created: new Date().toISOString(),
    outputs: [...task.outputs],
    ...(thresholds && { thresholds: Array.from(thresholds) }),
    temperature,
    encoder: { id: encoder.id, revision: encoder.revision, fingerprint: encoder.fingerprint },
    preprocessing: { maxLength: session.tokenizer.maxLength, padId: session.tokenizer.padId },
    method: {
      name: method,
      options: { ...options.options, ...plainSettings(settings), ...(options.loss && { loss: options.loss }) },
      details: {
        trainableParameters: trainableBody + trainableHead,
        steps: tuned.history.steps.length,
        ...(kept && { keptEpoch: kept.epoch, heldOutLoss: kept.loss }),
      },
    },
    trainingData: {
      source: basename(data.source),
      fingerprint: sha256Of(JSON.stringify([train.texts, train.pairs ?? null, train.targets])),
      examples: train.texts.length,
      repairs: data.repairs.map(({ kind, count, remedy }) => ({ kind, count, remedy })),
      notes: notesOf(task),
    },
    seed,
    seconds: (performance.now() - started) / 1000,
    score,
    baselines: others.map(({ baseline, answers }) => ({
      baseline,
      score: measureAnswers(answers, truth, names, seed),
    })),
    evaluatedOn: { examples: test.texts.length, how },
  };
  emit('evaluate', 1, { [score.name]: score.value });
  const single = report.kind === 'classification' && !report.pairs;
  return new TunedModel({
    report,
    session,
    files: async () => files,
    ...(single && { classifier: classifierReport(report, joined(logits), truth) }),
  });
}

type Emit = (stage: FinetuneTaskStage, within: number, metrics?: FinetuneTaskEvent['metrics']) => void;

/** Where each stage begins and ends within a run's fraction. */
const spans: Readonly<Record<FinetuneTaskStage, readonly [number, number]>> = {
  load: [0, 0.02],
  baselines: [0.02, 0.05],
  tune: [0.05, 0.95],
  evaluate: [0.95, 1],
};

function stages(show: (event: FinetuneTaskEvent) => void): Emit {
  const started = performance.now();
  let fraction = 0;
  return (stage, within, metrics = {}) => {
    const [begin, end] = spans[stage];
    fraction = Math.max(fraction, begin + (end - begin) * Math.min(1, within));
    show({ stage, fraction, elapsedMs: performance.now() - started, metrics });
  };
}
