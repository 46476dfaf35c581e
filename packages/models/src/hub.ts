import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { downloadFile, HubApiError, modelInfo, type PathInfo, pathsInfo } from '@huggingface/hub';
import { pickleError, pickleFiles, shardsOf, smallFiles, weightFiles, weightIndex } from './checkpoint-folder.js';
import { ModelError, throwIfAborted } from './errors.js';
import {
  type CachedRepository,
  cachedCommit,
  cachedRepository,
  exists,
  hubEnvironment,
  isCommit,
} from './hub-cache.js';

export interface DownloadProgress {
  readonly file: string;
  readonly loadedBytes: number;
  readonly totalBytes: number;
}

export interface HubOptions {
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string;
  readonly cacheDir?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: DownloadProgress) => void;
}

interface Request {
  readonly repository: string;
  readonly revision: string;
  readonly cache: CachedRepository;
  readonly endpoint: string;
  readonly options: HubOptions;
  /** What every call of `@huggingface/hub` is given. */
  readonly access: { hubUrl: string; accessToken?: string; fetch: typeof fetch };
}

/**
 * The folder of an encoder's files in the Hub's cache, downloaded first where they are missing: config, tokenizer and
 * safetensors only. A commit that is cached whole needs no network; without network a cached branch or tag is used as
 * it was last seen.
 *
 * `@huggingface/hub` has `snapshotDownload`, but that fetches whole repositories (pickles, ONNX, TensorFlow), cannot
 * be aborted, shows no progress and logs to stdout; so only its single requests are used.
 *
 * @throws ModelError HUB_OFFLINE, HUB_FAILED, ENCODER_NOT_FOUND, ENCODER_UNSAFE, ENCODER_INCOMPLETE, ABORTED
 */
export async function fetchFromHub(
  repository: string,
  options: HubOptions = {},
): Promise<{ folder: string; revision: string }> {
  const { cacheDir, endpoint, offline, token } = hubEnvironment();
  const { signal, revision = 'main' } = options;
  if (!/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(revision)) {
    throw new ModelError('ENCODER_NOT_FOUND', `"${revision}" is no revision: name a branch, a tag or a commit`);
  }
  const request: Request = {
    repository,
    revision,
    cache: cachedRepository(options.cacheDir ?? cacheDir, repository),
    endpoint,
    options,
    access: {
      hubUrl: endpoint,
      ...(token === undefined ? {} : { accessToken: token }),
      fetch: (input, init) => fetch(input, { ...init, signal: signal ?? null }),
    },
  };
  if (isCommit(request.revision) || offline) {
    const cached = await fromCache(request);
    if (cached) return cached;
    if (offline) throw offlineError(request, 'HF_HUB_OFFLINE is set');
  }
  try {
    return await download(request);
  } catch (error) {
    throwIfAborted(signal);
    if (error instanceof ModelError) throw error;
    if (error instanceof HubApiError) throw apiError(request, error);
    if (!isNetworkError(error)) {
      const why = error instanceof Error ? error.message : String(error);
      throw new ModelError('HUB_FAILED', `${repository} cannot be fetched (check HF_ENDPOINT and HF_TOKEN): ${why}`, {
        cause: error,
      });
    }
    const cached = await fromCache(request);
    if (cached) return cached;
    throw offlineError(request, `${endpoint} could not be reached`, error);
  }
}

async function download(request: Request): Promise<{ folder: string; revision: string }> {
  const { repository, revision, cache, access } = request;
  const info = await modelInfo({ ...access, name: repository, revision, additionalFields: ['sha', 'filePaths'] });
  const commit = info.sha;
  if (!isCommit(commit)) throw new ModelError('HUB_FAILED', `${request.endpoint} gave no commit for ${repository}`);
  const folder = cache.snapshot(commit);
  const present = new Set(info.filePaths);
  const small = smallFiles.filter((file) => present.has(file));
  const whole = weightFiles.find((file) => present.has(file));
  if (whole) await downloadFiles(request, commit, [...small, whole]);
  else if (present.has(weightIndex)) {
    await downloadFiles(request, commit, [...small, weightIndex]);
    const index = JSON.parse(await readFile(join(folder, weightIndex), 'utf8')) as Record<string, unknown>;
    await downloadFiles(request, commit, shardsOf(index, repository));
  } else {
    const pickle = pickleFiles.find((file) => present.has(file));
    if (pickle) throw pickleError(repository, pickle);
    throw new ModelError('ENCODER_INCOMPLETE', `${repository} has no ${weightFiles[0]} at revision ${revision}`);
  }
  if (revision !== commit) await writeBeside(cache.ref(revision), commit);
  return { folder, revision: commit };
}

async function downloadFiles(request: Request, commit: string, files: readonly string[]): Promise<void> {
  const { repository, cache, access } = request;
  const missing: string[] = [];
  for (const file of files) if (!(await exists(join(cache.snapshot(commit), file)))) missing.push(file);
  if (missing.length === 0) return;
  const infos = await pathsInfo({ ...access, repo: repository, paths: missing, revision: commit });
  for (const file of missing) {
    const info = infos.find(({ path }) => path === file);
    if (!info)
      throw new ModelError('HUB_FAILED', `${request.endpoint} lists ${file} in ${repository} but has no entry for it`);
    await downloadOne(request, commit, info);
  }
}

/** Blob first, under a name of its own until it is whole; then the link in the snapshot. */
async function downloadOne(request: Request, commit: string, info: PathInfo): Promise<void> {
  const { repository, cache, access, options } = request;
  throwIfAborted(options.signal);
  const etag = info.lfs?.oid ?? info.oid ?? info.xetHash;
  if (!etag || !/^[0-9a-f]{40,64}$/.test(etag)) {
    throw new ModelError('HUB_FAILED', `${request.endpoint} gave no hash for ${info.path} of ${repository}`);
  }
  const blob = cache.blob(etag);
  if (!(await exists(blob))) {
    await mkdir(dirname(blob), { recursive: true });
    const content = await downloadFile({ ...access, repo: repository, path: info.path, revision: commit });
    if (!content) throw new ModelError('HUB_FAILED', `${request.endpoint} has no file ${info.path} in ${repository}`);
    const incomplete = `${blob}.${process.pid}.incomplete`;
    try {
      await writeChecked(content, incomplete, info, options);
      await rename(incomplete, blob);
    } finally {
      await rm(incomplete, { force: true });
    }
  }
  const link = join(cache.snapshot(commit), info.path);
  await mkdir(dirname(link), { recursive: true });
  await rm(link, { force: true }); // a link whose blob was deleted
  await symlink(relative(dirname(link), blob), link).catch(() => copyFile(blob, link)); // Windows without the right to link
}

/** Streams to disk; size and, for large files, the SHA-256 that names them must agree. */
async function writeChecked(content: Blob, path: string, info: PathInfo, options: HubOptions): Promise<void> {
  const hash = createHash('sha256');
  let loadedBytes = 0;
  const watch = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      loadedBytes += chunk.byteLength;
      options.onProgress?.({ file: info.path, loadedBytes, totalBytes: info.size });
      done(null, chunk);
    },
  });
  const source = Readable.fromWeb(content.stream() as ReadableStream);
  await pipeline(source, watch, createWriteStream(path), options.signal ? { signal: options.signal } : {});
  const sum = hash.digest('hex');
  if (loadedBytes !== info.size || (info.lfs && sum !== info.lfs.oid)) {
    throw new ModelError(
      'HUB_FAILED',
      `${info.path} arrived damaged: ${loadedBytes} of ${info.size} bytes, SHA-256 ${sum}. Try again.`,
    );
  }
}

/** The snapshot of the revision as last seen, if everything that is needed is in it. */
async function fromCache({ cache, revision }: Request): Promise<{ folder: string; revision: string } | undefined> {
  const commit = await cachedCommit(cache, revision);
  if (!commit) return undefined;
  const folder = cache.snapshot(commit);
  const has = (file: string): Promise<boolean> => exists(join(folder, file));
  if (!(await has('config.json')) || !(await has('tokenizer.json'))) return undefined;
  for (const file of weightFiles) if (await has(file)) return { folder, revision: commit };
  if (!(await has(weightIndex))) return undefined;
  const index = JSON.parse(await readFile(join(folder, weightIndex), 'utf8')) as Record<string, unknown>;
  for (const shard of shardsOf(index, folder)) if (!(await has(shard))) return undefined;
  return { folder, revision: commit };
}

async function writeBeside(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.${process.pid}.tmp`, text);
  await rename(`${path}.${process.pid}.tmp`, path);
}

/** When no answer came, `fetch` throws a TypeError that has the socket's error as its cause. */
function isNetworkError(error: unknown): boolean {
  const { cause, code } = error as { cause?: { code?: unknown }; code?: unknown };
  return (error instanceof TypeError && cause?.code !== undefined) || code === 'ECONNRESET';
}

function offlineError({ repository, revision, cache }: Request, why: string, cause?: unknown): ModelError {
  return new ModelError(
    'HUB_OFFLINE',
    `The encoder "${repository}" (revision ${revision}) is not on this machine and ${why}. Looked for config.json, ` +
      `tokenizer.json and model.safetensors in ${cache.root}. What works: name no encoder (the embedded all-MiniLM-L6-v2 ` +
      'needs no network), name a local folder that holds these files, copy the cache folder from a machine that has it, ' +
      'or go online (HF_ENDPOINT names a mirror).',
    { cause },
  );
}

function apiError({ repository, revision, endpoint }: Request, error: HubApiError): ModelError {
  if (error.statusCode === 404 || error.statusCode === 401 || error.statusCode === 403) {
    return new ModelError(
      'ENCODER_NOT_FOUND',
      `${endpoint} answered ${error.statusCode} for "${repository}" (revision ${revision}): no such model, or it is ` +
        'private or gated. Check the name; for a private or gated one set HF_TOKEN.',
      { cause: error },
    );
  }
  return new ModelError(
    'HUB_FAILED',
    `${endpoint} answered ${error.statusCode} for "${repository}": ${error.message}. Try again later.`,
    { cause: error },
  );
}
