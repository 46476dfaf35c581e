import type { Classifier } from '../artifact/classifier.js';
import type { Metrics } from '../artifact/manifest.js';
import type { TextDataset } from '../data/dataset.js';
import { argmaxRows, perClass } from '../evaluation/metrics.js';
import { knownLabels } from './hold-out.js';
import { metricsOf } from './measure.js';

export interface Evaluation {
  readonly examples: number;
  readonly metrics: Metrics;
  readonly perClass: readonly { label: string; precision: number; recall: number; f1: number; support: number }[];
}

/**
 * Measures a model on labelled rows.
 *
 * @throws FewtuneError LABEL_UNKNOWN, INTERRUPTED
 */
export async function evaluate(
  model: Classifier,
  data: TextDataset,
  options: { signal?: AbortSignal; seed?: number } = {},
): Promise<Evaluation> {
  const { signal, seed = 7 } = options;
  const labels = knownLabels(data, model.labels, 'the model');
  const logits = await model.logits(data.texts, { signal });
  return {
    examples: data.texts.length,
    metrics: metricsOf(logits, labels, model.labels.length, seed),
    perClass: perClass(argmaxRows(logits, model.labels.length), labels, model.labels),
  };
}
