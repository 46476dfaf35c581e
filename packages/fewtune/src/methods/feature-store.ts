import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

const MAGIC = Buffer.from('FWFEAT1\n');
const KEY_BYTES = 32;
const DIGEST_BYTES = 32;
const HEADER_BYTES = MAGIC.length + DIGEST_BYTES;
/** Read at most this much: some 87 000 sentences of 384 numbers. Older files go. */
const MAX_BYTES = 128 * 2 ** 20;
/** More files than this are joined into one. */
const MAX_FILES = 24;

/** Where features are kept: `FEWTUNE_CACHE`, else `~/.cache/fewtune`. */
export function cacheRoot(): string {
  const chosen = process.env.FEWTUNE_CACHE;
  if (chosen !== undefined && chosen !== '') return chosen;
  const base = process.env.XDG_CACHE_HOME;
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'fewtune');
}

/** The key of a text: its SHA-256, as a string of 32 bytes. */
export function textKey(text: string): string {
  return createHash('sha256').update(text).digest().toString('latin1');
}

/**
 * Vectors on disk, by key. A file holds a magic word, the SHA-256 of what follows, then records of key and float32
 * vector; it is written beside its place, renamed, and never changed, so that processes can share the folder. A file
 * that is damaged is left aside and its vectors are computed again.
 */
export class FeatureStore {
  constructor(
    readonly folder: string,
    readonly hidden: number,
  ) {}

  private get recordBytes(): number {
    return KEY_BYTES + 4 * this.hidden;
  }

  /** Every vector in the folder; an unreadable folder holds none. */
  async load(): Promise<Map<string, Float32Array>> {
    const vectors = new Map<string, Float32Array>();
    const files = await this.files();
    let bytes = 0;
    const kept: string[] = [];
    for (const { path, size } of files) {
      bytes += size;
      if (bytes > MAX_BYTES) {
        await rm(path, { force: true }).catch(() => {});
        continue;
      }
      kept.push(path);
      this.read(await readFile(path).catch(() => Buffer.alloc(0)), vectors);
    }
    if (kept.length > MAX_FILES) {
      await this.save(vectors);
      await Promise.all(kept.map((path) => rm(path, { force: true }).catch(() => {})));
    }
    return vectors;
  }

  /** Adds a file with these vectors. */
  async save(vectors: ReadonlyMap<string, Float32Array>): Promise<void> {
    if (vectors.size === 0) return;
    const body = Buffer.alloc(vectors.size * this.recordBytes);
    let at = 0;
    for (const [key, vector] of vectors) {
      body.write(key, at, 'latin1');
      new Uint8Array(body.buffer, body.byteOffset).set(
        new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength),
        at + KEY_BYTES,
      );
      at += this.recordBytes;
    }
    await mkdir(this.folder, { recursive: true });
    const name = join(this.folder, `${Date.now().toString(36)}-${randomBytes(6).toString('hex')}`);
    await writeFile(`${name}.partial`, Buffer.concat([MAGIC, createHash('sha256').update(body).digest(), body]));
    await rename(`${name}.partial`, `${name}.features`);
  }

  /** Newest first. */
  private async files(): Promise<{ path: string; size: number }[]> {
    const names = await readdir(this.folder).catch(() => []);
    const found = await Promise.all(
      names
        .filter((name) => name.endsWith('.features'))
        .map(async (name) => {
          const path = join(this.folder, name);
          const info = await stat(path).catch(() => undefined);
          return info === undefined ? [] : [{ path, size: info.size, time: info.mtimeMs }];
        }),
    );
    return found.flat().sort((a, b) => b.time - a.time);
  }

  private read(file: Buffer, into: Map<string, Float32Array>): void {
    const body = file.subarray(HEADER_BYTES);
    if (!file.subarray(0, MAGIC.length).equals(MAGIC) || body.length % this.recordBytes !== 0) return;
    const digest = createHash('sha256').update(body).digest();
    if (!digest.equals(file.subarray(MAGIC.length, HEADER_BYTES))) return;
    for (let at = 0; at < body.length; at += this.recordBytes) {
      const start = body.byteOffset + at + KEY_BYTES;
      const vector = new Float32Array(body.buffer.slice(start, start + 4 * this.hidden));
      into.set(body.toString('latin1', at, at + KEY_BYTES), vector);
    }
  }
}
