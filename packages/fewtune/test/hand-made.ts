import { createHash } from 'node:crypto';
import { add, cast, div, gather, hostTensor, matMul, mul, sum, unsqueeze } from '@fewtune/engine';
import type { ModelReport } from '../src/artifact/classifier.js';
import type { ClassifierGraph } from '../src/artifact/graph.js';

/** A tokenizer that splits at white space and knows a few words; the rest is [UNK]. */
export function wordTokenizer(words: readonly string[]): Record<string, string> {
  const vocab = Object.fromEntries(['[PAD]', '[UNK]', ...words].map((word, id) => [word, id]));
  const special = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    'tokenizer.json': JSON.stringify({
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [special('[PAD]', 0), special('[UNK]', 1)],
      normalizer: { type: 'Lowercase' },
      pre_tokenizer: { type: 'Whitespace' },
      post_processor: null,
      decoder: null,
      model: { type: 'WordLevel', vocab, unk_token: '[UNK]' },
    }),
    'tokenizer_config.json': JSON.stringify({
      tokenizer_class: 'PreTrainedTokenizerFast',
      pad_token: '[PAD]',
      unk_token: '[UNK]',
      model_max_length: 64,
    }),
  };
}

/** Mean of word vectors, then a dense layer: small enough to check by hand, large enough to be quantised. */
export function meanOfWords(words: readonly string[], classes: number, hidden = 256): ClassifierGraph {
  const noise = (count: number, salt: number) => {
    let state = salt;
    return Float32Array.from({ length: count }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
      return state / 2 ** 31 - 1;
    });
  };
  return {
    tokenizer: { files: wordTokenizer(words) },
    modelType: 'bert',
    config: { vocab_size: words.length + 2, hidden_size: hidden },
    weights: {
      table: hostTensor('float32', [words.length + 2, hidden], noise((words.length + 2) * hidden, 1)),
      'classifier.weight': hostTensor('float32', [classes, hidden], noise(classes * hidden, 2)),
      'classifier.bias': hostTensor('float32', [classes], noise(classes, 3)),
    },
    forward(weights, { inputIds, attentionMask }) {
      const mask = unsqueeze(cast(attentionMask, 'float32'), -1); // [batch, seq, 1]
      const vectors = mul(gather(weights.table!, inputIds), mask); // [batch, seq, hidden]
      const mean = div(sum(vectors, { axes: [1] }), sum(mask, { axes: [1] })); // [batch, hidden]
      const scores = matMul(mean, weights['classifier.weight']!, { transposeB: true });
      return { logits: add(scores, weights['classifier.bias']!) };
    },
  };
}

export function reportFor(labels: readonly string[]): ModelReport {
  return {
    schemaVersion: 1,
    task: 'text-classification',
    library: { name: 'fewtune', version: '0.0.0' },
    created: '2026-01-01T00:00:00.000Z',
    method: { name: 'tfidf', options: {}, details: {} },
    preprocessing: { maxLength: 64, padId: 0 },
    labels: [...labels],
    temperature: 0.5,
    trainingData: {
      source: 'hand-made',
      fingerprint: createHash('sha256').digest('hex'),
      examples: 4,
      classes: labels.length,
      repairs: [],
    },
    seed: 7,
    seconds: 1,
    metrics: { accuracy: 0.5, macroF1: 0.5, accuracyInterval: [0.25, 0.75], ece: 0.1 },
    evaluatedOn: { kind: 'test', examples: 4, how: 'by hand.' },
    advice: { requested: 'tfidf', chosen: 'tfidf', rule: '', tried: [], skipped: [] },
  };
}
