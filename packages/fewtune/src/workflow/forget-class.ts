import type { ModelReport } from '../artifact/classifier.js';
import type { LinearHead } from '../artifact/linear-head.js';
import type { ModelChange } from '../artifact/manifest.js';
import type { ClassifierSession } from '../artifact/session.js';
import { type KeptSupport, rowsOf } from '../artifact/support.js';
import { classKey } from '../data/class-split.js';
import { quoteSome } from '../data/dataset.js';
import { FewtuneError } from '../errors.js';

/** A model as far as learning and forgetting concern it. */
export interface ChangeableHead {
  readonly report: ModelReport;
  readonly support: KeptSupport;
  /** Before the calibration temperature. */
  readonly head: LinearHead;
  readonly session: ClassifierSession;
}

/** The same after a change, with what there is to tell about it. */
export interface Changed<Result> {
  readonly labels: readonly string[];
  readonly support: KeptSupport;
  readonly head: LinearHead;
  readonly change: Omit<ModelChange, 'at' | 'library'>;
  readonly result: Result;
}

/** What `forget` did. */
export interface Forgotten {
  readonly label: string;
  /** Kept examples that went with it. */
  readonly examples: number;
  /** Classes that are left. */
  readonly classes: number;
}

/** The model without one class: its row of the head and its examples go, everything else stays as it is. */
export function forgetClass({ report, support, head }: ChangeableHead, label: string): Changed<Forgotten> {
  const { labels } = report;
  const gone = requireLabel(labels, label);
  if (labels.length === 2) {
    throw new FewtuneError(
      'CLASS_SINGLE',
      `without ${JSON.stringify(labels[gone])} only ${quoteSome(labels.filter((_, c) => c !== gone))} would be left; a classifier needs two classes.`,
    );
  }
  const left = withoutClass(support, head, gone);
  const examples = support.labels.length - left.support.labels.length;
  const classes = labels.length - 1;
  return {
    ...left,
    labels: labels.filter((_, c) => c !== gone),
    change: { change: 'forget', label: labels[gone]!, examples },
    result: { label: labels[gone]!, examples, classes },
  };
}

/** Head and support without class `gone`; indices above it move down by one. */
export function withoutClass(
  support: KeptSupport,
  head: LinearHead,
  gone: number,
): { head: LinearHead; support: KeptSupport } {
  const { hidden, names, labels } = support;
  const kept = rowsOf(
    support,
    [...labels.keys()].filter((row) => labels[row] !== gone),
  );
  return {
    head: {
      weight: withoutRow(head.weight, hidden, gone),
      bias: withoutRow(head.bias, 1, gone),
    },
    support: {
      ...support,
      ...kept,
      labels: kept.labels.map((label) => (label > gone ? label - 1 : label)),
      ...(names && { names: withoutRow(names, hidden, gone) }),
      learnedFrom: support.learnedFrom - (labels.length - kept.labels.length),
    },
  };
}

function withoutRow(rows: Float32Array, width: number, gone: number): Float32Array {
  const out = new Float32Array(rows.length - width);
  out.set(rows.subarray(0, gone * width));
  out.set(rows.subarray((gone + 1) * width), gone * width);
  return out;
}

/**
 * Index of a label, which may be written in another Unicode form or with white space at its ends.
 * @throws FewtuneError LABEL_UNKNOWN
 */
export function requireLabel(labels: readonly string[], label: string): number {
  const found = findLabel(labels, label);
  if (found !== -1) return found;
  throw new FewtuneError(
    'LABEL_UNKNOWN',
    `the model has no class ${JSON.stringify(label)}. Its ${labels.length} classes are ${quoteSome(labels, 8)}.`,
  );
}

/** -1 when there is none. */
export function findLabel(labels: readonly string[], label: string): number {
  const key = classKey(label);
  return labels.findIndex((known) => classKey(known) === key);
}
