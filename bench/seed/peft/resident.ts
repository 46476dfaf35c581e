import path from 'node:path';
import { type Options, say } from '../../lib/bench.js';
import { runNode } from '../../lib/child.js';
import { compiled } from '../../lib/paths.js';
import { type Row, row } from '../../lib/report.js';

interface Measured {
  readonly adapterBytes: number;
  readonly bankBytes: number;
  readonly grownBytes: number;
  readonly emptyBytes: number;
  readonly largest: { readonly toMerged: number; readonly toBase: number };
  readonly addMs: number;
  readonly sameMs: number;
  readonly otherMs: number;
  readonly batchMs: Batch;
  readonly batchCpuMs: Batch;
}

interface Batch {
  readonly single: number;
  readonly mixed: number;
  readonly merged: number;
}

/** Adapters that stay over one session: what they weigh, what switching costs, and how far they are from merged ones. */
export async function residentRows({ quick }: Pick<Options, 'quick'>): Promise<Row[]> {
  const [adapters, rounds] = [quick ? 4 : 32, quick ? 3 : 40];
  const program = path.join(compiled, 'seed/peft/resident-child.js');
  const { stdout } = await runNode(['--expose-gc', program, String(adapters), String(rounds)]);
  const found = JSON.parse(stdout) as Measured;
  say(`resident: ${stdout.trim()}`);
  const mebi = (bytes: number) => bytes / 2 ** 20;
  const what = `${adapters} adapters over one MiniLM`;
  const about = 'LoRA, rank 8 on every linear layer, all entries drawn';
  const { batchMs, batchCpuMs } = found;
  return [
    row({
      what: `${what}: memory they add`,
      ours: mebi(found.grownBytes),
      unit: 'MiB',
      peer: mebi(found.adapterBytes),
      peerName: 'their matrices',
      target: '<= 1.35x peer',
      note: `${about}; resident memory after a collection, ${mebi(found.emptyBytes).toFixed(0)} MiB before; the bank holds ${mebi(found.bankBytes).toFixed(0)} MiB, room to grow by a quarter among it`,
    }),
    row({
      what: `${what}: switching`,
      ours: found.otherMs - found.sameMs,
      unit: 'ms',
      target: '< 1',
      note: `one sentence: ${found.otherMs.toFixed(2)} ms with another adapter than the call before, ${found.sameMs.toFixed(2)} ms with the same; medians of alternating calls. Adding one takes ${found.addMs.toFixed(2)} ms`,
    }),
    row({
      what: `${what}: largest difference to the adapter merged`,
      ours: found.largest.toMerged,
      unit: '',
      target: '<= 0.00001',
      note: `of a number in the vectors of 32 sentences, two adapters; to the bare encoder it is ${found.largest.toBase.toPrecision(2)}`,
    }),
    row({
      what: `${what}: 32 sentences, each with its own`,
      ours: batchMs.mixed,
      unit: 'ms',
      peer: batchMs.single,
      peerName: 'one for all',
      target: '<= 1.3x peer',
      note: `medians of ${rounds} alternating runs; CPU time ${batchCpuMs.mixed.toFixed(0)} and ${batchCpuMs.single.toFixed(0)} ms; an encoder with one adapter merged: ${batchMs.merged.toFixed(0)} ms, CPU ${batchCpuMs.merged.toFixed(0)} ms`,
    }),
  ];
}
