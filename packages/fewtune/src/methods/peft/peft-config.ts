import { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import { type Adapter, adaptedModules, type LoraAdapter } from './adapter.js';
import type { OwnAdapter } from './own-files.js';
import { tableName } from './virtual-tokens.js';

type Without<T> = T extends unknown ? Omit<T, 'weights' | 'saved'> : never;
/** Adapters of the kinds that PEFT has. */
export type PeftAdapter = Exclude<Adapter, OwnAdapter>;
/** Everything of an adapter but its tensors. */
export type AdapterSettings = Without<PeftAdapter>;

/** Whether it is words or keys before each sentence, which PEFT keeps apart from adapted layers. */
export const isVirtual = ({ method }: Pick<Adapter, 'method'>): boolean => method === 'prompt' || method === 'prefix';

const pattern = (value: z.ZodNumber) => z.record(z.string(), value).nullish();
const names = z.union([z.array(z.string()), z.string()]).nullish();

const common = {
  peft_type: z.string(),
  target_modules: names,
  base_model_name_or_path: z.string().nullish(),
  revision: z.string().nullish(),
  task_type: z.string().nullish(),
};
const rank = (usual: number) => z.number().int().positive().default(usual);

const loraSchema = z.looseObject({
  ...common,
  r: rank(8),
  lora_alpha: z.number().default(8),
  use_rslora: z.boolean().nullish(),
  fan_in_fan_out: z.boolean().nullish(), // of no effect on A and B, but told on
  rank_pattern: pattern(z.number().int().positive()),
  alpha_pattern: pattern(z.number()),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});
const ia3Schema = z.looseObject({ ...common, feedforward_modules: names });
const veraSchema = z.looseObject({ ...common, r: rank(256), save_projection: z.boolean().nullish() });

const virtual = {
  ...common,
  num_virtual_tokens: z.number().int().positive(),
  token_dim: z.number().int().positive().nullish(),
  num_layers: z.number().int().positive().nullish(),
  num_attention_heads: z.number().int().positive().nullish(),
  num_transformer_submodules: z.number().int().nullish(),
};
const promptSchema = z.looseObject(virtual);
const prefixSchema = z.looseObject({
  ...virtual,
  num_layers: z.number().int().positive(),
  num_attention_heads: z.number().int().positive(),
});

/** Our names of methods by PEFT's. */
const peftTypes = {
  lora: 'LORA',
  ia3: 'IA3',
  vera: 'VERA',
  prompt: 'PROMPT_TUNING',
  prefix: 'PREFIX_TUNING',
} as const satisfies Partial<Record<Adapter['method'], string>>;

/** Fields that an adapted layer's result does not depend on, once its matrices are there. */
const withoutEffect = new Set([
  'peft_version',
  'inference_mode',
  'auto_mapping',
  'exclude_modules',
  'layers_to_transform',
  'layers_pattern',
  'modules_to_save',
  'fan_in_fan_out', // read for LoRA; PEFT itself ignores it at layers that are no Conv1D
  'bias', // the biases stand in the file
  'lora_bias',
  'use_dora', // the magnitudes do
  'lora_dropout',
  'megatron_core',
  'qalora_group_size',
  'ensure_weight_tying',
  'eva_config', // settings of starts; a start that changes the base is refused by its name
  'loftq_config',
  'corda_config',
  'lora_ga_config',
  'runtime_config',
  'init_ia3_weights',
  'vera_dropout',
  'd_initial',
  'init_weights',
  'projection_prng_key', // the projections stand in the file
  'prompt_tuning_init', // settings of starts
  'prompt_tuning_init_text',
  'tokenizer_name_or_path',
  'tokenizer_kwargs',
  'prefix_projection', // what it made stands in the file
  'encoder_hidden_size',
]);

/** Starts that leave the base as it is. Others move a part of it into A and B. */
const plainStarts: readonly unknown[] = [true, false, null, undefined, 'gaussian', 'eva', 'orthogonal'];

/**
 * Reads `adapter_config.json`. Fields we do not know are ignored when they are off (null, false, empty), as a newer PEFT
 * writes them; one that is on may change what the layer computes, so it is refused by name.
 *
 * @throws FewtuneError MODEL_CORRUPT, MODEL_UNSUPPORTED
 */
export function readPeftConfig(text: string, source: string): AdapterSettings {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FewtuneError('MODEL_CORRUPT', `${source} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const { peft_type: type } = parse(z.looseObject(common), json, source);
  switch (type) {
    case 'LORA':
      return readLora(parse(loraSchema, json, source), source);
    case 'IA3': {
      const config = parse(ia3Schema, json, source);
      refuseUnknown(config, ia3Schema, source);
      const { feedforward_modules: feedforward } = config;
      return { method: 'ia3', ...readCommon(config), ...(feedforward && { feedforward }) };
    }
    case 'VERA': {
      const config = parse(veraSchema, json, source);
      refuseUnknown(config, veraSchema, source);
      if (config.save_projection === false) {
        throw unsupported(source, 'its projections were not saved', 'Save it again with save_projection=True.');
      }
      return { method: 'vera', rank: config.r, ...readCommon(config) };
    }
    case 'PROMPT_TUNING':
    case 'PREFIX_TUNING': {
      const isPrefix = type === 'PREFIX_TUNING';
      const config = isPrefix ? parse(prefixSchema, json, source) : parse(promptSchema, json, source);
      refuseUnknown(config, prefixSchema, source);
      if ((config.num_transformer_submodules ?? 1) !== 1) {
        throw unsupported(source, 'it is for a model of encoder and decoder', 'Only encoders can be adapted here.');
      }
      const { num_layers: layers, num_attention_heads: heads } = config;
      if (isPrefix) return { method: 'prefix', layers: layers!, heads: heads!, ...readCommon(config) };
      return { method: 'prompt', ...readCommon(config) };
    }
    default:
      throw unsupported(
        source,
        `peft_type "${type}" cannot be read`,
        'These can: LORA (with DoRA and rsLoRA), IA3, VERA, PROMPT_TUNING, PREFIX_TUNING.',
      );
  }
}

function readLora(config: z.infer<typeof loraSchema>, source: string): AdapterSettings {
  refuseUnknown(config, loraSchema, source);
  if (!plainStarts.includes(config.init_lora_weights)) {
    throw unsupported(
      source,
      `init_lora_weights "${config.init_lora_weights}" took a part out of the base's weights, which stands in no file`,
      'Save it with save_pretrained(path_initial_model_for_weight_conversion=…), which makes an ordinary LoRA of it.',
    );
  }
  return {
    method: 'lora',
    rank: config.r,
    alpha: config.lora_alpha,
    ...(config.use_rslora && { rsLora: true }),
    ...(config.fan_in_fan_out && { fanInFanOut: true }),
    ...(some(config.rank_pattern) && { rankPattern: config.rank_pattern }),
    ...(some(config.alpha_pattern) && { alphaPattern: config.alpha_pattern }),
    ...readCommon(config),
  };
}

function readCommon(config: z.infer<z.ZodObject<typeof common>>) {
  const { target_modules: targets, base_model_name_or_path: id, revision, task_type: taskType } = config;
  return {
    ...(targets && { targets }),
    ...((id || revision) && { base: { ...(id && { id }), ...(revision && { revision }) } }),
    ...(taskType && { taskType }),
  };
}

function parse<T extends z.ZodType>(schema: T, json: unknown, source: string): z.infer<T> {
  const found = schema.safeParse(json);
  if (found.success) return found.data;
  const wrong = found.error.issues.map(({ path, message }) => `${path.join('.') || 'the whole'}: ${message}`);
  throw new FewtuneError('MODEL_CORRUPT', `${source} is no PEFT configuration: ${wrong.join('; ')}`);
}

function refuseUnknown(config: object, schema: z.ZodObject, source: string): void {
  for (const [key, value] of Object.entries(config)) {
    if (Object.hasOwn(schema.shape, key) || withoutEffect.has(key) || isOff(value)) continue;
    throw unsupported(
      source,
      `"${key}" is ${JSON.stringify(value).slice(0, 80)}, which this version does not know`,
      'Merge the adapter into its base with the PEFT that wrote it, and load the merged model.',
    );
  }
}

/**
 * The text of `adapter_config.json`. Fields stand only where they differ from PEFT's defaults, so that older versions
 * know all of them; r and lora_alpha always, because people look for them.
 */
export function writePeftConfig(adapter: PeftAdapter): string {
  const { base = {}, prefix = '' } = adapter;
  const modules = adaptedModules(adapter);
  const config = {
    peft_type: peftTypes[adapter.method],
    task_type: adapter.taskType ?? (isVirtual(adapter) ? 'FEATURE_EXTRACTION' : null), // without one PEFT drops the tokens
    base_model_name_or_path: base.id ?? null,
    revision: base.revision ?? null,
    inference_mode: true,
    ...(!isVirtual(adapter) && { target_modules: adapter.targets ?? modules.map((module) => prefix + module) }),
    ...ownFields(adapter, modules),
    ...savedFields(adapter, modules),
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

function ownFields(adapter: PeftAdapter, modules: readonly string[]): Record<string, unknown> {
  switch (adapter.method) {
    case 'lora':
      return loraFields(adapter, modules);
    case 'ia3': {
      const ofInputs = modules.filter((module) => adapter.weights[`${module}.ia3_l`]!.shape[0] === 1);
      return { feedforward_modules: adapter.feedforward ?? ofInputs.map((name) => (adapter.prefix ?? '') + name) };
    }
    case 'vera':
      return { r: adapter.rank };
    case 'prompt':
    case 'prefix': {
      const [tokens, width] = adapter.weights[tableName]!.shape as [number, number];
      const { layers, heads } = adapter.method === 'prefix' ? adapter : {};
      return {
        num_virtual_tokens: tokens,
        num_transformer_submodules: 1,
        token_dim: layers === undefined ? width : width / layers / 2,
        ...(layers !== undefined && { num_layers: layers, num_attention_heads: heads }),
      };
    }
    default:
      return adapter satisfies never;
  }
}

function loraFields(adapter: LoraAdapter, modules: readonly string[]): Record<string, unknown> {
  const has = (suffix: string) => Object.keys(adapter.weights).some((name) => name.endsWith(suffix));
  const ranks = rankPattern(adapter, modules);
  return {
    r: adapter.rank,
    lora_alpha: adapter.alpha,
    ...(adapter.rsLora && { use_rslora: true }),
    ...(adapter.fanInFanOut && { fan_in_fan_out: true }),
    ...(has('.lora_magnitude_vector') && { use_dora: true }),
    ...(has('.lora_B.bias') && { lora_bias: true }),
    ...(some(ranks) && { rank_pattern: ranks }),
    ...(some(adapter.alphaPattern) && { alpha_pattern: adapter.alphaPattern }),
  };
}

/** PEFT builds every matrix by the configuration: a module whose rank is not the general one is named. */
function rankPattern(adapter: LoraAdapter, modules: readonly string[]): Record<string, number> {
  if (adapter.rankPattern) return adapter.rankPattern;
  const { weights, rank: common, prefix = '' } = adapter;
  const own = (module: string) =>
    (weights[`${module}.lora_A.weight`] ?? weights[`${module}.lora_embedding_A`])!.shape[0]!;
  return Object.fromEntries(modules.flatMap((name) => (own(name) === common ? [] : [[prefix + name, own(name)]])));
}

/** Biases beside adapted weights are PEFT's `bias`; other whole weights are named by their modules. */
function savedFields({ saved = {}, prefix = '' }: PeftAdapter, modules: readonly string[]): Record<string, unknown> {
  const isBias = (name: string) => name.endsWith('.bias') && modules.includes(name.slice(0, -'.bias'.length));
  const wholes = new Set(
    Object.keys(saved).flatMap((name) => (isBias(name) ? [] : [name.slice(0, name.lastIndexOf('.'))])),
  );
  return {
    ...(Object.keys(saved).some(isBias) && { bias: 'lora_only' }),
    ...(wholes.size > 0 && { modules_to_save: [...wholes].map((name) => moduleInPython(name, prefix)) }),
  };
}

/** Modules of an encoder; a task's head stands outside of it. */
const inEncoder = /^(embeddings|encoder|transformer|pooler)\./;

/** The module's or weight's name in the model that Python adapts. */
export const moduleInPython = (name: string, prefix: string): string => (inEncoder.test(name) ? prefix + name : name);

const some = (record: object | null | undefined): record is object => Object.keys(record ?? {}).length > 0;

function isOff(value: unknown): boolean {
  return value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
}

function unsupported(source: string, what: string, remedy: string): FewtuneError {
  return new FewtuneError('MODEL_UNSUPPORTED', `${source}: ${what}. ${remedy}`);
}
