import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly cwd: string;
  readonly stdin?: string;
  /** Sends SIGINT once stderr matches. */
  readonly interruptAt?: RegExp;
}

/** Runs the built command line as a user would, in a process of its own. */
export function fewtune(args: readonly string[], { cwd, stdin, interruptAt }: CliOptions): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, FEWTUNE_DEBUG: '', FEWTUNE_CACHE: join(tmpdir(), 'fewtune-test-cache') };
    const child = spawn(process.execPath, [main, ...args], { cwd, env });
    let stdout = '';
    let stderr = '';
    let interrupted = false;
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
    });
    child.stderr.on('data', (chunk) => {
      stderr += chunk;
      if (interruptAt?.test(stderr) && !interrupted) {
        interrupted = true;
        child.kill('SIGINT');
      }
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
    child.stdin.end(stdin ?? '');
  });
}
