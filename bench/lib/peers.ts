import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { PeerFailed, type Rival } from './contender.js';
import { threads } from './machine.js';
import { repository, Unavailable } from './paths.js';

export const noPeers = 'peer not run: set FEWTUNE_PEERS_PYTHON to a Python that has it (bench/README.md)';

/** The Python that has the peers installed, named by FEWTUNE_PEERS_PYTHON. */
export function peersPython(): string | undefined {
  const python = process.env.FEWTUNE_PEERS_PYTHON;
  if (python && !existsSync(python))
    throw new Unavailable(`FEWTUNE_PEERS_PYTHON names ${python}, which does not exist`);
  return python || undefined;
}

/** Starts bench/peers/`script`; what it says on stderr goes to ours. */
function startPeer(python: string, script: string, args: readonly string[]): ChildProcess {
  return spawn(python, [path.join(repository, 'bench/peers', script), ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, HF_HUB_OFFLINE: '1', TRANSFORMERS_VERBOSITY: 'error', OMP_NUM_THREADS: String(threads) },
  });
}

/** Runs a script that prints one JSON document as its last line of stdout. */
export async function runPeer<T>(python: string, script: string, args: readonly string[]): Promise<T> {
  const child = startPeer(python, script, args);
  child.stdin!.end();
  let stdout = '';
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('close', resolve);
  });
  if (code !== 0) throw new Error(`${script} ended with code ${code}`);
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as T;
}

/** A script that answers every line on stdin with one line of JSON. */
export class PeerServer {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(python: string, script: string, args: readonly string[] = []) {
    this.#child = startPeer(python, script, args);
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** @throws PeerFailed when the script answers {"error": "…"} */
  async ask<T>(question: string): Promise<T> {
    this.#child.stdin!.write(`${question}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`the peer ended without an answer to ${JSON.stringify(question)}`);
    const answer = JSON.parse(value) as T & { error?: string };
    if (answer.error !== undefined) throw new PeerFailed(answer.error);
    return answer;
  }

  close(): void {
    this.#child.stdin!.end();
  }
}

/**
 * A script of bench/peers that answers `<kind> <count>` with times, as a rival: in a process of its own, idle while others
 * run. Without `python` it only says that it is not installed.
 */
export function pythonRival(
  python: string | undefined,
  script: string,
  peer: { name: string; kind: string; target: string | null; args?: Readonly<Record<string, string | number>> },
): Rival {
  const { name, kind, target, args = {} } = peer;
  if (!python) return { name, target, note: noPeers };
  const flags = Object.entries({ ...args, threads }).flatMap(([flag, value]) => [`--${flag}`, String(value)]);
  const server = new PeerServer(python, script, flags);
  const contender = {
    name,
    time: async (count: number) => (await server.ask<{ ms: number[] }>(`${kind} ${count}`)).ms,
    close: async () => server.close(),
  };
  return { name, target, contender };
}
