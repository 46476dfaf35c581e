import { type Encoder, serializeSafetensors } from '@fewtune/models';

/**
 * The files of an encoder as sentence-transformers and `loadEncoder` read them.
 *
 * @throws when something is computed along with the weights: no file has a place for it
 */
export function encoderFiles(encoder: Encoder): Map<string, Uint8Array | string> {
  const { config, weights, tokenizer, pooling, hidden, addition } = encoder;
  if (addition) throw new Error(`an encoder with an addition (${addition.id}) is more than its weights`);
  const print = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  const modules = ['Transformer', 'Pooling', 'Normalize'].map((kind, idx) => ({
    idx,
    name: String(idx),
    path: idx === 0 ? '' : `${idx}_${kind}`,
    type: `sentence_transformers.models.${kind}`,
  }));
  return new Map<string, Uint8Array | string>([
    ['config.json', print(config)],
    ...Object.entries(tokenizer.files),
    ['modules.json', print(modules)],
    ['sentence_bert_config.json', print({ max_seq_length: tokenizer.maxLength, do_lower_case: false })],
    [
      '1_Pooling/config.json',
      print({
        word_embedding_dimension: hidden,
        pooling_mode_cls_token: pooling === 'cls',
        pooling_mode_mean_tokens: pooling === 'mean',
      }),
    ],
    ['model.safetensors', serializeSafetensors(weights, { format: 'pt' })],
  ]);
}
