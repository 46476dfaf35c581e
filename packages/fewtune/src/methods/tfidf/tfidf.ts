import { z } from 'zod';
import type { Method } from '../method.js';
import { tfidfGraph } from './graph.js';
import { fitSparseLogistic, sparseLogits, tfidfRows } from './sparse.js';
import { specialTokens, wordsOf, wordTokenizer } from './word-tokenizer.js';

const schema = z.strictObject({
  /** Inverse strength of the L2 penalty, as scikit-learn's. */
  C: z.number().positive().default(10),
  /** Most words kept, the most frequent ones. */
  maxWords: z.number().int().positive().default(20_000),
});

export type TfidfOptions = z.infer<typeof schema>;

/** Words times classes: beyond this, L-BFGS's memory would be what decides how much a machine needs. */
const MAX_WEIGHTS = 1_000_000;

/** Words of the training texts by document frequency, most frequent first, with their smooth idf. */
export function vocabulary(texts: readonly string[], most: number): { words: string[]; idf: Float32Array } {
  const frequency = new Map<string, number>();
  for (const text of texts) {
    for (const word of new Set(wordsOf(text))) frequency.set(word, (frequency.get(word) ?? 0) + 1);
  }
  const ranked = [...frequency]
    .filter(([word]) => /[\p{L}\p{N}]/u.test(word))
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .slice(0, most);
  const idf = new Float32Array(specialTokens.length + ranked.length);
  // ln((1 + n) / (1 + df)) + 1, scikit-learn's smooth_idf
  ranked.forEach(([, df], i) => {
    idf[specialTokens.length + i] = Math.log((1 + texts.length) / (1 + df)) + 1;
  });
  return { words: ranked.map(([word]) => word), idf };
}

/** TF-IDF of words and logistic regression: the floor that a method with an encoder has to beat. */
export const tfidf: Method<TfidfOptions> = {
  name: 'tfidf',
  schema,
  defaults: schema.parse({}),
  async fit(data, { C, maxWords }, context) {
    const classes = data.classes.length;
    const most = Math.max(1, Math.min(maxWords, Math.floor(MAX_WEIGHTS / classes)));
    const { words, idf } = vocabulary(data.texts, most);
    const tokenizer = wordTokenizer(words);
    const rowsOf = (texts: readonly string[]) =>
      tfidfRows(
        texts.map((text) => tokenizer.encode(text)),
        idf,
      );
    const fit = await fitSparseLogistic(rowsOf(data.texts), data.labels, classes, idf.length, {
      C,
      signal: context.signal,
    });
    context.onProgress?.(1, {});
    return {
      async logits(texts) {
        const out = new Float32Array(texts.length * classes);
        sparseLogits(rowsOf(texts), fit.table, fit.bias, out);
        return out;
      },
      graph: async () => tfidfGraph(tokenizer, { idf, table: fit.table, bias: fit.bias }),
      details: { C, words: words.length, iterations: fit.iterations, converged: fit.converged },
    };
  },
};
