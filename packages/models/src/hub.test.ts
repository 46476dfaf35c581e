import { createHash } from 'node:crypto';
import { lstat, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { hubEnvironment } from './hub-cache.js';
import { loadEncoder } from './load-encoder.js';
import { tinyCheckpoint } from './tiny-checkpoint.fixture.js';

const commit = 'c0ffee'.padEnd(40, '0');
const repository = 'some-org/tiny-bert';

let server: Server;
let requests: string[];
let authorizations: Set<string | undefined>;
let files: Map<string, Buffer>;
let cacheDir: string;

/** The three endpoints of the Hub that a download uses, over one repository. */
function hub(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url!, 'http://localhost');
  requests.push(`${request.method} ${url.pathname}`);
  authorizations.add(request.headers.authorization);
  const json = (value: unknown): void => {
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  };
  if (url.pathname.startsWith(`/api/models/${repository}/revision/`)) {
    const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
    json({ _id: '1', id: repository, sha: commit, siblings, lastModified: '2026-01-01T00:00:00Z' });
    return;
  }
  if (url.pathname === `/api/models/${repository}/paths-info/${commit}`) {
    request.on('data', (body) => json(JSON.parse(body).paths.map(pathInfo)));
    return;
  }
  const content = files.get(url.pathname.replace(`/${repository}/resolve/${commit}/`, ''));
  if (!content) {
    response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"Repository not found"}');
    return;
  }
  const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
  const [start, end] = range ? [Number(range[1]), Number(range[2]) + 1] : [0, content.length];
  const part = content.subarray(start, end);
  const headers = {
    etag: '"x"',
    'content-range': `bytes ${start}-${end - 1}/${content.length}`,
    'content-length': part.length,
  };
  response.writeHead(range ? 206 : 200, headers).end(part);
}

function pathInfo(path: string): unknown {
  const content = files.get(path)!;
  const sha256 = createHash('sha256').update(content).digest('hex');
  const lfs = path.endsWith('.safetensors') ? { lfs: { oid: sha256, size: content.length, pointerSize: 130 } } : {};
  return { type: 'file', path, size: content.length, oid: sha256.slice(0, 40), ...lfs };
}

beforeEach(async () => {
  requests = [];
  authorizations = new Set();
  const folder = await tinyCheckpoint('bert', { '1_Pooling/config.json': '{"pooling_mode_cls_token": true}' });
  files = new Map();
  for (const file of ['config.json', 'tokenizer.json', 'model.safetensors', '1_Pooling/config.json']) {
    files.set(file, await readFile(join(folder, file)));
  }
  files.set('pytorch_model.bin', Buffer.from('pickle'));
  files.set('onnx/model.onnx', Buffer.from('not needed'));
  cacheDir = await mkdtemp(join(tmpdir(), 'hub-'));
  server = createServer(hub).listen(0, '127.0.0.1');
  await new Promise((listening) => server.once('listening', listening));
  vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  vi.stubEnv('HF_HUB_CACHE', cacheDir);
  vi.stubEnv('HF_HUB_OFFLINE', '');
  vi.stubEnv('HF_TOKEN', '');
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await close();
});

const close = (): Promise<unknown> => new Promise((closed) => server.close(closed).closeAllConnections());

test('downloads what it needs into the cache layout of the Hub, then needs the network no more', async () => {
  const progress = vi.fn();
  const stdout = vi.spyOn(process.stdout, 'write');
  const encoder = await loadEncoder(repository, { onProgress: progress });
  expect(stdout).not.toHaveBeenCalled();
  stdout.mockRestore();
  expect(encoder).toMatchObject({ id: repository, revision: commit, pooling: 'cls', hidden: 16 });
  const size = files.get('model.safetensors')!.length;
  expect(progress).toHaveBeenLastCalledWith({ file: 'model.safetensors', loadedBytes: size, totalBytes: size });

  const root = join(cacheDir, 'models--some-org--tiny-bert');
  expect(await readFile(join(root, 'refs', 'main'), 'utf8')).toBe(commit);
  const snapshot = join(root, 'snapshots', commit);
  expect((await readdir(snapshot)).sort()).toEqual(['1_Pooling', 'config.json', 'model.safetensors', 'tokenizer.json']);
  expect((await lstat(join(snapshot, '1_Pooling', 'config.json'))).isSymbolicLink()).toBe(true);
  expect(await readdir(join(root, 'blobs'))).toHaveLength(4);
  expect(requests.some((request) => /onnx|\.bin/.test(request))).toBe(false);
  expect([...authorizations]).toEqual([undefined]);

  requests = [];
  await loadEncoder(repository, { revision: commit }); // a cached commit asks nothing
  expect(requests).toEqual([]);
  await loadEncoder(repository); // a branch asks whether it moved, and downloads nothing
  expect(requests).toHaveLength(1);

  await close();
  expect((await loadEncoder(repository)).fingerprint).toBe(encoder.fingerprint); // unreachable: as last seen
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  expect((await loadEncoder(repository)).revision).toBe(commit);
});

test('offline without a cache it says what it looked for, where, and what would work', async () => {
  const expected = {
    code: 'HUB_OFFLINE',
    message: expect.stringMatching(
      /some-org\/tiny-bert.*model\.safetensors in .*models--some-org--tiny-bert.*local folder/,
    ),
  };
  vi.stubEnv('HF_HUB_OFFLINE', 'TRUE');
  await expect(loadEncoder(repository)).rejects.toMatchObject(expected);
  expect(requests).toEqual([]);
  vi.stubEnv('HF_HUB_OFFLINE', '0');
  await close();
  await expect(loadEncoder(repository, { revision: 'v1' })).rejects.toMatchObject(expected);
});

test('a token is sent, and only when there is one', async () => {
  vi.stubEnv('HF_TOKEN', 'hf_test');
  await loadEncoder(repository);
  expect([...authorizations]).toEqual(['Bearer hf_test']);
  vi.stubEnv('HF_TOKEN', 'not a token');
  await expect(loadEncoder(repository)).rejects.toMatchObject({
    code: 'HUB_FAILED',
    message: expect.stringContaining('HF_TOKEN'),
  });
});

test('a revision cannot lead out of the cache', async () => {
  for (const revision of ['../../x', 'a/../b', '/x', '']) {
    await expect(loadEncoder(repository, { revision })).rejects.toMatchObject({ code: 'ENCODER_NOT_FOUND' });
  }
  expect(requests).toEqual([]);
});

test('no such repository, only a pickle, a file damaged on the way', async () => {
  await expect(loadEncoder('some-org/other')).rejects.toMatchObject({ code: 'ENCODER_NOT_FOUND' });
  const weights = files.get('model.safetensors')!;
  files.delete('model.safetensors');
  await expect(loadEncoder(repository)).rejects.toMatchObject({ code: 'ENCODER_UNSAFE' });

  files.set('model.safetensors', weights);
  const listed = pathInfo('model.safetensors') as { lfs: { oid: string } };
  server.removeAllListeners('request').on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (request.url!.includes('/resolve/')) files.set('model.safetensors', Buffer.from(weights).fill(7, 9000, 9001));
    hub(request, response);
  });
  await expect(loadEncoder(repository)).rejects.toMatchObject({
    code: 'HUB_FAILED',
    message: expect.stringContaining('damaged'),
  });
  expect(await readdir(join(cacheDir, 'models--some-org--tiny-bert', 'blobs'))).not.toContain(listed.lfs.oid);
});

test('aborting stops a download and leaves no partial file', async () => {
  const abort = new AbortController();
  const onProgress = ({ file }: { file: string }): void => {
    if (file === 'model.safetensors') abort.abort();
  };
  await expect(loadEncoder(repository, { signal: abort.signal, onProgress })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  const blobs = await readdir(join(cacheDir, 'models--some-org--tiny-bert', 'blobs'));
  expect(blobs.filter((name) => name.includes('incomplete'))).toEqual([]);
  await rm(cacheDir, { recursive: true });
});

test("the Hub's environment variables", () => {
  expect(hubEnvironment({ HF_HOME: '/h' })).toMatchObject({
    cacheDir: '/h/hub',
    endpoint: 'https://huggingface.co',
    offline: false,
  });
  expect(hubEnvironment({ HF_HOME: '/h', HF_HUB_CACHE: '/c' }).cacheDir).toBe('/c');
  expect(hubEnvironment({ XDG_CACHE_HOME: '/x' }).cacheDir).toBe('/x/huggingface/hub');
  expect(['1', 'ON', 'yes', '0', ''].map((v) => hubEnvironment({ HF_HUB_OFFLINE: v }).offline)).toEqual([
    true,
    true,
    true,
    false,
    false,
  ]);
});
