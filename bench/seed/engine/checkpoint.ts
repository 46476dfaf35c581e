import path from 'node:path';
import { runNode } from '../../lib/child.js';
import { compiled } from '../../lib/paths.js';
import { type Row, row } from '../../lib/report.js';
import type { Part } from './part.js';

/** What a step adds to the memory of its process, with layers kept for the backward pass and with layers computed again. */
export const checkpoint: Part = {
  name: 'checkpoint',
  async run(): Promise<Row[]> {
    const plain = await measured('plain');
    const again = await measured('checkpoint');
    const change = Math.abs(again.weights - plain.weights) / plain.weights;
    if (!(change < 1e-6)) throw new Error(`checkpoint changes the trained weights by ${change}`);
    const what = 'transformer, 12 layers, 8 × 128 tokens, every layer in checkpoint';
    const peerName = 'without checkpoint';
    const note = `resident memory over that before the first step; weights after 4 steps within ${change.toExponential(0)}`;
    return [
      row({
        what: `${what}: memory`,
        ours: again.grown,
        unit: 'MB',
        peer: plain.grown,
        peerName,
        target: '<= 0.7x peer',
        note,
      }),
      row({ what: `${what}: step`, ours: again.stepMs, unit: 'ms', peer: plain.stepMs, peerName, target: null }),
    ];
  },
};

async function measured(variant: 'plain' | 'checkpoint') {
  const { stdout, peakBytes } = await runNode([path.join(compiled, 'seed/engine/checkpoint-step.js'), variant]);
  const { weights, residentBefore, stepMs } = JSON.parse(stdout) as Record<string, number>;
  return { weights: weights!, stepMs: stepMs!, grown: (peakBytes - residentBefore!) / 1e6 };
}
