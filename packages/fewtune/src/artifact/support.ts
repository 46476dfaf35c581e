import { type HostTensor, hostTensor } from '@fewtune/engine';
import { ModelError, parseSafetensors, serializeSafetensors } from '@fewtune/models';
import { FewtuneError } from '../errors.js';
import type { Manifest } from './manifest.js';

/** The examples a model keeps, as what its head reads: enough to learn a class, and to show a prediction's neighbours. */
export interface KeptSupport {
  readonly hidden: number;
  /** [rows, hidden], rows of length 1. */
  readonly features: Float32Array;
  /** [rows], indices into the model's labels. */
  readonly labels: Int32Array;
  /** [classes, hidden]: the labels' own words, where the head learned from them. */
  readonly names?: Float32Array;
  /** [rows]; absent when the model was told not to keep them. */
  readonly texts?: readonly string[];
  /** Examples the head learned from; more than there are rows when a part was kept only. */
  readonly learnedFrom: number;
}

export const supportFiles = { vectors: 'support.safetensors', texts: 'support.jsonl' } as const;

/** Rows of a folder at most: 7.7 MB of 384 numbers each. */
export const mostSupportRows = 5000;

/**
 * Keeps at most `most` rows. The cap a class is the largest that fits; of a larger class rows are taken at equal steps
 * of their closeness to the class mean, so that mean and spread of what is kept are about those of the whole.
 */
export function thinSupport(support: KeptSupport, most = mostSupportRows): KeptSupport {
  const { hidden, features, labels, texts } = support;
  if (labels.length <= most) return support;
  const members = new Map<number, number[]>();
  for (const [row, label] of labels.entries()) members.set(label, [...(members.get(label) ?? []), row]);
  const cap = capFor(
    [...members.values()].map((rows) => rows.length),
    most,
  );
  const kept = [...members.values()].flatMap((rows) => evenly(rows, cap, features, hidden)).sort((a, b) => a - b);
  return { ...support, ...rowsOf({ hidden, features, labels, texts }, kept) };
}

/** Some of the rows, copied. */
export function rowsOf(
  { hidden, features, labels, texts }: Pick<KeptSupport, 'hidden' | 'features' | 'labels' | 'texts'>,
  rows: readonly number[],
): Pick<KeptSupport, 'features' | 'labels' | 'texts'> {
  const chosen = new Float32Array(rows.length * hidden);
  for (const [i, row] of rows.entries()) chosen.set(features.subarray(row * hidden, (row + 1) * hidden), i * hidden);
  return {
    features: chosen,
    labels: Int32Array.from(rows, (row) => labels[row]!),
    ...(texts && { texts: rows.map((row) => texts[row]!) }),
  };
}

/** The largest number of rows a class (at least 1) with which all classes together have at most `most`. */
function capFor(counts: readonly number[], most: number): number {
  const kept = (cap: number) => counts.reduce((sum, count) => sum + Math.min(count, cap), 0);
  let cap = 1;
  while (kept(cap + 1) <= most && cap < Math.max(...counts)) cap++;
  return cap;
}

function evenly(rows: readonly number[], cap: number, features: Float32Array, hidden: number): readonly number[] {
  if (rows.length <= cap) return rows;
  const mean = new Float64Array(hidden);
  for (const row of rows) for (let j = 0; j < hidden; j++) mean[j]! += features[row * hidden + j]!;
  const closeness = new Map(
    rows.map((row) => {
      let dot = 0;
      for (let j = 0; j < hidden; j++) dot += mean[j]! * features[row * hidden + j]!;
      return [row, dot];
    }),
  );
  const sorted = [...rows].sort((a, b) => closeness.get(b)! - closeness.get(a)!);
  return Array.from({ length: cap }, (_, i) => sorted[Math.floor(((i + 0.5) * sorted.length) / cap)]!);
}

/** The files of a support: vectors and labels, and one text a line. */
export function packSupport(support: KeptSupport, labels: readonly string[]): Map<string, Uint8Array | string> {
  const { hidden, features, names, texts } = support;
  const rows = support.labels.length;
  const tensors: Record<string, HostTensor> = {
    features: hostTensor('float32', [rows, hidden], features),
    labels: hostTensor('int64', [rows], [...support.labels]),
    ...(names && { names: hostTensor('float32', [labels.length, hidden], names) }),
  };
  const files = new Map<string, Uint8Array | string>([
    [supportFiles.vectors, serializeSafetensors(tensors, { format: 'fewtune-support' })],
  ]);
  if (texts) {
    const lines = texts.map((text, row) => JSON.stringify({ text, label: labels[support.labels[row]!] }));
    files.set(supportFiles.texts, `${lines.join('\n')}\n`);
  }
  return files;
}

/** What the manifest says of a support. */
export function describeSupport({ labels, learnedFrom, names, texts }: KeptSupport): Manifest['support'] {
  return { rows: labels.length, learnedFrom, texts: texts !== undefined, names: names !== undefined };
}

/**
 * The support among the verified files of a folder; undefined when the model keeps none.
 *
 * @param where the folder, for messages
 * @throws FewtuneError MODEL_CORRUPT when the files contradict the manifest or each other
 */
export function readSupport(
  files: ReadonlyMap<string, Uint8Array | string>,
  manifest: Pick<Manifest, 'support' | 'labels'>,
  where: string,
): KeptSupport | undefined {
  const told = manifest.support;
  if (told === undefined) return undefined;
  const wrong = (file: string, what: string, cause?: unknown) =>
    new FewtuneError('MODEL_CORRUPT', `${where}/${file}: ${what}. Restore it from a backup or train the model again.`, {
      cause,
    });
  const bytes = files.get(supportFiles.vectors);
  if (bytes === undefined) throw wrong(supportFiles.vectors, 'is not listed in the manifest, which speaks of it');
  let tensors: Record<string, HostTensor>;
  try {
    tensors = parseSafetensors(bytes as Uint8Array, supportFiles.vectors).tensors;
  } catch (cause) {
    if (!(cause instanceof ModelError)) throw cause;
    throw wrong(supportFiles.vectors, cause.message, cause);
  }
  const { features, labels, names } = tensors;
  const classes = manifest.labels.length;
  const hidden = features?.shape[1] ?? 0;
  const shaped = (tensor: HostTensor | undefined, dtype: string, shape: readonly number[]) =>
    tensor?.dtype === dtype && tensor.shape.join() === shape.join();
  if (
    hidden < 1 ||
    !shaped(features, 'float32', [told.rows, hidden]) ||
    !shaped(labels, 'int64', [told.rows]) ||
    (told.names && !shaped(names, 'float32', [classes, hidden]))
  ) {
    throw wrong(supportFiles.vectors, `does not hold features and labels of ${told.rows} rows`);
  }
  const indices = Int32Array.from(labels!.data as BigInt64Array, Number);
  if (indices.some((label) => label < 0 || label >= classes)) {
    throw wrong(supportFiles.vectors, `has a label that is none of the model's ${classes}`);
  }
  const texts = told.texts ? readTexts() : undefined;
  return {
    hidden,
    features: features!.data as Float32Array,
    labels: indices,
    ...(told.names && { names: names!.data as Float32Array }),
    ...(texts && { texts }),
    learnedFrom: told.learnedFrom,
  };

  function readTexts(): string[] {
    const content = files.get(supportFiles.texts);
    if (content === undefined) throw wrong(supportFiles.texts, 'is not listed in the manifest, which speaks of it');
    const lines = (typeof content === 'string' ? content : new TextDecoder().decode(content)).trimEnd().split('\n');
    if (lines.length !== told!.rows)
      throw wrong(supportFiles.texts, `has ${lines.length} lines for ${told!.rows} rows`);
    return lines.map((line, row) => {
      try {
        const { text } = JSON.parse(line) as { text?: unknown };
        if (typeof text === 'string') return text;
      } catch {
        // told below, with the line
      }
      throw wrong(supportFiles.texts, `line ${row + 1} is not {"text": …, "label": …}`);
    });
  }
}
