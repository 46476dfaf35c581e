import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

let folder: string;

/** A temporary folder of this run's own, so that tests leave nothing behind. */
export function setup(): void {
  folder = mkdtempSync(path.join(tmpdir(), 'fewtune-tests-'));
  process.env.TMPDIR = folder;
}

export function teardown(): void {
  rmSync(folder, { recursive: true, force: true });
}
