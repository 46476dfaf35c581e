import { convertFloat, type HostTensor } from '@fewtune/engine';
import { parseSafetensors, type Quantization, serializeSafetensors } from '@fewtune/models';
import { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import type { BottleneckAdapter, ReftAdapter } from './additions.js';
import { bottleneckActivations, bottleneckStyles } from './bottleneck-layer.js';
import { positionsOf } from './reft-layer.js';

/** Kinds that PEFT has not: they are kept in files of our own. */
export type OwnAdapter = BottleneckAdapter | ReftAdapter;

export const isOwn = <A extends { readonly method: string }>(adapter: A): adapter is A & OwnAdapter =>
  adapter.method === 'bottleneck' || adapter.method === 'loreft';

export const ownConfigFile = 'fewtune_adapter.json';
export const ownWeightsFile = 'fewtune_adapter.safetensors';

const common = {
  /** Of the format. */
  version: z.literal(1),
  base: z
    .strictObject({
      id: z.string(),
      revision: z.string(),
      fingerprint: z.string(),
      quantization: z.custom<Quantization>(),
    })
    .partial()
    .optional(),
  prefix: z.string().optional(),
};

const schema = z.discriminatedUnion('method', [
  z.strictObject({
    ...common,
    method: z.literal('bottleneck'),
    style: z.enum(bottleneckStyles),
    activation: z.enum(bottleneckActivations),
    scale: z.number(),
  }),
  z.strictObject({
    ...common,
    method: z.literal('loreft'),
    positions: z.string().refine((value) => positionsOf(value) !== undefined),
  }),
]);

/** What is no weight that was trained whole. */
const own = /\.(adapter_(down|up)\.(weight|bias)|reft_[RWb])$/;

/** The text of `fewtune_adapter.json`: all settings. */
export function ownConfig(adapter: OwnAdapter): string {
  const { weights: _, saved: __, targets: ___, taskType: ____, method, base, prefix, ...rest } = adapter;
  return `${JSON.stringify({ version: 1, method, ...rest, base, prefix }, null, 2)}\n`;
}

/** That, and `fewtune_adapter.safetensors`: all tensors under their names. */
export function ownFiles(adapter: OwnAdapter): Map<string, Uint8Array> {
  return new Map([
    [ownConfigFile, new TextEncoder().encode(ownConfig(adapter))],
    [ownWeightsFile, serializeSafetensors({ ...adapter.weights, ...adapter.saved }, {})],
  ]);
}

/**
 * An adapter from such files.
 *
 * @throws FewtuneError MODEL_CORRUPT; MODEL_UNSUPPORTED for one of a newer version
 * @throws ModelError SAFETENSORS_INVALID for a truncated or overlapping file
 */
export function fromOwnFiles(files: ReadonlyMap<string, Uint8Array>, source: string): OwnAdapter {
  const bytes = files.get(ownWeightsFile);
  if (!bytes)
    throw new FewtuneError('MODEL_CORRUPT', `${source} has no ${ownWeightsFile}. Copy the whole folder again.`);
  const { version: _, ...settings } = parse(files.get(ownConfigFile)!, `${source}: ${ownConfigFile}`);
  const { tensors } = parseSafetensors(bytes, `${source}: ${ownWeightsFile}`);
  const weights: Record<string, HostTensor> = {};
  const saved: Record<string, HostTensor> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    if (!tensor.dtype.startsWith('float')) {
      throw new FewtuneError('MODEL_CORRUPT', `${source}: the tensor "${name}" is ${tensor.dtype}, not a float.`);
    }
    (own.test(name) ? weights : saved)[name] = convertFloat(tensor, 'float32');
  }
  checkParts(weights, source);
  return { ...settings, weights, ...(Object.keys(saved).length > 0 && { saved }) };
}

function parse(bytes: Uint8Array, source: string): z.infer<typeof schema> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new FewtuneError('MODEL_CORRUPT', `${source} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const version = (json as { version?: unknown } | null)?.version;
  if (typeof version === 'number' && version > 1) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${source} is of version ${version}; this Fewtune reads version 1. Update it.`,
    );
  }
  const found = schema.safeParse(json);
  if (found.success) return found.data;
  const wrong = found.error.issues.map(({ path, message }) => `${path.join('.') || 'the whole'}: ${message}`);
  throw new FewtuneError('MODEL_CORRUPT', `${source} is no adapter: ${wrong.join('; ')}`);
}

/** Every module has all of its tensors, of sizes that fit. */
function checkParts(weights: Readonly<Record<string, HostTensor>>, source: string): void {
  const modules = new Set(Object.keys(weights).map((name) => name.replace(own, '')));
  if (modules.size === 0)
    throw new FewtuneError('MODEL_CORRUPT', `${source} is not a whole adapter: it holds nothing.`);
  for (const module of modules) {
    const shape = (end: string) => weights[`${module}.${end}`]?.shape.join() ?? 'missing';
    const first = weights[`${module}.adapter_down.weight`] ?? weights[`${module}.reft_R`];
    const [size, width] = first?.shape ?? [];
    const needs: Record<string, string> = weights[`${module}.reft_R`]
      ? { reft_R: `${size},${width}`, reft_W: `${size},${width}`, reft_b: `${size}` }
      : {
          'adapter_down.weight': `${size},${width}`,
          'adapter_down.bias': `${size}`,
          'adapter_up.weight': `${width},${size}`,
          'adapter_up.bias': `${width}`,
        };
    for (const [end, needed] of Object.entries(needs)) {
      if (shape(end) === needed) continue;
      const what = `"${module}.${end}" is ${shape(end)}, not ${needed}`;
      throw new FewtuneError('MODEL_CORRUPT', `${source} is not a whole adapter: ${what}.`);
    }
  }
}
