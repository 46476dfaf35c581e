import { expect, test } from 'vitest';
import { readEncoderConfig } from './encoder-config.js';

const bert = {
  model_type: 'bert',
  hidden_size: 8,
  num_attention_heads: 2,
  num_hidden_layers: 3,
  max_position_embeddings: 16,
};

test('defaults, and positions that RoBERTa cannot use', () => {
  expect(readEncoderConfig(bert)).toEqual({
    modelType: 'bert',
    hidden: 8,
    layers: 3,
    heads: 2,
    layerNormEpsilon: 1e-12,
    activation: 'gelu',
    maxPositions: 16,
    padId: 0,
  });
  expect(readEncoderConfig({ ...bert, model_type: 'roberta' }).maxPositions).toBe(14);
});

test.each([
  [{ model_type: 't5' }, 'ENCODER_UNSUPPORTED', 'model_type "t5"'],
  [{ model_type: '__proto__' }, 'ENCODER_UNSUPPORTED', 'these work: bert'],
  [{ hidden_act: 'gelu_new' }, 'ENCODER_UNSUPPORTED', 'the activation "gelu_new"'],
  [{ position_embedding_type: 'relative_key' }, 'ENCODER_UNSUPPORTED', 'relative_key'],
  [{ num_attention_heads: 3 }, 'ENCODER_UNSUPPORTED', '8 with 3 heads'],
  [{ hidden_size: '8' }, 'ENCODER_INCOMPLETE', '"hidden_size"'],
])('%j is refused', (change, code, message) => {
  expect(() => readEncoderConfig({ ...bert, ...change })).toThrow(
    expect.objectContaining({ code, message: expect.stringContaining(message) }),
  );
});
