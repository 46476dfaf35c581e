import type { LinearHead } from '../artifact/linear-head.js';
import type { KeptSupport } from '../artifact/support.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { argmaxRows } from '../evaluation/metrics.js';
import type { ClassRow } from '../methods/class-row.js';
import { hasWords, labelText } from '../methods/label-names.js';
import { headLogits } from '../methods/linear/logistic.js';
import type { MethodName } from '../methods/method.js';
import { methods } from '../methods/registry.js';
import { type ChangeableHead, type Changed, findLabel, requireLabel, withoutClass } from './forget-class.js';

export interface LearnOptions {
  /** Add the examples to a class that is there already; without it an existing label is refused. Default false. */
  readonly more?: boolean;
  readonly signal?: AbortSignal;
}

/** What `learn` did. */
export interface Learned {
  readonly label: string;
  /** Whether the class is new. */
  readonly isNew: boolean;
  /** Examples that were added. */
  readonly added: number;
  /** Examples that were left out because the class has them already, or because they were given twice. */
  readonly repeated: number;
  /** Kept examples of the class now. */
  readonly examples: number;
  readonly classes: number;
  /**
   * How many of the class's examples (of at most 20) the model names right when its row is learned from the class's
   * other examples: up to five folds. Absent when there is only one example.
   */
  readonly heldOut?: { readonly examples: number; readonly right: number; readonly mistakenFor: readonly string[] };
  /**
   * Kept examples of other classes: how many were named right before, and now. The head was fitted on them, so these
   * are no estimate of accuracy; a fall says that the new class takes what is not its own.
   */
  readonly others: { readonly examples: number; readonly before: number; readonly after: number };
  readonly seconds: number;
}

/** Examples of the class that are held out at most, and folds. */
const [heldOutMost, foldsMost] = [20, 5];

/** The model with a class learned, or learned anew with more examples, while the rows of the others stay. */
export async function learnClass(
  { report, support, head, session }: ChangeableHead,
  label: string,
  examples: readonly string[],
  { more = false, signal }: LearnOptions,
): Promise<Changed<Learned>> {
  const began = performance.now();
  const learner = methods[report.method.name as MethodName]?.classRow;
  if (learner === undefined) {
    throw new FewtuneError('MODEL_UNSUPPORTED', `models of the method ${report.method.name} cannot learn classes.`);
  }
  const place = placeOf(report.labels, label, more);
  const isNew = place === report.labels.length;
  const name = isNew ? label.trim() : report.labels[place]!;
  const texts = freshTexts(examples, support, report.labels, place);
  const wantsName = isNew && support.names !== undefined && hasWords(name);
  const encoded = await session.run(wantsName ? [...texts, labelText(name)] : texts, { signal });
  throwIfAborted(signal);
  const { hidden } = support;
  const features = encoded.features!.subarray(0, texts.length * hidden);
  const nameRow = wantsName ? encoded.features!.subarray(texts.length * hidden) : ownName(support, place);

  const rest = isNew ? { head, support } : withoutClass(support, head, place);
  const logits = headLogits(rest.head, rest.support.features);
  const learnRow = learner({
    hidden,
    logits,
    head: rest.head,
    others: rest.support.features,
    labels: rest.support.labels,
    ...(rest.support.names && { names: rest.support.names }),
    details: report.method.details,
    options: report.method.options,
  });
  const next = appended(support, { features, texts, place, nameRow });
  const own = ownRows(next, place);
  const row = await learnRow(joined(own, nameRow));
  const changed = withRow(rest.head, row, place);
  const labels = isNew ? [...report.labels, name] : report.labels;
  const heldOut = await holdOut(own, hidden, async (kept) =>
    withRow(rest.head, await learnRow(joined(kept, nameRow)), place),
  );
  throwIfAborted(signal);
  const result: Learned = {
    label: name,
    isNew,
    added: texts.length,
    repeated: examples.length - texts.length,
    examples: own.length / hidden,
    classes: labels.length,
    ...(heldOut && {
      heldOut: {
        examples: heldOut.length,
        right: heldOut.filter((found) => found === place).length,
        mistakenFor: [...new Set(heldOut)].filter((found) => found !== place).map((found) => labels[found]!),
      },
    }),
    others: {
      examples: rest.support.labels.length,
      before: rightBeside(rest.support, logits, isNew ? undefined : rowOf(head, place)),
      after: rightBeside(rest.support, logits, row),
    },
    seconds: (performance.now() - began) / 1000,
  };
  return {
    labels,
    head: changed,
    support: next,
    change: { change: 'learn', label: name, examples: texts.length },
    result,
  };
}

/** The index that the class has or gets. @throws FewtuneError LABEL_EXISTS, LABEL_UNKNOWN, OPTION_INVALID */
function placeOf(labels: readonly string[], label: string, more: boolean): number {
  if (label.trim() === '') throw new FewtuneError('OPTION_INVALID', 'the label is blank; give the class a name.');
  if (more) return requireLabel(labels, label);
  const known = findLabel(labels, label);
  if (known === -1) return labels.length;
  throw new FewtuneError(
    'LABEL_EXISTS',
    `the model has a class ${JSON.stringify(labels[known])} already. To give it more examples say so (\`--more\`, or ` +
      '`more: true`); for a class of its own choose another name.',
  );
}

/**
 * The examples to add, trimmed; those that the class has already are left out.
 * @throws FewtuneError TEXT_BLANK, ROWS_EMPTY, LABELS_CONFLICT (a text that is kept under another label)
 */
function freshTexts(
  examples: readonly string[],
  { texts: known = [], labels }: KeptSupport,
  classes: readonly string[],
  place: number,
): string[] {
  if (examples.length === 0) throw new FewtuneError('ROWS_EMPTY', 'no example to learn from; give at least one.');
  const owner = new Map(known.map((text, row) => [text, labels[row]!]));
  const fresh = new Set<string>();
  for (const [i, example] of examples.entries()) {
    const text = example.trim();
    if (text === '') {
      throw new FewtuneError('TEXT_BLANK', `example ${i + 1} of ${examples.length} is blank. Leave it out.`);
    }
    const other = owner.get(text);
    if (other !== undefined && other !== place) {
      throw new FewtuneError(
        'LABELS_CONFLICT',
        `example ${i + 1}, ${JSON.stringify(text.slice(0, 60))}, is an example of ${JSON.stringify(classes[other])} already. ` +
          'A text can have one label: leave it out, or forget that class first.',
      );
    }
    if (other === undefined) fresh.add(text);
  }
  if (fresh.size === 0) {
    throw new FewtuneError('ROWS_EMPTY', `the class has all ${examples.length} examples already; nothing was learned.`);
  }
  return [...fresh];
}

/** The support with the examples in it, and the class's name where names are learned from. */
function appended(
  support: KeptSupport,
  added: { features: Float32Array; texts: readonly string[]; place: number; nameRow?: Float32Array },
): KeptSupport {
  const { hidden, labels, names, texts } = support;
  const count = added.texts.length;
  const isNew = names !== undefined && names.length === added.place * hidden;
  return {
    ...support,
    features: joined(support.features, added.features),
    labels: Int32Array.from([...labels, ...Array<number>(count).fill(added.place)]),
    // A label without words has no vector of its own: zeros, which no mean notices but its own class's, see ownName.
    ...(names && { names: isNew ? joined(names, added.nameRow ?? new Float32Array(hidden)) : names }),
    ...(texts && { texts: [...texts, ...added.texts] }),
    learnedFrom: support.learnedFrom + count,
  };
}

/** The vector of a class's name; none when the label has no words. */
function ownName({ names, hidden }: KeptSupport, place: number): Float32Array | undefined {
  const row = names?.subarray(place * hidden, (place + 1) * hidden);
  return row?.some((value) => value !== 0) ? row : undefined;
}

function ownRows({ features, labels, hidden }: KeptSupport, place: number): Float32Array {
  const rows = [...labels.keys()].filter((row) => labels[row] === place);
  const out = new Float32Array(rows.length * hidden);
  for (const [i, row] of rows.entries()) out.set(features.subarray(row * hidden, (row + 1) * hidden), i * hidden);
  return out;
}

function joined(first: Float32Array, second: Float32Array | undefined): Float32Array {
  if (second === undefined) return first;
  const out = new Float32Array(first.length + second.length);
  out.set(first);
  out.set(second, first.length);
  return out;
}

/** The head with `row` put in at `place`; rows from there on move up by one. */
function withRow({ weight, bias }: LinearHead, row: ClassRow, place: number): LinearHead {
  const hidden = row.weight.length;
  const at = place * hidden;
  return {
    weight: joined(joined(weight.subarray(0, at), row.weight), weight.subarray(at)),
    bias: Float32Array.from([...bias.subarray(0, place), row.bias, ...bias.subarray(place)]),
  };
}

/** What each of the class's last examples is called by a model that learned the class without it. */
async function holdOut(
  own: Float32Array,
  hidden: number,
  learn: (kept: Float32Array) => Promise<LinearHead>,
): Promise<number[] | undefined> {
  const rows = own.length / hidden;
  if (rows < 2) return undefined;
  const held = Array.from({ length: Math.min(rows, heldOutMost) }, (_, i) => rows - 1 - i);
  const folds = Math.min(held.length, foldsMost);
  const found: number[] = [];
  for (let fold = 0; fold < folds; fold++) {
    const out = new Set(held.filter((_, i) => i % folds === fold));
    const select = (rowsWanted: readonly number[]) => {
      const part = new Float32Array(rowsWanted.length * hidden);
      for (const [i, row] of rowsWanted.entries()) part.set(own.subarray(row * hidden, (row + 1) * hidden), i * hidden);
      return part;
    };
    const head = await learn(select([...Array(rows).keys()].filter((row) => !out.has(row))));
    found.push(...argmaxRows(headLogits(head, select([...out])), head.bias.length));
  }
  return found;
}

function rowOf({ weight, bias }: LinearHead, place: number): ClassRow {
  const hidden = weight.length / bias.length;
  return { weight: weight.subarray(place * hidden, (place + 1) * hidden), bias: bias[place]! };
}

/** How many rows their `logits` name right, with one class more beside these. */
function rightBeside({ features, labels }: KeptSupport, logits: Float32Array, row?: ClassRow): number {
  const classes = logits.length / labels.length;
  const found = argmaxRows(logits, classes);
  const own = row && headLogits({ weight: row.weight, bias: Float32Array.of(row.bias) }, features);
  return labels.filter((label, i) => found[i] === label && !(own && own[i]! > logits[i * classes + label]!)).length;
}
