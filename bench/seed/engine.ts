import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type Benchmark, type Options, say, timed } from '../lib/bench.js';
import { describeMachine } from '../lib/machine.js';
import { resultsFolder, Unavailable } from '../lib/paths.js';
import { PeerServer, peersPython } from '../lib/peers.js';
import { type Row, row } from '../lib/report.js';
import { browser } from './engine/browser.js';
import { checkpoint } from './engine/checkpoint.js';
import { checks } from './engine/checks.js';
import { epoch } from './engine/epoch.js';
import { gpt2 } from './engine/gpt2.js';
import { javascript } from './engine/javascript.js';
import { maml } from './engine/maml.js';
import { memory } from './engine/memory.js';
import { minilm } from './engine/minilm.js';
import type { Part, PartContext } from './engine/part.js';
import { resnet } from './engine/resnet.js';

const parts: readonly Part[] = [minilm, epoch, maml, resnet, gpt2, javascript, browser, memory, checkpoint, checks];

export const engineParts: readonly string[] = parts.map(({ name }) => name);

/** What the engine promises, part by part, beside those who do the same: see the files in `engine/`. */
export const engine: Benchmark = {
  name: 'engine',
  about: 'training steps of the engine against their matrix products, PyTorch and JavaScript peers',
  async run(options) {
    const unknown = options.only?.find((name) => !engineParts.includes(name));
    if (unknown !== undefined) {
      throw new Unavailable(`engine has no part "${unknown}"; it has ${engineParts.join(', ')}`);
    }
    const context = await contextOf(options);
    const rows: Row[] = [];
    for (const part of parts.filter(({ name }) => options.only?.includes(name) ?? true)) {
      rows.push(...(await finished(part, context)));
    }
    return { rows, seeds: [1] };
  },
};

export async function contextOf(options: Options): Promise<PartContext> {
  // A smoke run of everything goes without the peers: starting them takes longer than the runs.
  const peers = options.peers && (!options.quick || options.only !== undefined);
  const python = peers ? peersPython() : undefined;
  if (!python) return { ...options, peers, torch: 'PyTorch' };
  const server = new PeerServer(python, 'version.py');
  const { torch } = await server.ask<{ torch: string }>('version 0');
  server.close();
  return { ...options, peers, python, torch: `PyTorch ${torch.replace(/\+.*/, '')}` };
}

/** The rows of a part of a benchmark: measured now and kept, or with `--resume` those that an earlier run kept. */
export async function finished(part: Part, context: PartContext, of = 'engine'): Promise<Row[]> {
  const folder = path.join(resultsFolder, of);
  const file = path.join(folder, `${part.name}${context.quick ? '-quick' : ''}.json`);
  const { commit } = describeMachine();
  if (context.resume && existsSync(file)) {
    const kept = JSON.parse(readFileSync(file, 'utf8')) as { commit: string; rows: Row[] };
    const stale = kept.commit === commit ? '' : `, measured at ${kept.commit}`;
    say(`${part.name}: kept${stale}`);
    return kept.rows.map((row) => (stale ? { ...row, note: `${row.note ?? ''}${stale}` } : row));
  }
  let measured: { result: Row[]; seconds: number };
  try {
    measured = await timed(() => part.run(context));
  } catch (error) {
    // The other parts may still be measured; what is missing is named in the table.
    if (error instanceof Unavailable && context.only) throw error;
    const message = error instanceof Error ? error.message : String(error);
    say(`${part.name} failed: ${error instanceof Error ? error.stack : message}`);
    return [row({ what: part.name, ours: null, unit: '', target: null, note: `failed: ${message}` })];
  }
  const { result: rows, seconds } = measured;
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, `${JSON.stringify({ commit, seconds, rows }, null, 2)}\n`);
  say(`${part.name}: ${seconds.toFixed(0)} s`);
  return rows;
}
