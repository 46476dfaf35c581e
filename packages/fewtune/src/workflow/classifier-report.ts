import type { ModelReport } from '../artifact/classifier.js';
import type { Measured, TunedReport } from '../artifact/task-manifest.js';
import { metricsOf } from './measure.js';
import type { Answers } from './task-answers.js';

/** The report of a fine-tuned classifier of single texts, as an ordinary classifier's folder has it. */
export function classifierReport(report: TunedReport, logits: Float32Array, truth: Answers): ModelReport {
  const labels = Int32Array.from((truth as { classes: ArrayLike<number> }).classes);
  const { outputs, method, trainingData, score, baselines, seconds } = report;
  const { notes: _, ...learned } = trainingData;
  const entry = (name: string, { value, interval }: Measured, took: number) => ({
    method: name,
    accuracy: value,
    accuracyInterval: interval,
    examples: labels.length,
    seconds: took,
  });
  const { fingerprint, id, revision } = report.encoder;
  return {
    schemaVersion: 1,
    task: 'text-classification',
    library: report.library,
    created: report.created,
    method,
    encoder: { id, revision, fingerprint },
    preprocessing: report.preprocessing,
    labels: outputs,
    temperature: report.temperature,
    trainingData: { ...learned, classes: outputs.length },
    seed: report.seed,
    seconds,
    metrics: metricsOf(logits, labels, outputs.length, report.seed),
    evaluatedOn: { kind: 'test', ...report.evaluatedOn },
    advice: {
      requested: method.name,
      chosen: method.name,
      rule: 'Fine-tuned as asked; nothing was raced.',
      tried: [entry(method.name, score, seconds), ...baselines.map(({ baseline, score }) => entry(baseline, score, 0))],
      skipped: [],
    },
  };
}
