import type { Entity } from '../data/entity.js';
import type { TaskDataset } from '../data/task-dataset.js';
import { argmaxRows } from '../evaluation/metrics.js';
import { multiLabelScores } from '../evaluation/multi-label.js';
import type { FitContext } from '../methods/method.js';
import { tfidf } from '../methods/tfidf/tfidf.js';
import { type Answers, truthOf } from './task-answers.js';

/** Answers that need no encoder, to hold a fine-tuned one against: learned from the same rows. */
export async function baselineAnswers(
  train: TaskDataset,
  test: TaskDataset,
  outputs: readonly string[],
  context: Pick<FitContext, 'seed' | 'threads' | 'signal'>,
): Promise<{ baseline: string; answers: Answers }[]> {
  const truth = truthOf(train, outputs);
  const rows = test.texts.length;
  switch (truth.kind) {
    case 'regression': {
      const mean = Array.from(truth.values).reduce((a, b) => a + b, 0) / truth.values.length;
      return [{ baseline: 'mean', answers: { kind: truth.kind, values: new Float64Array(rows).fill(mean) } }];
    }
    case 'tokens':
      return [{ baseline: 'known words', answers: { kind: truth.kind, entities: knownEntities(train, test) } }];
    case 'multi-label': {
      const always = usualLabels(truth.flags, outputs);
      const flags = Uint8Array.from({ length: rows * outputs.length }, (_, i) => always[i % outputs.length]!);
      return [{ baseline: 'usual labels', answers: { kind: truth.kind, flags } }];
    }
    case 'classification':
    case 'ordinal': {
      const { kind, classes } = truth;
      const counts = new Int32Array(outputs.length);
      for (const label of Array.from(classes)) counts[label]!++;
      const usual = counts.indexOf(Math.max(...counts));
      const majority = { baseline: 'majority', answers: { kind, classes: new Int32Array(rows).fill(usual) } };
      if (train.pairs || counts.filter((count) => count > 0).length < 2) return [majority];
      const fitted = await tfidf.fit(
        { texts: train.texts, labels: Int32Array.from(classes), classes: outputs },
        tfidf.defaults,
        { ...context, encoder: none, features: none },
      );
      const logits = await fitted.logits(test.texts, context.signal);
      await fitted.dispose?.();
      return [majority, { baseline: 'tfidf', answers: { kind, classes: argmaxRows(logits, outputs.length) } }];
    }
    default:
      return truth satisfies never;
  }
}

const none = (): Promise<never> => Promise.reject(new Error('a baseline has no encoder'));

/** The most usual labels, so many as have the best micro F1 when every text has just these. */
function usualLabels(flags: ArrayLike<number>, outputs: readonly string[]): Uint8Array {
  const width = outputs.length;
  const counts = outputs.map((_, c) => {
    let count = 0;
    for (let i = c; i < flags.length; i += width) count += flags[i]!;
    return count;
  });
  const order = [...counts.keys()].sort((a, b) => counts[b]! - counts[a]!);
  let best = { f1: -1, always: new Uint8Array(width) };
  for (let many = 1; many <= width; many++) {
    const always = new Uint8Array(width);
    for (const label of order.slice(0, many)) always[label] = 1;
    const all = Uint8Array.from({ length: flags.length }, (_, i) => always[i % width]!);
    const f1 = multiLabelScores(all, flags, outputs).microF1;
    if (f1 > best.f1) best = { f1, always };
  }
  return best.always;
}

/** Wherever words stand that were an entity in training, whatever their case: the longest first, with its usual label. */
function knownEntities(train: TaskDataset, test: TaskDataset): Entity[][] {
  const known = new Map<string, Map<string, number>>();
  if (train.targets.kind !== 'tokens') return [];
  for (const [row, entities] of train.targets.entities.entries()) {
    for (const { start, end, label } of entities) {
      const words = train.texts[row]!.slice(start, end).toLowerCase();
      const labels = known.get(words) ?? new Map<string, number>();
      known.set(words, labels.set(label, (labels.get(label) ?? 0) + 1));
    }
  }
  const longest = [...known.keys()].sort((a, b) => b.length - a.length);
  return test.texts.map((text) => {
    const lower = text.toLowerCase();
    if (lower.length !== text.length) return [];
    const taken = new Uint8Array(text.length);
    const found: Entity[] = [];
    for (const words of longest) {
      for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, at + 1)) {
        const end = at + words.length;
        const inWord = /[\p{L}\p{N}]/u.test(text[at - 1] ?? ' ') || /[\p{L}\p{N}]/u.test(text[end] ?? ' ');
        if (inWord || taken.subarray(at, end).some((one) => one === 1)) continue;
        taken.fill(1, at, end);
        const [label] = [...known.get(words)!].reduce((a, b) => (b[1] > a[1] ? b : a));
        found.push({ start: at, end, label });
      }
    }
    return found.sort((a, b) => a.start - b.start);
  });
}
