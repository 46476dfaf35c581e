import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hostTensor } from '@fewtune/engine';
import { writeSafetensors } from '@fewtune/models';
import { createRandom } from '../src/data/random.js';
import { wordTokenizer } from './hand-made.js';

const [hidden, inner, positions] = [32, 64, 32];

/**
 * Writes the folder of a BERT with one layer and random weights that knows the words of some texts. Its features are
 * about the sum of random word vectors, so texts that share words are near: enough to learn from, in milliseconds.
 */
export async function writeTinyEncoder(folder: string, texts: readonly string[], seed = 1): Promise<void> {
  const words = [...new Set(texts.flatMap((text) => text.toLowerCase().match(/\p{L}+/gu) ?? []))].sort();
  const random = createRandom(seed);
  const noise = (scale: number, ...shape: number[]) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => scale * random.gaussian()),
    );
  const flat = (value: number, size: number) => hostTensor('float32', [size], new Float32Array(size).fill(value));
  const layer = 'encoder.layer.0';
  const dense = (name: string, outer: number, width: number) => ({
    [`${layer}.${name}.weight`]: noise(0.1, outer, width),
    [`${layer}.${name}.bias`]: flat(0, outer),
  });
  const norm = (name: string) => ({ [`${name}.weight`]: flat(1, hidden), [`${name}.bias`]: flat(0, hidden) });
  const weights = {
    'embeddings.word_embeddings.weight': noise(1, words.length + 2, hidden),
    'embeddings.position_embeddings.weight': noise(0.02, positions, hidden),
    'embeddings.token_type_embeddings.weight': noise(0.02, 2, hidden),
    ...norm('embeddings.LayerNorm'),
    ...dense('attention.self.query', hidden, hidden),
    ...dense('attention.self.key', hidden, hidden),
    ...dense('attention.self.value', hidden, hidden),
    ...dense('attention.output.dense', hidden, hidden),
    ...norm(`${layer}.attention.output.LayerNorm`),
    ...dense('intermediate.dense', inner, hidden),
    ...dense('output.dense', hidden, inner),
    ...norm(`${layer}.output.LayerNorm`),
  };
  const config = {
    model_type: 'bert',
    architectures: ['BertModel'],
    vocab_size: words.length + 2,
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    max_position_embeddings: positions,
    type_vocab_size: 2,
    hidden_act: 'gelu',
    layer_norm_eps: 1e-12,
    pad_token_id: 0,
  };
  await mkdir(join(folder, '1_Pooling'), { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  for (const [name, content] of Object.entries(wordTokenizer(words))) await writeFile(join(folder, name), content);
  const modules = ['Transformer', 'Pooling'].map((type, idx) => ({
    idx,
    name: String(idx),
    path: idx === 0 ? '' : '1_Pooling',
    type: `sentence_transformers.models.${type}`,
  }));
  await writeFile(join(folder, 'modules.json'), JSON.stringify(modules));
  const pooling = { word_embedding_dimension: hidden, pooling_mode_mean_tokens: true };
  await writeFile(join(folder, '1_Pooling', 'config.json'), JSON.stringify(pooling));
  await writeSafetensors(join(folder, 'model.safetensors'), weights);
}
