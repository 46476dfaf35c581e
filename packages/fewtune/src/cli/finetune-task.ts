import { rm } from 'node:fs/promises';
import { checkOutput } from '../artifact/folder.js';
import type { Measured } from '../artifact/task-manifest.js';
import { type ReadTaskOptions, readTask } from '../data/read-task.js';
import type { TargetKind, TaskDataset } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import type { AdaptationName } from '../methods/peft/adaptations.js';
import { duration, printable, table } from '../text.js';
import { splitOptions } from '../workflow/finetune.js';
import { finetuneTask } from '../workflow/finetune-task.js';
import { checkFinetuneTaskOptions, type FinetuneTaskOptions } from '../workflow/finetune-task-options.js';
import type { TunedModel } from '../workflow/tuned-model.js';
import { reportRepairs } from './repairs.js';
import { shareIn } from './train.js';
import { watch } from './watch.js';

export const taskKinds: readonly TargetKind[] = ['classification', 'multi-label', 'ordinal', 'regression', 'tokens'];

/** Flags of `finetune` by which it is for another task than one label of one text. */
export interface TaskFlags {
  readonly task: TargetKind;
  readonly pair?: string;
  readonly separator?: string;
  readonly order?: readonly string[];
  readonly loss?: FinetuneTaskOptions['loss'];
}

export interface TaskRun extends TaskFlags {
  readonly base: string;
  readonly file: string;
  readonly out: string;
  readonly text?: string;
  readonly label?: string;
  readonly test?: string;
  readonly method: string;
  /** Of the method, of the training, and `validation` and `patience`, as they were given. */
  readonly options: Readonly<Record<string, unknown>>;
  /** The run's state, a state to go on from, its metrics. */
  readonly kept: { readonly checkpoint: { readonly path: string }; readonly resume?: string; readonly log?: string };
  readonly seed: number;
  readonly threads?: number;
  readonly json?: boolean;
  readonly signal: AbortSignal;
}

/** `fewtune finetune --task …`: reads, tunes, measures beside the baselines, saves, tells. */
export async function finetuneForTask(run: TaskRun): Promise<void> {
  const { file, out, task, text, label, pair, separator, order, json, signal } = run;
  const options = optionsOf(run);
  checkFinetuneTaskOptions(options, task);
  await checkOutput(out); // before any work is done
  const columns: ReadTaskOptions = { task, text, label, pair, separator, order, signal };
  const data = await readTask(file, columns);
  reportRepairs(data);
  const test = await testOf(run.test, columns, data);
  const tuning = finetuneTask(run.base, data, { ...options, ...(test !== undefined && { test }), signal });
  const checkpoint = run.kept.checkpoint.path;
  await using model = await watch(tuning, checkpoint);
  await model.save(out, { signal });
  await rm(checkpoint, { force: true });
  process.stdout.write(
    json ? `${JSON.stringify(documentOf(model, out))}\n` : `${describeTuned(model)}\nsaved     ${out}\n`,
  );
}

function optionsOf({ method, options: given, kept, loss, seed, threads }: TaskRun): FinetuneTaskOptions {
  const { tuning, own } = splitOptions(method, given);
  const { validation, patience } = given as Pick<FinetuneTaskOptions, 'validation' | 'patience'>;
  return {
    method: method as AdaptationName,
    options: own,
    tune: { ...tuning, ...kept },
    ...(validation !== undefined && { validation }),
    ...(patience !== undefined && { patience }),
    ...(loss !== undefined && { loss }),
    seed,
    ...(threads !== undefined && { threads }),
  };
}

/** A file, read with the order of the training data, or a share of it. */
async function testOf(
  given: string | undefined,
  columns: ReadTaskOptions,
  { targets }: TaskDataset,
): Promise<TaskDataset | number | undefined> {
  if (given === undefined) return undefined;
  const share = shareIn(given);
  if (share !== undefined) return share;
  const order = targets.kind === 'ordinal' ? targets.classes : undefined;
  const test = await readTask(given, { ...columns, order, purpose: 'test' });
  reportRepairs(test);
  return test;
}

/** The document of `finetune --task … --json`. */
function documentOf({ report }: TunedModel, out: string) {
  const { kind, pairs, encoder, method, outputs, trainingData, seconds, score, baselines, evaluatedOn } = report;
  return {
    model: out,
    base: encoder.id,
    method: method.name,
    task: kind,
    pairs,
    outputs,
    examples: trainingData.examples,
    seconds,
    score,
    baselines,
    evaluatedOn,
    notes: trainingData.notes,
    repairs: trainingData.repairs,
  };
}

function describeTuned({ report }: TunedModel): string {
  const { kind, method, encoder, score, baselines, evaluatedOn, trainingData, seconds } = report;
  const rows = [{ baseline: method.name, score }, ...baselines].map(({ baseline, score: one }) => [
    baseline,
    ...figures(one),
  ]);
  return printable(
    [
      table(['', score.name, '95 % interval', ''], rows),
      '',
      `task      ${kind}, ${method.name} on ${encoder.id}`,
      `measured  ${evaluatedOn.how}`,
      ...trainingData.notes.map((note) => `note      ${note}`),
      `trained   in ${duration(seconds * 1000)}`,
    ].join('\n'),
  );
}

/** A score, its interval and its other figures. */
export function figures({ value, interval, others }: Measured): string[] {
  const rest = Object.entries(others).map(([name, figure]) => `${name} ${figure.toFixed(3)}`);
  return [value.toFixed(3), `${interval[0].toFixed(3)} to ${interval[1].toFixed(3)}`, rest.join(', ')];
}

/** @throws FewtuneError OPTION_INVALID when an ONNX model is to be fine-tuned for a task */
export function refuseTask({ task, pair, separator, order, loss }: TaskFlags): void {
  const given = Object.entries({ pair, separator, order, loss }).find(([, value]) => value !== undefined)?.[0];
  if (task === 'classification' && given === undefined) return;
  throw new FewtuneError(
    'OPTION_INVALID',
    `${given === undefined ? `--task ${task}` : `--${given}`}: an ONNX model is fine-tuned for one label a text. ` +
      'Give an encoder (a Hub id, a folder with model.safetensors, or minilm).',
  );
}

/** @throws FewtuneError OPTION_INVALID for a flag without effect */
export function checkTask(flags: TaskFlags & { readonly name?: string }): void {
  const { task, separator, order, name } = flags;
  const wrong = (flag: string, what: string) => new FewtuneError('OPTION_INVALID', `--${flag}: ${what}; leave it out.`);
  if (separator !== undefined && task !== 'multi-label')
    throw wrong('separator', `only multi-label divides a cell, not ${task}`);
  if (order !== undefined && task !== 'ordinal') throw wrong('order', `only ordinal has an order, not ${task}`);
  if (name !== undefined && isForTask(flags))
    throw wrong('name', 'the adapter of a task is merged, and not kept apart');
}

/** Whether the flags ask for more than one label of one text. */
export const isForTask = ({ task, pair, loss }: TaskFlags): boolean =>
  task !== 'classification' || pair !== undefined || loss !== undefined;
