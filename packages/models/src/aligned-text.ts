/** What `@huggingface/tokenizers` makes of a tokenizer's `normalizer`. */
export interface Normalizer {
  readonly config: { readonly type?: string };
  /** Of a Sequence. */
  readonly normalizers?: readonly (Normalizer | null)[];
  normalize(text: string): string;
}

/** A text, perhaps normalised, and where each of its UTF-16 code units came from: [starts[i], ends[i]). */
export interface AlignedText {
  readonly text: string;
  readonly starts: readonly number[];
  readonly ends: readonly number[];
}

/** The text as it is. */
export function aligned(text: string): AlignedText {
  const starts = Array.from({ length: text.length }, (_, i) => i);
  return { text, starts, ends: starts.map((start) => start + 1) };
}

export function sliceAligned({ text, starts, ends }: AlignedText, from: number, to = text.length): AlignedText {
  return { text: text.slice(from, to), starts: starts.slice(from, to), ends: ends.slice(from, to) };
}

/** What a normaliser makes of a text, every code unit of it with the place it came from. */
export function normalizeAligned(source: AlignedText, normalizer: Normalizer): AlignedText {
  const { type } = normalizer.config;
  if (type === 'Sequence') {
    return (normalizer.normalizers ?? []).reduce((text, step) => (step ? normalizeAligned(text, step) : text), source);
  }
  const change = (text: string): string => normalizer.normalize(text);
  if (type === 'Strip') {
    const kept = change(source.text);
    const from = kept === '' ? 0 : source.text.indexOf(kept);
    return sliceAligned(source, from, from + kept.length);
  }
  if (type === 'Prepend') {
    const extra = change(source.text).length - source.text.length;
    const at = source.starts[0] ?? 0;
    const places = new Array<number>(extra).fill(at);
    return { text: change(source.text), starts: [...places, ...source.starts], ends: [...places, ...source.ends] };
  }
  return changed(source, change);
}

/** Ever smaller parts of a text: runs of white space and of anything else, letters with their marks, code points. */
const divisions = [/\s+|\S+/gu, /\P{M}\p{M}*|\p{M}+/gu, /[\s\S]/gu] as const;

/**
 * A change of a text that works on its parts alone. Parts are taken as small as possible: as long as what becomes of
 * each is, put together, as long as what becomes of the whole. Letters may look at their neighbours (a last sigma), but
 * what composes over a border, or shrinks over it, keeps its part whole.
 */
function changed(source: AlignedText, change: (text: string) => string): AlignedText {
  const text: string[] = [];
  const starts: number[] = [];
  const ends: number[] = [];
  const put = (result: string, from: number, to: number): void => {
    text.push(result);
    for (let i = 0; i < result.length; i++) {
      starts.push(source.starts[from]!);
      ends.push(source.ends[to - 1]!);
    }
  };
  const walk = (from: number, to: number, result: string, level: number): void => {
    const part = source.text.slice(from, to);
    if (result === part) {
      text.push(result);
      for (let i = from; i < to; i++) {
        starts.push(source.starts[i]!);
        ends.push(source.ends[i]!);
      }
      return;
    }
    if (level === divisions.length) {
      put(result, from, to);
      return;
    }
    const smaller = part.match(divisions[level]!) ?? [];
    const results = smaller.length > 1 ? smaller.map(change) : [result];
    if (results.reduce((sum, { length }) => sum + length, 0) !== result.length) {
      put(result, from, to);
      return;
    }
    let [at, done] = [from, 0];
    for (const [i, { length }] of smaller.entries()) {
      const size = results[i]!.length;
      walk(at, at + length, result.slice(done, done + size), level + 1);
      at += length;
      done += size;
    }
  };
  if (source.text !== '') walk(0, source.text.length, change(source.text), 0);
  return { text: text.join(''), starts, ends };
}
