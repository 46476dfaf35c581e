import { ModelError } from './errors.js';

/** What the backbones need to know of the Hub's `config.json`, under one set of names. */
export interface EncoderConfig {
  readonly modelType: ModelType;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly layerNormEpsilon: number;
  readonly activation: 'gelu' | 'relu';
  /** Rows of the position table that real tokens can use. */
  readonly maxPositions: number;
  /** RoBERTa and MPNet count positions from `padId + 1`. */
  readonly padId: number;
}

/** CamemBERT and XLM-R are RoBERTa under other names. */
const modelTypes = {
  bert: 'bert',
  roberta: 'roberta',
  'xlm-roberta': 'roberta',
  camembert: 'roberta',
  mpnet: 'mpnet',
  distilbert: 'distilbert',
} as const;

export type ModelType = (typeof modelTypes)[keyof typeof modelTypes];

/**
 * Checks a `config.json` and reads it.
 *
 * @throws ModelError ENCODER_UNSUPPORTED when it asks for something that would silently be computed wrongly
 */
export function readEncoderConfig(config: Readonly<Record<string, unknown>>): EncoderConfig {
  const type = String(config.model_type);
  if (!Object.hasOwn(modelTypes, type)) {
    throw unsupported(`model_type "${type}"`, `these work: ${Object.keys(modelTypes).join(', ')}`);
  }
  const modelType = modelTypes[type as keyof typeof modelTypes];
  const positions = config.position_embedding_type ?? 'absolute';
  if (positions !== 'absolute') throw unsupported(`position_embedding_type "${positions}"`, 'only "absolute" works');
  const distil = modelType === 'distilbert';
  const hidden = size(config, distil ? 'dim' : 'hidden_size');
  const heads = size(config, distil ? 'n_heads' : 'num_attention_heads');
  if (hidden % heads !== 0) throw unsupported(`hidden size ${hidden} with ${heads} heads`, 'it must divide evenly');
  const padId = typeof config.pad_token_id === 'number' ? config.pad_token_id : modelType === 'bert' ? 0 : 1;
  const countsFromPad = modelType === 'roberta' || modelType === 'mpnet';
  return {
    modelType,
    hidden,
    heads,
    layers: size(config, distil ? 'n_layers' : 'num_hidden_layers'),
    layerNormEpsilon: typeof config.layer_norm_eps === 'number' ? config.layer_norm_eps : 1e-12,
    activation: activation(config[distil ? 'activation' : 'hidden_act'] ?? 'gelu'),
    maxPositions: size(config, 'max_position_embeddings') - (countsFromPad ? padId + 1 : 0),
    padId,
  };
}

function activation(name: unknown): 'gelu' | 'relu' {
  if (name === 'gelu' || name === 'relu') return name;
  throw unsupported(`the activation "${name}"`, 'gelu (exact) and relu work');
}

function size(config: Readonly<Record<string, unknown>>, key: string): number {
  const value = config[key];
  if (typeof value === 'number' && Number.isInteger(value) && value > 0) return value;
  throw new ModelError('ENCODER_INCOMPLETE', `config.json: "${key}" should be a positive whole number, is ${value}`);
}

function unsupported(what: string, remedy: string): ModelError {
  return new ModelError('ENCODER_UNSUPPORTED', `config.json asks for ${what}; ${remedy}.`);
}
