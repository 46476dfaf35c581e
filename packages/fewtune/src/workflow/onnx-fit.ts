import { hostTensor } from '@fewtune/engine';
import type { Random } from '../data/random.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { negativeLogLikelihood } from '../evaluation/calibration.js';
import { accuracy, argmaxRows } from '../evaluation/metrics.js';
import { epochBatches, stepsOf } from '../methods/tune/batches.js';
import { feedTexts, type OnnxLogits, type OnnxStepOptions, type OnnxTrainable, openOnnxStep } from './onnx-training.js';

/** Token ids of texts, and their labels as the logits count them. */
export interface OnnxRows {
  readonly ids: readonly (readonly number[])[];
  readonly labels: Int32Array;
}

export interface OnnxFitContext {
  readonly random: Random;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  onStep(share: number, metrics: Readonly<Record<string, number>>): void;
}

export interface OnnxFitOptions extends Omit<OnnxStepOptions, 'steps' | 'threads'> {
  readonly epochs: number;
  readonly batchSize: number;
  /** Epochs without a lower loss on held-out rows that end it. */
  readonly patience: number | 'none';
}

/** Epochs of batches; the weights that are kept are those with the lowest loss on held-out rows. */
export async function fitOnnx(
  model: OnnxTrainable,
  { ids, labels }: OnnxRows,
  held: OnnxRows,
  logits: OnnxLogits,
  settings: OnnxFitOptions,
  { random, threads, signal, onStep }: OnnxFitContext,
) {
  const { epochs, batchSize, patience } = settings;
  const lengths = ids.map((row) => row.length);
  const shape = { batchSize, accumulate: 1, groupByLength: true };
  const perEpoch = stepsOf(ids.length, shape);
  const step = await openOnnxStep(model, { ...settings, steps: epochs * perEpoch, threads });
  try {
    let steps = 0;
    let best = { loss: Number.POSITIVE_INFINITY, epoch: 0, params: model.params };
    let epoch = 0;
    while (epoch < epochs && (patience === 'none' || epoch - best.epoch < patience)) {
      epoch++;
      for (const [rows = []] of epochBatches(lengths, shape, random)) {
        throwIfAborted(signal);
        const { loss, lr } = await step.run({
          ...feedOf(model, ids, rows),
          labels: hostTensor(
            'int64',
            [rows.length],
            rows.map((row) => labels[row]!),
          ),
        });
        steps++;
        if (!Number.isFinite(loss)) throw diverged(loss, steps, settings.lr);
        onStep(steps / (epochs * perEpoch), { epoch, loss, lr });
      }
      const params = await step.params();
      const found = await logits.of(params, held.ids, signal);
      const loss = negativeLogLikelihood(found, held.labels, model.classes, 1);
      if (!Number.isFinite(loss)) throw diverged(loss, steps, settings.lr);
      const validation = accuracy(argmaxRows(found, model.classes), held.labels);
      onStep(steps / (epochs * perEpoch), { epoch, validation, validationLoss: loss });
      if (loss < best.loss) best = { loss, epoch, params };
    }
    return { params: best.params, keptEpoch: best.epoch, epochs: epoch, steps };
  } finally {
    await step.dispose();
  }
}

function feedOf(model: OnnxTrainable, ids: readonly (readonly number[])[], rows: readonly number[]) {
  return feedTexts(
    model,
    rows.map((row) => ids[row]!),
  );
}

function diverged(loss: number, step: number, lr: number): FewtuneError {
  return new FewtuneError(
    'LOSS_NOT_FINITE',
    `the loss became ${loss} in step ${step} at the learning rate ${lr}; try --set lr=${(lr / 10).toPrecision(1)}.`,
  );
}
