import type { Encoder } from '@fewtune/models';
import { checkAdapterName } from '../artifact/adapter-names.js';
import type { ClassifierGraph } from '../artifact/graph.js';
import type { LinearHead } from '../artifact/linear-head.js';
import { packModel } from '../artifact/pack.js';
import { ClassifierSession } from '../artifact/session.js';
import { requireTrainable, type TextDataset } from '../data/dataset.js';
import { FewtuneError } from '../errors.js';
import { fitTemperature } from '../evaluation/calibration.js';
import { type AdaptationName, adaptationOf, adaptations } from '../methods/peft/adaptations.js';
import type { Adapter } from '../methods/peft/adapter.js';
import { besideEncoder } from '../methods/peft/merge.js';
import { adapterFolderFiles } from '../methods/peft/model-adapters.js';
import { type TuneOptions, tuneOptionNames } from '../methods/tune/options.js';
import { describePlan, planTuning } from '../methods/tune/plan.js';
import type { ParameterReport } from '../methods/tune/report.js';
import { classification } from '../methods/tune/tasks/classification.js';
import { tune } from '../methods/tune/tune.js';
import type { Tuned } from '../methods/tune/tuned.js';
import type { Run } from '../run.js';
import { tuneDefaults } from './finetune-task-options.js';
import {
  compareLogits,
  type FinetuneEvent,
  finetunedReport,
  holdOut,
  type MergeReport,
  type ShowFinetune,
  startFinetune,
} from './finetuned-report.js';
import { divide } from './hold-out.js';
import { encoderNamed, headLogits } from './merge.js';
import { taskGraph } from './task-graph.js';
import { TrainedModel } from './trained-model.js';

export interface FinetuneOptions {
  /** Which weights are trained, and how; `lora`. */
  readonly method?: AdaptationName;
  /**
   * Of the method, of `tune` (its defaults are those of `finetuneTask`), `validation` (the share of every class that is held
   * back, 0.2) and `patience` (looks at it without a lower loss before the end, 3, or `none`).
   */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Rows to measure on: another dataset, or the fraction of the rows (of every class) that is put aside. */
  readonly test?: TextDataset | number;
  /** As `tune`'s: where the run's state is kept, a state to go on from, a folder for its metrics. */
  readonly checkpoint?: TuneOptions['checkpoint'];
  readonly resume?: string;
  readonly log?: string;
  /** What the adapter is called in the model folder; `tuned`. */
  readonly name?: string;
  /** Default 7. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

export interface Finetuned {
  /** Runs what is written; `save` writes the model folder, with the adapter in `adapters/<name>`. */
  readonly model: TrainedModel;
  /** Absent where the method has none (`full`, `bitfit`). */
  readonly adapter?: Adapter;
  readonly head: LinearHead;
  readonly merge: MergeReport;
  readonly parameters: ParameterReport;
}

/**
 * Fine-tunes an encoder with a head on labelled texts, one label each: `tune`, measured and as a model folder.
 *
 * @param base a Hub id, a folder, `minilm` for the embedded encoder, or an encoder
 * @throws (through `result` and through iteration) FewtuneError OPTION_INVALID, CLASS_SINGLE, CLASS_TOO_SMALL, LABEL_UNKNOWN,
 *   LOSS_NOT_FINITE, INTERRUPTED; ModelError of an encoder that is not there
 * @example
 * const run = finetune('minilm', await readTable('tickets.csv'), { method: 'lora', options: { rank: 16 } });
 * const { model, adapter } = await run.result;
 * await model.save('models/tickets');
 */
export function finetune(
  base: string | Encoder,
  data: TextDataset,
  options: FinetuneOptions = {},
): Run<FinetuneEvent, Finetuned> {
  return startFinetune((show) => work(base, data, options, show), options.signal);
}

async function work(
  base: string | Encoder,
  data: TextDataset,
  options: FinetuneOptions,
  show: ShowFinetune,
): Promise<Finetuned> {
  const started = performance.now();
  const { method = 'lora', seed = 7, threads, signal, name = 'tuned' } = options;
  checkAdapterName(name);
  const { tuning, own, validation, patience } = splitOptions(method, options.options ?? {});
  const adapt = adaptationOf(method, own);
  requireTrainable(data);
  const encoder = typeof base === 'string' ? await encoderNamed(base, signal) : base;
  const { learned: all, test } = divide(data, options.test, seed);
  const { learned, held } = holdOut(all, validation, seed, data.source);
  const { classes } = learned;
  show('read', 0.01, { examples: learned.texts.length, classes: classes.length });
  const on = { examples: { texts: held.texts }, task: classification(held.labels, classes) };
  const task = classification(learned.labels, classes);
  const examples = { texts: learned.texts };
  const { checkpoint, resume, log } = options;
  const chosen = { ...tuneDefaults(method, learned.texts.length), ...tuning };
  const settings: TuneOptions = {
    ...chosen,
    validation: { on, ...(patience !== 'none' && { patience }) },
    ...(checkpoint && { checkpoint }),
    ...(resume !== undefined && { resume }),
    ...(log !== undefined && { log }),
  };
  const plan = await planTuning(encoder, examples, task, adapt, settings, { seed, threads });
  show('read', 0.02, { note: describePlan(plan) });
  const tuned = await tune(encoder, examples, task, adapt, settings, {
    seed,
    threads,
    signal,
    onProgress({ step, steps, epoch, loss, lr, look, warning }) {
      const looked = look && { validation: look.score.value, validationLoss: look.loss };
      show('fit', 0.02 + (0.9 * step) / steps, warning ? { warning } : { epoch, loss, lr, ...looked });
    },
  });
  let session: ClassifierSession | undefined;
  try {
    const head = headOf(tuned.head);
    const heldLogits = await tuned.logits(held.texts, { signal });
    const temperature = fitTemperature(heldLogits, held.labels, classes.length);
    const { adapter } = tuned;
    const packed = new Map([
      ...packModel(graphOf(tuned), classes, temperature),
      ...(adapter ? adapterFolderFiles(name, adapter, { ...head, labels: classes }) : []),
    ]);
    session = await ClassifierSession.open(packed, { threads });
    show('evaluate', 0.95);
    const measured = test ?? held;
    const after = await session.logits(measured.texts, { signal });
    const mergeable = adapter !== undefined && !tuned.encoder().addition;
    const before = mergeable
      ? await headLogits(besideEncoder(encoder, adapter), { ...head, labels: classes }, measured.texts, {
          threads,
          signal,
        })
      : await tuned.logits(measured.texts, { signal });
    const merge = { merged: true, ...compareLogits(before, after, temperature, measured.labels, classes.length) };
    const { report: parameters, history } = tuned;
    const report = finetunedReport({
      started,
      method: {
        name: method,
        options: { ...own, ...chosen, validation, patience },
        details: {
          steps: history.steps.length,
          ...(history.kept && { keptEpoch: history.kept.epoch }),
          adapterParameters: parameters.trainableBody,
          headParameters: parameters.trainableHead,
          totalParameters: parameters.total,
          largestMergeDifference: merge.largestDifference,
        },
      },
      encoder: {
        id: encoder.id,
        ...(encoder.revision && { revision: encoder.revision }),
        fingerprint: encoder.fingerprint,
      },
      session,
      labels: classes,
      temperature,
      data,
      learned,
      held: held.texts.length,
      logits: after,
      truth: measured.labels,
      ...(test && { how: test.how }),
      seed,
    });
    show('evaluate', 1, { accuracy: report.metrics.accuracy });
    const model = new TrainedModel({ report, session }, async () => packed);
    return { model, ...(adapter && { adapter }), head, merge, parameters };
  } catch (error) {
    await session?.dispose();
    throw error;
  } finally {
    await tuned.dispose();
  }
}

/** @throws FewtuneError OPTION_INVALID */
export function splitOptions(method: string, given: Readonly<Record<string, unknown>>) {
  if (!Object.hasOwn(adaptations, method)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `no way of fine-tuning is named "${method}"; there are ${Object.keys(adaptations).join(', ')}.`,
    );
  }
  const { validation = 0.2, patience = 3, ...rest } = given;
  if (!(typeof validation === 'number' && validation > 0 && validation < 1)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `validation: ${JSON.stringify(validation)}; give a share between 0 and 1.`,
    );
  }
  if (patience !== 'none' && !(Number.isInteger(patience) && (patience as number) > 0)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `patience: ${JSON.stringify(patience)}; give a whole number above 0, or none.`,
    );
  }
  const isTuning = (key: string) => tuneOptionNames.includes(key);
  const part = (wanted: boolean) =>
    Object.fromEntries(Object.entries(rest).filter(([key]) => isTuning(key) === wanted));
  return {
    tuning: part(true),
    own: part(false) as Record<string, never>,
    validation,
    patience: patience as number | 'none',
  };
}

function headOf(head: Readonly<Record<string, { readonly data: unknown }>>): LinearHead {
  return {
    weight: head['classifier.weight']!.data as Float32Array,
    bias: head['classifier.bias']!.data as Float32Array,
  };
}

/** The head that was trained along reads pooled states as they are. */
function graphOf(tuned: Tuned): ClassifierGraph {
  const encoder = tuned.encoder();
  const { forward, tokenizer, config, weights } = taskGraph(tuned, encoder, false);
  return {
    tokenizer,
    modelType: String(config.model_type),
    config,
    weights,
    forward: (traced, inputs) => ({ logits: forward(traced, inputs) }),
  };
}
