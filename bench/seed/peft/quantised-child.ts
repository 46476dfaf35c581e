/**
 * Resident memory of a base as it is held, in a process of its own: `quantised-child.js <float32|int8|int4>`.
 * Needs --expose-gc. One line of JSON on stdout.
 */
import { readFileSync } from 'node:fs';
import { adamW, linearDecay, mean, mul, trainStep } from '@fewtune/engine';
import { encode, heldTensors, loadEncoder, packBatch, packedSpecs, packingOf, tracedWeights } from '@fewtune/models';
import { applyAdapter, createRandom, startLora } from 'fewtune';
import { type BaseKind, baseOfKind } from './quantised-bases.js';

export interface Resident {
  /** By how much the process shrinks when the base is let go; the float32 encoder that it was made of is gone before. */
  readonly held: number;
  /** What it has more than without a base after steps of LoRA on one short sentence. */
  readonly training: number;
  /** CPU seconds of a step on 32 sentences. */
  readonly stepSeconds: number;
}

async function collected(): Promise<number> {
  for (let i = 0; i < 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    globalThis.gc!();
  }
  const [, kibi] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))!;
  return Number(kibi) * 1024;
}

async function prepared(kind: BaseKind) {
  const float = await loadEncoder();
  const { adapter } = startLora(float.weights, { rank: 8, alpha: 16, targets: 'all-linear' }, createRandom(1));
  const { config, tokenizer, weights } = baseOfKind(float, kind);
  return { adapter, config, tokenizer, weights };
}

/** Resident with a base, and when it is gone. */
async function withAndWithout(kind: BaseKind): Promise<[number, number]> {
  const kept = [await prepared(kind)];
  const held = await collected();
  kept.pop();
  return [held, await collected()];
}

async function measured(kind: BaseKind): Promise<Resident> {
  const [held, without] = await withAndWithout(kind);
  const { adapter, config, tokenizer, weights } = await prepared(kind);
  await using step = await trainStep({
    params: adapter.weights,
    frozen: heldTensors(weights),
    packFrozen: false,
    batch: packedSpecs,
    loss: (params, { frozen, batch }) => {
      const { linear } = applyAdapter(adapter, {}, params);
      const hidden = encode(config, tracedWeights(weights, frozen), batch, { linear, packing: packingOf(batch) });
      return mean(mul(hidden, hidden));
    },
    optimizer: adamW(),
    schedule: linearDecay({ lr: 1e-4, steps: 100 }),
    threads: 1,
  });
  const ids = tokenizer.encode('my card was swallowed by the machine and I want my money back');
  for (let i = 0; i < 2; i++) await step.run(packBatch([ids], tokenizer.padId));
  const training = await collected();
  const batch = packBatch(new Array<typeof ids>(32).fill(ids), tokenizer.padId);
  await step.run(batch);
  const began = process.cpuUsage();
  const steps = 5;
  for (let i = 0; i < steps; i++) await step.run(batch);
  const { user, system } = process.cpuUsage(began);
  return { held: held - without, training: training - without, stepSeconds: (user + system) / 1e6 / steps };
}

console.log(JSON.stringify(await measured(process.argv[2] as BaseKind)));
