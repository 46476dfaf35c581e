import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { HostTensor } from '@fewtune/engine';
import { PeerFailed, type Rival } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { repository } from '../../lib/paths.js';
import { PeerServer } from '../../lib/peers.js';
import { type Row, row } from '../../lib/report.js';
import { productsContender } from './matrix-products.js';
import type { Part, PartContext } from './part.js';
import { mlp, type SmallModel, transformer } from './small-models.js';
import { type Recorded, smallStep } from './small-step.js';

const peersFolder = path.join(repository, 'bench/peers/js');
const peers = [
  { script: 'tfjs.mjs', args: [], name: 'TensorFlow.js wasm', target: '<= 0.2x peer' },
  { script: 'tfjs.mjs', args: ['tuned'], name: 'TensorFlow.js wasm, tuned', target: '<= 0.2x peer' },
  { script: 'jax-js.mjs', args: [], name: 'jax-js wasm', target: '<= 0.125x peer' },
] as const;

/**
 * An MLP and a transformer step in Node against TensorFlow.js and jax-js on wasm. Those have no threads in Node; the
 * verdict is on what a user gets who calls both, and rows with one thread for everyone stand below it.
 */
export const javascript: Part = {
  name: 'javascript',
  async run(context) {
    const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
    try {
      const rows: Row[] = [];
      for (const model of [mlp(), transformer()]) {
        writeModel(folder, model);
        rows.push(...(await against(model, threads, folder, context)));
        if (threads > 1 && !context.quick) rows.push(...(await against(model, 1, folder, context)));
      }
      return rows;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

/** How many losses are compared: as many as there are warm-up runs. */
const compared = 3;

async function against(
  model: SmallModel,
  width: number,
  folder: string,
  { quick, peers: wanted }: PartContext,
): Promise<Row[]> {
  const installed = wanted && existsSync(path.join(peersFolder, 'node_modules'));
  const ours = await smallStep(model, { threads: width });
  const theirs: Recorded[] = [];
  const verdict = width === threads;
  // The untuned one takes seconds a step: once is enough.
  const invited = peers.filter(({ name }) => verdict || name !== 'TensorFlow.js wasm');
  const rivals = invited.map(({ script, args, name, target }): Rival => {
    if (!installed) return { name, target, note: 'peer not run: npm ci --prefix bench/peers/js' };
    const contender = jsPeer(script, [folder, ...args], name, model.name);
    theirs.push(contender);
    return { name, target: verdict ? target : null, contender };
  });
  const rows = await contest({
    what: `${model.what}, ${width} thread${width > 1 ? 's' : ''}`,
    ours,
    products: { contender: await productsContender(model.products, { threads: width }), target: null },
    rivals,
    rounds: quick ? 2 : 5,
    runs: quick ? 1 : 3,
    warmUp: compared,
    note: 'the peers have one thread in Node',
  });
  for (const peer of theirs.filter(({ losses }) => losses.length > 0)) {
    const apart = ours.losses.slice(0, compared).map((loss, step) => Math.abs(loss - peer.losses[step]!));
    rows.push(
      row({
        what: `${model.what}: loss apart from ${peer.name}`,
        ours: Math.max(...apart),
        unit: '',
        target: '<= 0.0001',
        note: `largest difference in the first ${compared} steps, same weights and batch`,
      }),
    );
  }
  return rows;
}

/** A script of bench/peers/js in a process of its own. */
function jsPeer(script: string, args: readonly string[], name: string, kind: string): Recorded {
  const server = new PeerServer(process.execPath, path.join('js', script), args);
  const losses: number[] = [];
  return {
    name,
    losses,
    time: async (count) => {
      const answer = await server.ask<{ ms: number[]; loss: number[] }>(`${kind} ${count}`);
      if (answer.loss.some((loss) => !Number.isFinite(loss))) throw new PeerFailed(`${name}: the loss is not finite`);
      losses.push(...answer.loss);
      return answer.ms;
    },
    close: async () => server.close(),
  };
}

/** Start values and batch, for the peers: one file of float32 after float32, and where each tensor stands. */
function writeModel(folder: string, { name, weights, batch }: SmallModel): void {
  const parts: Uint8Array[] = [];
  let at = 0;
  const place = (tensors: Readonly<Record<string, HostTensor>>) =>
    Object.fromEntries(
      Object.entries(tensors).map(([key, { shape, data }]) => {
        const from = at;
        at += data.length;
        parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
        return [key, { shape, at: from }];
      }),
    );
  const tensors = { weights: place(weights), batch: place(batch) };
  writeFileSync(path.join(folder, `${name}.json`), JSON.stringify(tensors));
  writeFileSync(path.join(folder, `${name}.bin`), Buffer.concat(parts));
}
