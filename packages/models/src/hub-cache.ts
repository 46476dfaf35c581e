import { readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** What the Hub's environment variables say; they mean what they mean to Python's `huggingface_hub`. */
export interface HubEnvironment {
  readonly cacheDir: string;
  readonly endpoint: string;
  readonly offline: boolean;
  readonly token: string | undefined;
}

/** HF_HUB_CACHE, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN; read at each call, so that tests and users can set them. */
export function hubEnvironment(environment: NodeJS.ProcessEnv = process.env): HubEnvironment {
  const home = environment.HF_HOME ?? join(environment.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
  return {
    cacheDir: environment.HF_HUB_CACHE ?? environment.HUGGINGFACE_HUB_CACHE ?? join(home, 'hub'),
    endpoint: (environment.HF_ENDPOINT ?? 'https://huggingface.co').replace(/\/+$/, ''),
    offline: /^(1|on|yes|true)$/i.test(environment.HF_HUB_OFFLINE ?? ''),
    token: environment.HF_TOKEN || undefined,
  };
}

/** One repository in the Hub's own cache layout: `models--org--name/{blobs,refs,snapshots}`. */
export interface CachedRepository {
  readonly root: string;
  snapshot(commit: string): string;
  blob(etag: string): string;
  ref(revision: string): string;
}

export function cachedRepository(cacheDir: string, repository: string): CachedRepository {
  const root = join(cacheDir, ['models', ...repository.split('/')].join('--'));
  return {
    root,
    snapshot: (commit) => join(root, 'snapshots', commit),
    blob: (etag) => join(root, 'blobs', etag),
    ref: (revision) => join(root, 'refs', revision),
  };
}

export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** The commit a branch or tag pointed to when it was last downloaded. */
export async function cachedCommit(cache: CachedRepository, revision: string): Promise<string | undefined> {
  if (isCommit(revision)) return revision;
  try {
    const commit = (await readFile(cache.ref(revision), 'utf8')).trim();
    return isCommit(commit) ? commit : undefined;
  } catch {
    return undefined; // never downloaded
  }
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}
