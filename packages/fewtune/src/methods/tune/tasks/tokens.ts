import {
  div,
  gatherElements,
  hostTensor,
  logSoftmax,
  maximum,
  mul,
  neg,
  reshape,
  sum,
  type Tensor,
  unsqueeze,
} from '@fewtune/engine';
import type { Tokenizer } from '@fewtune/models';
import { checkSpans, type Entity } from '../../../data/entity.js';
import { FewtuneError } from '../../../errors.js';
import { entityScores } from '../../../evaluation/entities.js';
import type { Task } from '../task.js';
import { bestTags, bioTags, spansOfTags } from './bio.js';
import { linearHead, linearLogits } from './linear-head.js';
import { type LaidOut, layOut, type TokenRow, tokenRow } from './token-words.js';

/** An entity that was found, with what it is made of. */
export interface FoundEntity extends Entity {
  readonly text: string;
  /** Mean probability of its words' tags. */
  readonly score: number;
}

/** Entities in the words that no token of them is read of, in numbers and a few examples. */
export interface TokensReport {
  /** Entities that begin or end inside a word: learned as the whole of it. */
  readonly widened: readonly { readonly row: number; readonly entity: Entity }[];
  /** Entities that are not learned, as they stand after the last token that the encoder reads. */
  readonly lost: readonly { readonly row: number; readonly entity: Entity }[];
}

/**
 * Entities in a text: a BIO tag (Ramshaw and Marcus 1995, arXiv:cmp-lg/9505040) on the first piece of each word; other
 * pieces and special tokens count for nothing. Tags are decoded so that no inside stands without its begin. Scored by
 * the F1 of whole entities, as they stand in the data.
 *
 * @param tokenizer of the encoder that is tuned
 * @param entities  of each text; they must not overlap
 * @param labels    all there are
 * @throws FewtuneError SPAN_INVALID (overlapping, empty or outside the text), LABEL_UNKNOWN, ROWS_EMPTY (no label)
 */
export function tokenClassification(
  tokenizer: Pick<Tokenizer, 'encodeWithOffsets'>,
  texts: readonly string[],
  entities: readonly (readonly Entity[])[],
  labels: readonly string[],
): Task & { readonly report: TokensReport } {
  if (labels.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', 'no example has an entity; there is nothing to learn.');
  }
  const known = new Map(labels.map((label, i) => [label, i]));
  const rows = texts.map((text) => tokenRow(tokenizer, text));
  const laid = rows.map((row, i) => {
    checkSpans(row.text, entities[i]!, known, `example ${i}`);
    return layOut(row, entities[i]!, known);
  });
  const told = (of: (one: LaidOut) => readonly Entity[]) =>
    laid.flatMap((one, row) => of(one).map((entity) => ({ row, entity })));
  const tags = bioTags(labels);
  return {
    kind: 'tokens',
    outputs: tags,
    reads: 'tokens',
    report: { widened: told(({ widened }) => widened), lost: told(({ lost }) => lost) },
    head: (hidden, random) => linearHead(tags.length, hidden, random),
    logits: linearLogits,
    loss: (logits, { labels, counts }) => maskedCrossEntropy(logits, labels!, counts!),
    weight: ({ counts }) => sum(counts!),
    targetSpecs: { labels: { dtype: 'int64', shape: ['tokens'] }, counts: { dtype: 'float32', shape: ['tokens'] } },
    targets(chosen) {
      const size = chosen.reduce((total, row) => total + rows[row]!.tokens, 0);
      const [labels, counts] = [new BigInt64Array(size), new Float32Array(size)];
      let at = 0;
      for (const row of chosen) {
        for (const [word, { token }] of rows[row]!.words.entries()) {
          labels[at + token] = BigInt(laid[row]!.tags[word]!);
          counts[at + token] = 1;
        }
        at += rows[row]!.tokens;
      }
      return { labels: hostTensor('int64', [size], labels), counts: hostTensor('float32', [size], counts) };
    },
    score(logits, chosen) {
      let at = 0;
      const found = chosen.map((row) => {
        const size = rows[row]!.tokens * tags.length;
        at += size;
        return findEntities(rows[row]!, logits.subarray(at - size, at), labels);
      });
      const { f1, precision, recall, macroF1 } = entityScores(
        found,
        chosen.map((row) => entities[row]!),
      );
      return { name: 'entity F1', value: f1, precision, recall, macroF1 };
    },
    harmless: 2 * Math.log(tags.length),
  };
}

/**
 * Mean cross-entropy over the tokens that count, as PyTorch's with `ignore_index`; 0 of none.
 *
 * @param logits [tokens, tags]
 * @param labels int64 [tokens]
 * @param counts [tokens], 1 or 0
 */
export function maskedCrossEntropy(logits: Tensor, labels: Tensor, counts: Tensor): Tensor {
  const own = reshape(gatherElements(logSoftmax(logits), unsqueeze(labels, -1), 1), [-1]); // [tokens]
  return div(neg(sum(mul(own, counts))), maximum(sum(counts), 1));
}

/** @param logits [tokens, tags] of the row's tokens */
export function findEntities(row: TokenRow, logits: Float32Array, labels: readonly string[]): FoundEntity[] {
  const width = 2 * labels.length + 1;
  const chances = new Float64Array(row.words.length * width);
  for (const [word, { token }] of row.words.entries()) {
    const own = logits.subarray(token * width, (token + 1) * width);
    const highest = own.reduce((a, b) => Math.max(a, b));
    const total = own.reduce((sum, value) => sum + Math.exp(value - highest), 0);
    for (let tag = 0; tag < width; tag++) chances[word * width + tag] = own[tag]! - highest - Math.log(total);
  }
  const tags = bestTags(chances, width);
  return spansOfTags(tags).map(({ first, last, label }) => {
    const [start, end] = [row.words[first]!.start, row.words[last]!.end];
    let probability = 0;
    for (let word = first; word <= last; word++) probability += Math.exp(chances[word * width + tags[word]!]!);
    const score = probability / (last - first + 1);
    return { label: labels[label]!, start, end, text: row.text.slice(start, end), score };
  });
}
