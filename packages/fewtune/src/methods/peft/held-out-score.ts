import { labelIndices } from '../../data/dataset.js';
import { FewtuneError } from '../../errors.js';
import { negativeLogLikelihood } from '../../evaluation/calibration.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits } from '../linear/logistic.js';
import type { Labelled } from '../method.js';
import { prototypeHead } from '../metric/prototype.js';
import type { LoraAdapter } from './adapter.js';
import type { AdapterBank } from './adapter-bank.js';
import type { LabelledHead } from './model-adapters.js';

/** How good an adapter is on rows that nothing was trained on. */
export interface HeldOutScore {
  readonly accuracy: number;
  /** Tells apart what gets as many right; infinite when left out. */
  readonly loss?: number;
}

export const expectedLoss = ({ loss = Number.POSITIVE_INFINITY }: HeldOutScore): number => loss;

/** Rows that prototypes are made of, and rows that are asked; both of the same classes. */
export interface PrototypeRows {
  readonly support: Labelled;
  readonly heldOut: Labelled;
}

/** Cosines times this are logits, as in a metric learner's usual start. */
const sharpness = 20;

/**
 * Scores an adapter by the nearest class mean: the share of held-out texts whose class has the nearest mean of its support,
 * and the cross-entropy of the cosines. The adapter is in the bank only while it is measured.
 *
 * @throws FewtuneError OPTION_INVALID when the two do not have the same classes
 */
export function prototypeScore(
  bank: AdapterBank,
  { support, heldOut }: PrototypeRows,
): (adapter: LoraAdapter) => Promise<HeldOutScore> {
  if (support.classes.join('\n') !== heldOut.classes.join('\n')) {
    throw new FewtuneError('OPTION_INVALID', 'the support and the held-out rows have other classes than one another.');
  }
  const { hidden } = bank.encoder;
  const classes = support.classes.length;
  return (adapter) =>
    whileIn(bank, adapter, async (name) => {
      const features = await bank.embed(support.texts, name);
      const head = prototypeHead({ hidden, classes, features, labels: support.labels }, 1);
      const cosines = headLogits(head, await bank.embed(heldOut.texts, name));
      return scoreOf(
        cosines.map((value) => sharpness * value),
        heldOut.labels,
        classes,
      );
    });
}

/**
 * Scores an adapter by a head that was trained along with one of those that are combined.
 *
 * @param bank made with `normalise: false`, which is what such heads read
 */
export function headScore(
  bank: AdapterBank,
  head: LabelledHead,
  heldOut: Labelled,
): (adapter: LoraAdapter) => Promise<HeldOutScore> {
  const labels = labelIndices(
    Array.from(heldOut.labels, (label) => heldOut.classes[label]!),
    head.labels,
  );
  if (labels.includes(-1)) {
    throw new FewtuneError('LABEL_UNKNOWN', 'the held-out rows have labels that the head does not know.');
  }
  return (adapter) =>
    whileIn(bank, adapter, async (name) =>
      scoreOf(headLogits(head, await bank.embed(heldOut.texts, name)), labels, head.labels.length),
    );
}

async function whileIn<T>(bank: AdapterBank, adapter: LoraAdapter, work: (name: string) => Promise<T>): Promise<T> {
  let name = 'measured';
  while (bank.names.includes(name)) name += '*';
  bank.add(name, adapter);
  try {
    return await work(name);
  } finally {
    bank.remove(name);
  }
}

const scoreOf = (logits: Float32Array, labels: Int32Array, classes: number): HeldOutScore => ({
  accuracy: accuracy(argmaxRows(logits, classes), labels),
  loss: negativeLogLikelihood(logits, labels, classes),
});
