import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, totalmem } from 'node:os';
import path from 'node:path';
import { repository } from './paths.js';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly platform: string;
  readonly node: string;
  readonly onnxruntime: string;
  /** Short commit, with `+` when the tree has changes. */
  readonly commit: string;
}

/** How many threads everyone gets, we and the peers: FEWTUNE_THREADS, or every core. */
export const threads = Number(process.env.FEWTUNE_THREADS) || availableParallelism();

export function describeMachine(): Machine {
  return {
    cpu: cpuModel(),
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    node: process.versions.node,
    onnxruntime: onnxruntimeVersion(),
    commit: commit(),
  };
}

/** The model's name, with the widest vector extension where /proc tells it: a virtual machine's name says little. */
function cpuModel(): string {
  const model = cpus()[0]?.model.trim() ?? 'unknown';
  try {
    const flags = readFileSync('/proc/cpuinfo', 'utf8');
    const vector = ['avx512_vnni', 'avx512f', 'avx2'].find((flag) => flags.includes(` ${flag} `));
    return vector ? `${model} (${vector})` : model;
  } catch {
    return model; // not Linux: the name alone
  }
}

function onnxruntimeVersion(): string {
  const require = createRequire(path.join(repository, 'packages/engine/package.json'));
  return (JSON.parse(readFileSync(require.resolve('onnxruntime-node/package.json'), 'utf8')) as { version: string })
    .version;
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: repository, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no') !== '';
    return `${git('rev-parse', '--short', 'HEAD')}${changed ? '+' : ''}`;
  } catch {
    return 'no git';
  }
}
