import path from 'node:path';
import { compile, type Named, type Tensor, type TensorSpec, traceToOnnx, valueAndGrad } from '@fewtune/engine';
import { say } from '../../lib/bench.js';
import { runNode } from '../../lib/child.js';
import { threads } from '../../lib/machine.js';
import { compiled } from '../../lib/paths.js';
import { noPeers, PeerServer } from '../../lib/peers.js';
import { type Row, row } from '../../lib/report.js';
import type { Part, PartContext } from './part.js';
import { batchSpecs, transformer } from './small-models.js';

/** Peak memory of the full MiniLM step beside PyTorch's, growth over many steps, and the time a large graph takes to open. */
export const memory: Part = {
  name: 'memory',
  async run(context) {
    return [...(await fullStep(context)), await growth(context), await sessionCreation(context)];
  },
};

async function child<T>(...args: string[]): Promise<T> {
  const program = path.join(compiled, 'seed/engine/memory-child.js');
  const { stdout } = await runNode(['--expose-gc', program, ...args]);
  return JSON.parse(stdout) as T;
}

interface Peak {
  readonly idleBytes: number;
  readonly peakBytes: number;
}

/** Rows of the word table that `full` trains for a few hundred sentences, and all of them. */
const [usedRows, allRows] = [1024, 30522];

async function fullStep({ quick, python, torch }: PartContext): Promise<Row[]> {
  const theirs = python ? await torchPeak(python) : undefined;
  const rows: Row[] = [];
  for (const trained of quick ? [usedRows] : [usedRows, allRows]) {
    const ours = await child<Peak & { plannedBytes: number; stepBytes: number }>('step', String(trained));
    say(`full step, ${trained} rows: ${show(ours)}${theirs ? `, ${torch} ${show(theirs)}` : ''}`);
    const figure = (what: string, of: (peak: Peak) => number) =>
      row({
        what: `MiniLM full step, ${trained} rows of the word table: peak memory ${what}`,
        ours: of(ours) / 2 ** 20,
        unit: 'MiB',
        peer: theirs ? of(theirs) / 2 ** 20 : null,
        peerName: `${torch} eager`,
        target: '<= 1x peer',
        note: theirs ? `16 × 64 tokens, loading included, takeParams; PyTorch trains all ${allRows} rows` : noPeers,
      });
    const { plannedBytes, stepBytes } = ours;
    const mebi = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    rows.push(
      row({
        what: `MiniLM full step, ${trained} rows of the word table: memory() apart from what was measured`,
        ours: 100 * Math.abs(plannedBytes / stepBytes - 1),
        unit: '%',
        target: '<= 15',
        note: `planned ${mebi(plannedBytes)}; the process grew to its peak by ${mebi(stepBytes)}, the weights that it had loaded included`,
      }),
      figure('of the process', ({ peakBytes }) => peakBytes),
      figure('above the loaded library', ({ peakBytes, idleBytes }) => peakBytes - idleBytes),
    );
  }
  return rows;
}

const show = ({ idleBytes, peakBytes }: Peak) =>
  `${(peakBytes / 2 ** 20).toFixed(0)} MiB, idle ${(idleBytes / 2 ** 20).toFixed(0)} MiB`;

async function torchPeak(python: string): Promise<Peak> {
  const server = new PeerServer(python, 'torch_minilm.py', ['--threads', String(threads)]);
  const peak = async () => (await server.ask<{ peakBytes: number }>('memory 0')).peakBytes;
  const idleBytes = await peak();
  await server.ask('full 5');
  const peakBytes = await peak();
  server.close();
  return { idleBytes, peakBytes };
}

async function growth({ quick }: PartContext): Promise<Row> {
  const steps = quick ? 800 : 2000;
  const { startBytes, endBytes } = await child<{ startBytes: number; endBytes: number }>('steps', String(steps));
  const mebi = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  return row({
    what: `growth over ${steps} steps of a small transformer`,
    ours: (100 * (endBytes - startBytes)) / startBytes,
    unit: '%',
    target: '<= 2',
    note: `2 layers of 256, 4 × 16 tokens; largest resident memory, looked at every 50 steps: ${mebi(startBytes)} in the second and third eighth of the steps, ${mebi(endBytes)} in the last quarter`,
  });
}

/** Value and gradient of a deep transformer as a graph of 5 000 ONNX nodes: traced, written, opened. */
async function sessionCreation({ quick }: PartContext): Promise<Row> {
  const wanted = quick ? 1000 : 5000;
  const graphOf = (layers: number) => {
    const model = transformer({ layers, hidden: 64, inner: 128, batch: 4, tokens: 16 });
    const specs: Record<string, TensorSpec> = { ...model.weights, ...batchSpecs(model) };
    const fn = ({ x, y, ...params }: Record<string, Tensor>): Record<string, Tensor> => {
      const { value, gradient } = valueAndGrad(model.loss)(params as Named<Tensor>, { batch: { x: x!, y: y! } });
      const named = Object.entries(gradient).map(([name, g]) => [`gradient of ${name}`, g] as const);
      return { loss: value, ...Object.fromEntries(named) };
    };
    return { specs, fn, nodes: () => traceToOnnx(fn, specs, { portable: false }).graph.node.length };
  };
  const perLayer = graphOf(2).nodes() - graphOf(1).nodes();
  const { specs, fn, nodes } = graphOf(Math.ceil(wanted / perLayer));
  const count = nodes();
  const began = performance.now();
  const program = await compile(fn, specs, { threads, name: 'deep' });
  const seconds = (performance.now() - began) / 1000;
  await program.dispose();
  return row({
    what: `creating a session of ${count} nodes`,
    ours: seconds,
    unit: 's',
    target: '< 2',
    note: 'value and gradient of a deep transformer: tracing, writing and opening',
  });
}
