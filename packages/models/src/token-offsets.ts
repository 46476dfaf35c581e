import type { Tokenizer } from '@huggingface/tokenizers';
import { type AlignedText, aligned, type Normalizer, normalizeAligned, sliceAligned } from './aligned-text.js';

/** The steps of `@huggingface/tokenizers`, as far as they are used here: its own types of them do not resolve. */
interface Steps extends Pick<Tokenizer, 'get_added_tokens_decoder' | 'token_to_id'> {
  readonly normalizer: Normalizer | null;
  readonly pre_tokenizer: ((text: string, options: { section_index: number }) => string[]) | null;
  readonly model: Model;
}

interface Model {
  (words: readonly string[]): string[];
  readonly config: { readonly continuing_subword_prefix?: string };
  readonly end_of_word_suffix?: string;
  readonly unk_token_id?: number;
  readonly fuse_unk: boolean;
}

/** One token of a text and where it stands there. */
export interface PlacedToken {
  readonly id: number | undefined;
  /** UTF-16 code units [start, end) of the text as given, white space at its ends left out. */
  readonly start: number;
  readonly end: number;
  /** Which of the text's words it belongs to, as the tokenizer divides them before it looks into its vocabulary. */
  readonly word: number;
}

/**
 * The tokens of a text without special ones, each with its place. `@huggingface/tokenizers` gives tokens without places,
 * so its own steps are taken one by one here, with the place of every character carried along.
 *
 * @returns undefined where a step makes something that cannot be found again in the text
 */
export function placeTokens(tokenizer: Tokenizer, text: string): PlacedToken[] | undefined {
  const inner = tokenizer as unknown as Steps;
  const tokens: PlacedToken[] = [];
  let word = 0;
  const put = (id: number | undefined, { starts, ends }: AlignedText): void => {
    let [start, end] = [starts[0] ?? 0, starts[0] ?? 0];
    for (const [i, from] of starts.entries()) {
      start = Math.min(start, from);
      end = Math.max(end, ends[i]!);
    }
    while (start < end && /\s/u.test(text[start]!)) start++;
    while (start < end && /\s/u.test(text[end - 1]!)) end--;
    if (end > start && /[\ud800-\udbff]/.test(text[end - 1]!) && /[\udc00-\udfff]/.test(text[end] ?? '')) end++; // no half pair
    tokens.push({ id, start, end, word });
  };
  const added = [...inner.get_added_tokens_decoder().values()];
  const plain = added.filter(({ normalized }) => !(normalized && inner.normalizer));
  const normal = added.filter(({ normalized }) => normalized && inner.normalizer);
  for (const [section, part] of divide(aligned(text), plain, (content) => content).entries()) {
    if (typeof part.added === 'number') {
      put(part.added, part.text);
      word++;
      continue;
    }
    const normalized = inner.normalizer ? normalizeAligned(part.text, inner.normalizer) : part.text;
    for (const piece of divide(normalized, normal, (content) => inner.normalizer!.normalize(content))) {
      if (typeof piece.added === 'number') {
        put(piece.added, piece.text);
        word++;
        continue;
      }
      const { pre_tokenizer: divider } = inner;
      const words = divider ? divider(piece.text.text, { section_index: section }) : [piece.text.text];
      const places = placeWords(words, piece.text);
      if (!places) return undefined;
      for (const place of places) {
        for (const [token, at] of piecesOf(inner.model, place)) put(idOf(inner, token), at);
        word++;
      }
    }
  }
  return withMarks(text, inner.model.fuse_unk ? fused(tokens, inner.model.unk_token_id) : tokens);
}

const idOf = (inner: Steps, token: string): number | undefined => inner.token_to_id(token) ?? inner.model.unk_token_id;

interface Part {
  readonly text: AlignedText;
  /** The id of an added token that stands there as a whole. */
  readonly added?: number;
}

/** A text cut where added tokens (`[MASK]`, say) stand in it, the longest first. */
function divide(
  source: AlignedText,
  added: readonly { content: string; id: number; lstrip: boolean; rstrip: boolean }[],
  written: (content: string) => string,
): Part[] {
  const known = new Map(added.map((token) => [written(token.content), token]));
  known.delete('');
  if (known.size === 0) return source.text === '' ? [] : [{ text: source }];
  const longest = [...known.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(
    longest.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'),
    'gu',
  );
  const parts: Part[] = [];
  const plain = (from: number, to: number, before?: string, after?: string): void => {
    let [start, end] = [from, to];
    if (before !== undefined && known.get(before)!.rstrip)
      while (start < end && /\s/u.test(source.text[start]!)) start++;
    if (after !== undefined && known.get(after)!.lstrip) while (start < end && /\s/u.test(source.text[end - 1]!)) end--;
    if (start < end) parts.push({ text: sliceAligned(source, start, end) });
  };
  let at = 0;
  let last: string | undefined;
  for (const { 0: found, index } of source.text.matchAll(pattern)) {
    plain(at, index, last, found);
    parts.push({ text: sliceAligned(source, index, index + found.length), added: known.get(found)!.id });
    at = index + found.length;
    last = found;
  }
  plain(at, source.text.length, last);
  return parts;
}

/** Bytes of the characters by which byte-level tokenizers write them: Radford et al. 2019, `bytes_to_unicode`. */
const byteOf: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let extra = 256;
  for (let byte = 0; byte < 256; byte++) {
    const shown = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(shown ? byte : extra++), byte);
  }
  return map;
})();

/** The words of a section, found again in it one after the other; undefined when one is not there. */
function placeWords(words: readonly string[], section: AlignedText): AlignedText[] | undefined {
  let cursor = 0;
  const places: AlignedText[] = [];
  for (const word of words) {
    const place = placeWord(word, section, cursor);
    if (!place) return undefined;
    places.push(place.text);
    cursor = place.next;
  }
  return places;
}

interface Placed {
  readonly text: AlignedText;
  /** Where the next word can begin. */
  readonly next: number;
}

/** A word as it stands there, with SentencePiece's underline for a space, or in bytes. */
function placeWord(word: string, section: AlignedText, cursor: number): Placed | undefined {
  const spaced = (text: string): string => text.replaceAll('\u2581', ' ');
  const plain =
    placeAs(word, section, cursor) ?? placeAs(spaced(word), { ...section, text: spaced(section.text) }, cursor);
  return plain ? { ...plain, text: { ...plain.text, text: word } } : placeBytes(word, section, cursor);
}

/** A space that the tokenizer put before a word gets the place of what follows it. */
function placeAs(word: string, section: AlignedText, cursor: number): Placed | undefined {
  const content = word.trimStart();
  const lead = word.length - content.length;
  if (content === '' && section.text.startsWith(word, cursor)) {
    return { text: sliceAligned(section, cursor, cursor + lead), next: cursor + lead };
  }
  const at = nextPlace(content, section.text, cursor);
  if (at < 0) return undefined;
  const text = sliceAligned(section, at, at + content.length);
  const after = section.starts[at] ?? section.ends.at(-1) ?? 0;
  const edge = (first = after): number[] => new Array<number>(lead).fill(first);
  return {
    text: {
      text: word,
      starts: [...edge(text.starts[0]), ...text.starts],
      ends: [...edge(text.ends[0]), ...text.ends],
    },
    next: at + content.length,
  };
}

/** Where `content` stands at or after the cursor; what is skipped must be white space. */
function nextPlace(content: string, text: string, cursor: number): number {
  const at = content === '' ? cursor : text.indexOf(content, cursor);
  return at >= 0 && text.slice(cursor, at).trim() === '' ? at : -1;
}

function placeBytes(word: string, section: AlignedText, cursor: number): Placed | undefined {
  const bytes = Uint8Array.from(word, (character) => byteOf.get(character) ?? 0);
  const shown = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  const text = section.text.replace(/\p{Cs}/gu, '\ufffd'); // half a pair has no bytes of its own
  const real = text.startsWith(shown, cursor) ? cursor : -1; // with its own space before it
  const found =
    real < 0
      ? placeAs(shown, { ...section, text }, cursor)
      : { text: sliceAligned(section, real, real + shown.length), next: real + shown.length };
  if (!found) return undefined;
  const starts: number[] = [];
  const ends: number[] = [];
  let unit = 0;
  for (const character of shown) {
    const last = unit + character.length - 1;
    for (let i = 0; i < Buffer.byteLength(character); i++) {
      starts.push(found.text.starts[unit]!);
      ends.push(found.text.ends[last]!);
    }
    unit = last + 1;
  }
  return { text: { text: word, starts, ends }, next: found.next };
}

/** The tokens that the model divides a word into, each with its part of the word. An unknown token gets what is left. */
function piecesOf(model: Model, word: AlignedText): [token: string, part: AlignedText][] {
  const tokens = model([word.text]);
  const { continuing_subword_prefix: prefix } = model.config;
  const suffix = model.end_of_word_suffix;
  let at = 0;
  return tokens.map((token, i) => {
    const written = (text: string, first: boolean): string => {
      const tail = prefix && !first && text.startsWith(prefix) ? text.slice(prefix.length) : text;
      return suffix && tail.endsWith(suffix) ? tail.slice(0, -suffix.length) : tail;
    };
    const own = written(token, i === 0);
    const known = word.text.startsWith(own, at);
    const next = tokens[i + 1] === undefined ? -1 : word.text.indexOf(written(tokens[i + 1]!, false), at + 1);
    const end = known ? at + own.length : next < 0 ? word.text.length : next;
    const part = sliceAligned(word, at, end);
    at = end;
    return [token, part];
  });
}

/** Neighbouring unknown tokens as one. */
function fused(tokens: readonly PlacedToken[], unknown: number | undefined): PlacedToken[] {
  const kept: PlacedToken[] = [];
  for (const token of tokens) {
    const last = kept.at(-1);
    if (last && token.id === unknown && last.id === unknown) kept[kept.length - 1] = { ...last, end: token.end };
    else kept.push(token);
  }
  return kept;
}

/** Marks that no token is made of, as where accents are stripped, go with the letter before them. */
function withMarks(text: string, tokens: readonly PlacedToken[]): PlacedToken[] {
  return tokens.map((token, i) => {
    const limit = tokens[i + 1]?.start ?? text.length;
    let { end } = token;
    while (end > token.start && end < limit && /\p{M}/u.test(text[end]!)) end++;
    return { ...token, end };
  });
}
