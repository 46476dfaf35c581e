import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { compiled, repository } from './paths.js';

export interface Finished {
  readonly stdout: string;
  readonly seconds: number;
  /** Largest resident memory of the process in its life. */
  readonly peakBytes: number;
}

/**
 * Runs a Node program to its end in a process of its own; its stderr is ours.
 *
 * @param args  the program and its arguments
 * @param options.env  added to the environment
 * @param options.cwd  where it runs; the repository's root when left out
 * @throws when it ends with another code than 0
 */
export async function runNode(
  args: readonly string[],
  { env = {}, cwd = repository }: { env?: Readonly<Record<string, string>>; cwd?: string } = {},
): Promise<Finished> {
  const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
  const peakFile = path.join(folder, 'peak');
  const preload = pathToFileURL(path.join(compiled, 'lib/peak-preload.js')).href;
  try {
    const began = performance.now();
    const child = spawn(process.execPath, ['--import', preload, ...args], {
      cwd,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, FEWTUNE_BENCH_PEAK: peakFile, ...env },
    });
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      stdout += chunk;
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject).once('close', resolve);
    });
    const seconds = (performance.now() - began) / 1000;
    if (code !== 0) throw new Error(`${args.join(' ')} ended with code ${code}: ${stdout.slice(-2000)}`);
    return { stdout, seconds, peakBytes: Number(readFileSync(peakFile, 'utf8')) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
