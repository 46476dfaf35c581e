import { access } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { convertFloat, type HostTensor, type Named } from '@fewtune/engine';
import { type Encoder, loadEncoder, ModelError, parseSafetensors, serializeSafetensors } from '@fewtune/models';
import { z } from 'zod';
import { writeFolder } from '../artifact/folder.js';
import { readSealedFolder } from '../artifact/load.js';
import { type MetaStart, manifestFile } from '../artifact/manifest.js';
import { metaCard } from '../artifact/meta-card.js';
import { type MetaReport, metaManifestFile, metaManifestSchema } from '../artifact/meta-manifest.js';
import { listFiles, seal, sha256Of } from '../artifact/sealed.js';
import { classKey } from '../data/class-split.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { mamlVariants } from '../methods/meta/task-loss.js';
import { textMamlSettings } from '../methods/meta/text-maml.js';
import type { TextMamlStart } from '../methods/meta/text-maml-start.js';
import { adaptEncoder, adaptedModules, asLora, type LoraAdapter } from '../methods/peft/adapter.js';
import { adapterFiles, adapterFromFiles, configFile, weightsFile } from '../methods/peft/peft-files.js';

/** What MAML learned besides the adapter: the learned rates. */
const metaWeightsFile = 'meta.safetensors';

/** Of the options in the manifest, what adaptation needs. */
const mamlSettings = z.object({
  variant: z.enum(mamlVariants).optional(),
  innerLr: z.number().positive().optional(),
  innerSteps: z.number().int().min(0).optional(),
  scale: z.number().positive().optional(),
});

/** A meta-trained start: an encoder on which classes that it has never seen lie apart. */
export class MetaTrained {
  /** The folder's name; `unsaved` for what was just trained. */
  readonly source: string;
  readonly report: MetaReport;
  readonly adapter: LoraAdapter;
  /** The base with the adapter merged into it; every method takes it. */
  readonly encoder: Encoder;
  /** With `maml`: the learned rates, as `Maml`'s `start` takes them together with the adapter's weights. */
  readonly meta: Named<HostTensor> | undefined;
  /** Without the adapter. */
  private readonly base: Encoder;

  constructor(parts: {
    report: MetaReport;
    adapter: LoraAdapter;
    encoder: Encoder;
    base: Encoder;
    meta?: Named<HostTensor>;
    source?: string;
  }) {
    this.source = parts.source ?? 'unsaved';
    this.report = parts.report;
    this.adapter = parts.adapter;
    this.encoder = parts.encoder;
    this.meta = parts.meta;
    this.base = parts.base;
  }

  /** What the method `maml` begins with: after metric learning its rates and steps are the defaults. */
  mamlStart(): TextMamlStart {
    const { rank, alpha } = this.adapter;
    const learned = mamlSettings.safeParse(this.report.kind === 'maml' ? this.report.options : {});
    if (!learned.success) {
      throw new FewtuneError(
        'MODEL_CORRUPT',
        `${this.source}: ${metaManifestFile} does not say how it was meta-trained (${learned.error.issues[0]!.path.join('.')}). Meta-train again.`,
        { cause: learned.error },
      );
    }
    const settings = { ...textMamlSettings, ...learned.data, rank, alpha, targets: adaptedModules(this.adapter) };
    return { encoder: this.base, params: { ...this.adapter.weights, ...this.meta }, settings };
  }

  /**
   * Writes `fewtune-meta.json`, a PEFT adapter that Python reads too, and a page for people; a start that stands there is
   * replaced as a whole.
   *
   * @throws FewtuneError OUTPUT_UNWRITABLE, INTERRUPTED
   */
  async save(folder: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    throwIfAborted(options.signal);
    const files = new Map<string, Uint8Array | string>(adapterFiles(halved(this.adapter)));
    if (this.meta) files.set(metaWeightsFile, serializeSafetensors(this.meta));
    files.set('README.md', metaCard(this.report));
    files.set(metaManifestFile, seal(metaManifestSchema, { ...this.report, files: listFiles(files) }));
    await writeFolder(folder, files, metaManifestFile);
  }

  /** What a model trained from this start says of it. `classes`: those of the model. */
  describeFor(classes: readonly string[]): MetaStart {
    // A start from several tables names its classes `table/class`.
    const own = new Set(this.report.classes.flatMap((name) => [name, name.slice(name.indexOf('/') + 1)].map(classKey)));
    return {
      source: this.source,
      kind: this.report.kind,
      adapter: sha256Of(adapterFiles(halved(this.adapter)).get(weightsFile)!),
      classes: this.report.classes.length,
      seen: classes.filter((name) => own.has(classKey(name))),
    };
  }
}

/** The adapter in half precision, as it is saved. */
function halved(adapter: LoraAdapter): LoraAdapter {
  return { ...adapter, weights: mapped(adapter.weights, (tensor) => convertFloat(tensor, 'float16')) };
}

/** The adapter with the values that half precision has: what is saved and opened again is the same. */
export function roundedToHalf(adapter: LoraAdapter): LoraAdapter {
  return { ...adapter, weights: mapped(halved(adapter).weights, (tensor) => convertFloat(tensor, 'float32')) };
}

function mapped(tensors: Named<HostTensor>, change: (tensor: HostTensor) => HostTensor): Named<HostTensor> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, change(tensor)]));
}

/**
 * Opens the folder of a meta-trained start: files are checked as a model's are, the base encoder is loaded by the name in
 * the manifest, and its fingerprint must be the one that the adapter was trained on.
 *
 * @throws FewtuneError MODEL_NOT_FOUND (an ordinary model and a bare adapter are told apart), MODEL_CORRUPT,
 *   MODEL_UNSUPPORTED, ADAPTER_MISMATCH
 * @throws ModelError when the base encoder is not to be had
 * @example const { encoder, report } = await openMetaTrained('starts/intents');
 */
export async function openMetaTrained(folder: string, options: { signal?: AbortSignal } = {}): Promise<MetaTrained> {
  const kind = { file: metaManifestFile, schema: metaManifestSchema, missing: await whatInstead(folder) };
  const { manifest, files } = await readSealedFolder(folder, kind);
  const { files: _, ...report } = manifest;
  for (const needed of [configFile, weightsFile, ...(report.kind === 'maml' ? [metaWeightsFile] : [])]) {
    if (files.has(needed)) continue;
    throw new FewtuneError(
      'MODEL_CORRUPT',
      `${join(folder, metaManifestFile)}: does not list ${needed}, which is needed. Meta-train again.`,
    );
  }
  const read = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      if (!(cause instanceof ModelError)) throw cause;
      throw new FewtuneError('MODEL_CORRUPT', `${folder}: ${cause.message}`, { cause });
    }
  };
  const adapter = asLora(
    read(() => adapterFromFiles(files, folder)),
    folder,
  );
  const meta = files.get(metaWeightsFile);
  const base = await loadEncoder(report.base.id, { revision: report.base.revision, signal: options.signal });
  if (base.fingerprint !== report.base.fingerprint) {
    throw new FewtuneError(
      'ADAPTER_MISMATCH',
      `${folder} was meta-trained on ${report.base.id} with the fingerprint ${report.base.fingerprint.slice(0, 12)}…; what is ` +
        `found under that name has ${base.fingerprint.slice(0, 12)}…. Put the encoder of then back, or meta-train again.`,
    );
  }
  return new MetaTrained({
    source: basename(resolve(folder)),
    report,
    adapter,
    encoder: adaptEncoder(base, adapter),
    base,
    ...(meta && { meta: read(() => parseSafetensors(meta, `${folder}/${metaWeightsFile}`).tensors) }),
  });
}

/** What to say of a folder without a manifest of a start. */
async function whatInstead(folder: string): Promise<string> {
  const has = (name: string) =>
    access(join(folder, name)).then(
      () => true,
      () => false,
    );
  const give = 'Give the folder that `fewtune meta-train --out` wrote.';
  if (await has(manifestFile)) {
    return `this is a trained classifier (${manifestFile}), not a meta-trained start (${metaManifestFile}). ${give}`;
  }
  if (await has(configFile)) return `this is a bare PEFT adapter: ${metaManifestFile} is missing. ${give}`;
  return `no meta-trained start there (${metaManifestFile} is missing). ${give}`;
}
