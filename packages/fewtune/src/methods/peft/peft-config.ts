import { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import { adaptedModules, type LoraAdapter } from './adapter.js';

/** Everything of an adapter but its tensors. */
export type AdapterSettings = Omit<LoraAdapter, 'weights' | 'saved'>;

const patterns = z.record(z.string(), z.number().positive()).nullish();

const schema = z.looseObject({
  peft_type: z.string(),
  r: z.number().int().positive().default(8),
  lora_alpha: z.number().default(8),
  use_rslora: z.boolean().nullish(),
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  rank_pattern: patterns,
  alpha_pattern: patterns,
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  base_model_name_or_path: z.string().nullish(),
  revision: z.string().nullish(),
  task_type: z.string().nullish(),
});

/** Fields that an adapted layer's result does not depend on, once its matrices are there. */
const withoutEffect = new Set([
  'peft_version',
  'inference_mode',
  'auto_mapping',
  'exclude_modules',
  'layers_to_transform',
  'layers_pattern',
  'modules_to_save',
  'bias', // the biases stand in the file
  'lora_bias',
  'use_dora', // the magnitudes do
  'lora_dropout',
  'fan_in_fan_out', // PEFT itself ignores it at layers that are no Conv1D
  'megatron_core',
  'qalora_group_size',
  'ensure_weight_tying',
  'eva_config', // settings of starts; a start that changes the base is refused by its name
  'loftq_config',
  'corda_config',
  'lora_ga_config',
  'runtime_config',
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
  const found = schema.safeParse(json);
  if (!found.success) {
    const wrong = found.error.issues.map(({ path, message }) => `${path.join('.') || 'the whole'}: ${message}`);
    throw new FewtuneError('MODEL_CORRUPT', `${source} is no PEFT configuration: ${wrong.join('; ')}`);
  }
  const config = found.data;
  const unsupported = (what: string, remedy: string) =>
    new FewtuneError('MODEL_UNSUPPORTED', `${source}: ${what}. ${remedy}`);
  if (config.peft_type !== 'LORA') {
    throw unsupported(`peft_type "${config.peft_type}" cannot be read`, 'LORA can, with use_rslora and use_dora.');
  }
  for (const [key, value] of Object.entries(config)) {
    if (Object.hasOwn(schema.shape, key) || withoutEffect.has(key) || isOff(value)) continue;
    throw unsupported(
      `"${key}" is ${JSON.stringify(value).slice(0, 80)}, which this version does not know`,
      'Merge the adapter into its base with the PEFT that wrote it, and load the merged model.',
    );
  }
  if (!plainStarts.includes(config.init_lora_weights)) {
    throw unsupported(
      `init_lora_weights "${config.init_lora_weights}" took a part out of the base's weights, which stands in no file`,
      'Save it with save_pretrained(path_initial_model_for_weight_conversion=…), which makes an ordinary LoRA of it.',
    );
  }
  const { target_modules: targets, base_model_name_or_path: id, revision, task_type: taskType } = config;
  return {
    method: 'lora',
    rank: config.r,
    alpha: config.lora_alpha,
    ...(config.use_rslora && { rsLora: true }),
    ...(some(config.rank_pattern) && { rankPattern: config.rank_pattern }),
    ...(some(config.alpha_pattern) && { alphaPattern: config.alpha_pattern }),
    ...(targets && { targets }),
    ...((id || revision) && { base: { ...(id && { id }), ...(revision && { revision }) } }),
    ...(taskType && { taskType }),
  };
}

/**
 * The text of `adapter_config.json`. Fields stand only where they differ from PEFT's defaults, so that older versions
 * know all of them; r and lora_alpha always, because people look for them.
 */
export function writePeftConfig(adapter: LoraAdapter): string {
  const { weights, base = {}, prefix = '', saved = {} } = adapter;
  const modules = adaptedModules(adapter);
  const has = (suffix: string) => Object.keys(weights).some((name) => name.endsWith(suffix));
  const biases = Object.keys(saved).filter((name) => name.endsWith('.bias') && modules.includes(name.slice(0, -5)));
  const wholes = new Set(
    Object.keys(saved).flatMap((name) => (biases.includes(name) ? [] : [name.slice(0, name.lastIndexOf('.'))])),
  );
  const config: Record<string, unknown> = {
    peft_type: 'LORA',
    task_type: adapter.taskType ?? null,
    base_model_name_or_path: base.id ?? null,
    revision: base.revision ?? null,
    inference_mode: true,
    r: adapter.rank,
    lora_alpha: adapter.alpha,
    target_modules: adapter.targets ?? modules.map((module) => prefix + module),
  };
  if (adapter.rsLora) config.use_rslora = true;
  if (has('.lora_magnitude_vector')) config.use_dora = true;
  if (has('.lora_B.bias')) config.lora_bias = true;
  if (biases.length > 0) config.bias = 'lora_only';
  if (wholes.size > 0) config.modules_to_save = [...wholes].map((name) => moduleInPython(name, prefix));
  const ranks = rankPattern(adapter, modules);
  if (some(ranks)) config.rank_pattern = ranks;
  if (some(adapter.alphaPattern)) config.alpha_pattern = adapter.alphaPattern;
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** Modules of an encoder; a task's head stands outside of it. */
const inEncoder = /^(embeddings|encoder|transformer|pooler)\./;

/** The module's or weight's name in the model that Python adapts. */
export const moduleInPython = (name: string, prefix: string): string => (inEncoder.test(name) ? prefix + name : name);

/** PEFT builds every matrix by the configuration: a module whose rank is not the general one is named. */
function rankPattern(adapter: LoraAdapter, modules: readonly string[]): Record<string, number> {
  if (adapter.rankPattern) return adapter.rankPattern;
  const { weights, rank, prefix = '' } = adapter;
  const own = (module: string) =>
    (weights[`${module}.lora_A.weight`] ?? weights[`${module}.lora_embedding_A`])!.shape[0]!;
  return Object.fromEntries(modules.flatMap((name) => (own(name) === rank ? [] : [[prefix + name, own(name)]])));
}

const some = (record: object | null | undefined): record is object => Object.keys(record ?? {}).length > 0;

function isOff(value: unknown): boolean {
  return value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
}
