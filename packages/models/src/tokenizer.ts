import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers';
import { ModelError } from './errors.js';
import { placeTokens } from './token-offsets.js';

/** Text to token ids, as the checkpoint was trained with. */
export interface Tokenizer {
  /**
   * `tokenizer.json` and `tokenizer_config.json` as text, verbatim but that the config's `model_max_length` says
   * `maxLength` (and its `unk_token` is filled in for WordLevel models), so that these two files alone make the same
   * tokenizer again.
   */
  readonly files: Readonly<Record<TokenizerFile, string>>;
  readonly padId: number;
  /** The most ids `encode` returns, special tokens included. */
  readonly maxLength: number;
  /** Special tokens included, truncated to `maxLength` with the closing special tokens kept. */
  encode(text: string): number[];
  /** Two texts in one row; the longer one is truncated first, as transformers' `longest_first`. */
  encodePair(first: string, second: string): EncodedPair;
  /**
   * As `encode`, with the place of each token in the text.
   *
   * @throws ModelError TOKENIZER_INVALID for a tokenizer whose tokens cannot be found again in the text
   */
  encodeWithOffsets(text: string): EncodedText;
}

export interface EncodedPair {
  readonly ids: number[];
  /** 0 for the first text and 1 for the second, special tokens included, as the checkpoint's template has them. */
  readonly types: number[];
}

export interface EncodedText {
  readonly ids: number[];
  /**
   * UTF-16 code units [start, end) of the text as given: `text.slice(start, end)` is what the token was made of. White
   * space at the ends is left out, and marks that the tokenizer drops go with their letter; [0, 0] on special tokens.
   */
  readonly offsets: (readonly [start: number, end: number])[];
  /** The word that each token is a piece of, counted from 0, as transformers' `word_ids`; -1 on special tokens. */
  readonly words: number[];
  /** Whether the text has more tokens than these. */
  readonly truncated: boolean;
}

export type TokenizerFile = 'tokenizer.json' | 'tokenizer_config.json';

/**
 * Only this many characters for each token of `maxLength` are looked at, so that a text of megabytes costs no more
 * than a long paragraph. English has about 4.5 characters a token; 64 are only exceeded by text that is mostly white
 * space or unbroken runs of more than a hundred characters, and there the tail is dropped.
 */
const charactersPerToken = 64;

/**
 * A tokenizer from the text of its two files, through `@huggingface/tokenizers`. Truncation and padding settings
 * inside `tokenizer.json` are those of the checkpoint's last use and are not followed.
 *
 * @param options.maxLength the model's limit; default: `model_max_length`, else 512
 * @throws ModelError TOKENIZER_INVALID
 */
export function createTokenizer(
  files: Readonly<Partial<Record<TokenizerFile, string>>>,
  options: { maxLength?: number; source?: string } = {},
): Tokenizer {
  const { source = 'the tokenizer' } = options;
  const json = parse(files['tokenizer.json'], 'tokenizer.json', source);
  const stated = parse(files['tokenizer_config.json'] ?? '{}', 'tokenizer_config.json', source);
  const maxLength = options.maxLength ?? statedMaxLength(stated) ?? 512;
  const config = completeConfig(stated, json, maxLength);
  const inner = open(json, config, source);
  const body = (text: string): number[] => {
    const { ids } = inner.encode(cut(text, maxLength * charactersPerToken), { add_special_tokens: false });
    return (ids as (number | undefined)[]).filter((id) => id !== undefined); // no id: unknown, and no unknown token
  };
  const frame = specialFrame(inner, json);
  const room = maxLength - frame.before.length - frame.after.length;
  const pairRoom = room - frame.between.length;
  if (pairRoom < 1) {
    throw new ModelError('TOKENIZER_INVALID', `${source}: maxLength ${maxLength} leaves no room beside special tokens`);
  }
  return {
    files: {
      'tokenizer.json': files['tokenizer.json']!,
      'tokenizer_config.json':
        config === stated ? files['tokenizer_config.json']! : `${JSON.stringify(config, null, 2)}\n`,
    },
    padId: padTokenId(inner, json, config),
    maxLength,
    encode: (text) => [...frame.before, ...body(text).slice(0, room), ...frame.after],
    encodePair(first, second) {
      const [a, b] = truncateLongest(body(first), body(second), pairRoom);
      const ids = [...frame.before, ...a, ...frame.between, ...b, ...frame.after];
      const { types } = frame;
      const of = (part: readonly number[], type: number): number[] => part.map(() => type);
      return {
        ids,
        types: [...types.before, ...of(a, types.first), ...types.between, ...of(b, types.second), ...types.after],
      };
    },
    encodeWithOffsets(text) {
      const shown = cut(text, maxLength * charactersPerToken);
      const skipped = shown === text ? 0 : text.length - text.trimStart().length;
      const all = placeTokens(inner, shown)?.filter(({ id }) => id !== undefined);
      const expected = body(text);
      if (all?.length !== expected.length || all.some(({ id }, i) => id !== expected[i])) {
        throw new ModelError('TOKENIZER_INVALID', `${source}: where its tokens stand in a text cannot be told`);
      }
      const kept = all.slice(0, room);
      const special = (part: readonly number[]) => part.map(() => [0, 0] as const);
      const none = (part: readonly number[]): number[] => part.map(() => -1);
      return {
        ids: [...frame.before, ...kept.map(({ id }) => id!), ...frame.after],
        offsets: [
          ...special(frame.before),
          ...kept.map(({ start, end }) => [start + skipped, end + skipped] as const),
          ...special(frame.after),
        ],
        words: [...none(frame.before), ...kept.map(({ word }) => word), ...none(frame.after)],
        truncated: all.length > room || shown.length + skipped < text.trimEnd().length,
      };
    },
  };
}

interface SpecialFrame {
  readonly before: readonly number[];
  readonly between: readonly number[];
  readonly after: readonly number[];
  /** Token types of a pair's parts. */
  readonly types: {
    readonly before: readonly number[];
    readonly first: number;
    readonly between: readonly number[];
    readonly second: number;
    readonly after: readonly number[];
  };
}

/** Learns which special tokens surround a text, or two, by encoding a probe with and without them. */
function specialFrame(inner: HubTokenizer, json: Record<string, unknown>): SpecialFrame {
  const probe = 'a';
  const bare: number[] = inner.encode(probe, { add_special_tokens: false }).ids;
  const single: number[] = inner.encode(probe).ids;
  const pair = inner.encode(probe, { text_pair: probe, return_token_type_ids: true });
  const extra = single.length - bare.length;
  let lead = 0;
  while (lead < extra && !bare.every((id, i) => single[lead + i] === id)) lead++;
  const before = single.slice(0, lead);
  const after = single.slice(lead + bare.length);
  const cutPair = <T>(values: readonly T[]) => ({
    before: values.slice(0, lead),
    first: values[lead]!,
    between: values.slice(lead + bare.length, values.length - after.length - bare.length),
    second: values[values.length - after.length - 1]!,
    after: values.slice(values.length - after.length),
  });
  const ids = pair.ids as number[];
  // RoBERTa has no types: Python's RobertaProcessing gives 0 to both texts.
  const typed =
    pair.token_type_ids?.length === ids.length && !/"RobertaProcessing"/.test(JSON.stringify(json.post_processor));
  const types = typed ? pair.token_type_ids : ids.map(() => 0);
  return { before, after, between: cutPair(ids).between, types: cutPair(types) };
}

/** Takes from the longer list until both fit; where both are cut, the longer one, or the second, keeps an odd token. */
function truncateLongest(a: number[], b: number[], room: number): [number[], number[]] {
  const half = Math.floor(room / 2);
  const [shorter, longer] = a.length > b.length ? [b, a] : [a, b];
  const keep = shorter.length <= half ? shorter.length : shorter.length + longer.length <= room ? shorter.length : half;
  const [keepA, keepB] = shorter === a ? [keep, room - keep] : [room - keep, keep];
  return [a.slice(0, keepA), b.slice(0, keepB)];
}

/** The first `limit` characters after leading white space, never half a surrogate pair. */
function cut(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const start = text.length - text.trimStart().length;
  const end = start + limit;
  const last = text.charCodeAt(end - 1);
  const halfPair = end < text.length && last >= 0xd800 && last <= 0xdbff;
  return text.slice(start, halfPair ? end - 1 : end);
}

function open(json: Record<string, unknown>, config: Record<string, unknown>, source: string): HubTokenizer {
  try {
    return new HubTokenizer(json, config);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ModelError('TOKENIZER_INVALID', `${source}: tokenizer.json cannot be used: ${why}`, { cause });
  }
}

function parse(text: string | undefined, file: TokenizerFile, source: string): Record<string, unknown> {
  if (text === undefined) throw new ModelError('TOKENIZER_INVALID', `${source}: ${file} is missing`);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch (cause) {
    throw new ModelError('TOKENIZER_INVALID', `${source}: ${file} is not JSON`, { cause });
  }
  throw new ModelError('TOKENIZER_INVALID', `${source}: ${file} is not a JSON object`);
}

/** transformers writes 1e30 for "no limit". */
function statedMaxLength(config: Record<string, unknown>): number | undefined {
  const stated = config.model_max_length;
  return typeof stated === 'number' && stated > 0 && stated < 1e9 ? stated : undefined;
}

/**
 * The config with what `@huggingface/tokenizers` and transformers.js look for there: the limit, and for a WordLevel
 * model the unknown token, which Python finds in tokenizer.json. The same object when nothing is missing.
 */
function completeConfig(
  config: Record<string, unknown>,
  json: Record<string, unknown>,
  maxLength: number,
): Record<string, unknown> {
  const model = json.model as { type?: unknown; unk_token?: unknown } | undefined;
  const unknown = model?.type === 'WordLevel' ? { unk_token: model.unk_token } : {};
  const complete = { ...unknown, ...config, model_max_length: maxLength };
  const missing = Object.entries(complete).some(([key, value]) => config[key] !== value);
  return missing ? complete : config;
}

/** The id of the padding token: by its name in the config, then by tokenizer.json's own padding, then by custom. */
function padTokenId(inner: HubTokenizer, json: Record<string, unknown>, config: Record<string, unknown>): number {
  const stated = config.pad_token;
  const named = typeof stated === 'string' ? stated : (stated as { content?: string } | null | undefined)?.content;
  const padding = json.padding as { pad_id?: number } | null | undefined;
  for (const token of [named, '[PAD]', '<pad>']) {
    const id = token === undefined ? undefined : inner.token_to_id(token);
    if (id !== undefined) return id;
  }
  return padding?.pad_id ?? 0;
}
