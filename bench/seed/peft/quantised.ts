import path from 'node:path';
import { type Encoder, heldBytes, loadEncoder, SentenceEmbedder } from '@fewtune/models';
import { type Options, say } from '../../lib/bench.js';
import { runNode } from '../../lib/child.js';
import { kept } from '../../lib/kept.js';
import { compiled } from '../../lib/paths.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { type ArmResult, shared, tuneArm } from './arms.js';
import { type BaseKind, baseKinds, baseOfKind } from './quantised-bases.js';
import type { Resident } from './quantised-child.js';
import { drawUpTo, indexed, type TuneSet, tuneSets } from './sets.js';

const SEEDS = [0, 1, 2, 3, 4];
const LR = 1.5e-3;
const bounds = { int8: '<= 0.35', int4: '<= 0.22' } as const;

/** Data sets, rows of a class, and passes over them in batches of 16: what ten minutes of two cores hold. */
const tasks = [
  { set: 'Banking77', shots: 8, epochs: 6 },
  { set: 'Financial sentiment', shots: 64, epochs: 10 },
] as const;

/** LoRA on a base in 8 and 4 bits beside the float32 one: memory, what is lost before training, accuracy after it. */
export async function quantisedRows(options: Options): Promise<Row[]> {
  const encoder = await loadEncoder();
  const rows = [...(await memoryRows(encoder)), ...(await lossRows(encoder, options))];
  for (const task of options.quick ? tasks.slice(1) : tasks) rows.push(...(await accuracyRows(encoder, task, options)));
  return rows;
}

/** Counted, and resident in a child process: by how much it shrinks when the base is let go. */
async function memoryRows(encoder: Encoder): Promise<Row[]> {
  const child = async (kind: string): Promise<Resident> => {
    const program = path.join(compiled, 'seed/peft/quantised-child.js');
    // Freed blocks go back to the system: what is resident is what is held.
    const env = { MALLOC_MMAP_THRESHOLD_: '131072', MALLOC_TRIM_THRESHOLD_: '131072' };
    return JSON.parse((await runNode(['--expose-gc', program, kind], { env })).stdout);
  };
  const float = await child('float32');
  const rows: Row[] = [];
  for (const kind of ['int8', 'int4'] as const) {
    const found = await child(kind);
    const counted = heldBytes(baseOfKind(encoder, kind).weights) / heldBytes(encoder.weights);
    const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
    rows.push(
      row({ what: `base in ${kind}: bytes of its weights`, ours: counted, unit: 'of float32', target: bounds[kind] }),
      row({
        what: `base in ${kind}: resident in a process`,
        ours: found.held / float.held,
        unit: 'of float32',
        target: bounds[kind],
        note: `${megabytes(found.held)} and ${megabytes(float.held)}: by how much the process shrinks when the weights are let go`,
      }),
      row({
        what: `base in ${kind}: resident while LoRA trains on a sentence`,
        ours: found.training / 1e6,
        unit: 'MB',
        peer: float.training / 1e6,
        peerName: 'float32',
        target: null,
        note: 'adapter, moments and buffers among it',
      }),
      row({
        what: `base in ${kind}: CPU seconds of a step of 32 sentences`,
        ours: found.stepSeconds,
        unit: 's',
        peer: float.stepSeconds,
        peerName: 'float32',
        target: null,
        note: 'one thread; weights are written out as float32 where they are multiplied',
      }),
    );
  }
  return rows;
}

/** Before any training. */
async function lossRows(encoder: Encoder, options: Options): Promise<Row[]> {
  const texts = tuneSets()[2]!.test.texts.slice(0, options.quick ? 20 : 200);
  const embed = async (from: Encoder) => {
    await using embedder = await SentenceEmbedder.create(from);
    return embedder.embed(texts);
  };
  const float = await embed(encoder);
  const rows: Row[] = [];
  for (const kind of ['int8', 'int4'] as const) {
    const base = baseOfKind(encoder, kind);
    const vectors = await embed(base);
    const cosines = texts.map((_, text) => {
      const from = text * encoder.hidden;
      const one = float.subarray(from, from + encoder.hidden);
      return one.reduce((sum, value, i) => sum + value * vectors[from + i]!, 0);
    });
    rows.push(
      row({
        what: `base in ${kind}: error of its weights`,
        ours: weightError(encoder, base),
        unit: 'of their norm',
        target: null,
      }),
      row({
        what: `base in ${kind}: cosine with the float32 embedding`,
        ours: mean(cosines),
        unit: 'mean',
        target: null,
        note: `lowest of ${texts.length} Banking77 sentences ${Math.min(...cosines).toFixed(4)}; before training`,
      }),
    );
  }
  return rows;
}

function weightError(encoder: Encoder, base: Encoder): number {
  let [error, norm] = [0, 0];
  for (const [name, { data }] of Object.entries(encoder.weights)) {
    const held = base.weights[name]!.data as Float32Array;
    for (const [i, value] of (data as Float32Array).entries()) {
      error += (held[i]! - value) ** 2;
      norm += value ** 2;
    }
  }
  return Math.sqrt(error / norm);
}

async function accuracyRows(
  encoder: Encoder,
  { set: name, shots, epochs }: (typeof tasks)[number],
  options: Options,
): Promise<Row[]> {
  const set = tuneSets().find((one) => one.name === name)!;
  const seeds = options.quick ? SEEDS.slice(0, 1) : SEEDS;
  const found: Record<BaseKind, ArmResult[]> = { float32: [], int8: [], int4: [] };
  const bases = Object.fromEntries(baseKinds.map((kind) => [kind, baseOfKind(encoder, kind)]));
  for (const seed of seeds) {
    for (const kind of baseKinds) {
      const key = `peft/${name}-${shots}/base-${kind}-${seed}`;
      const task = taskOf(set, shots, options.quick ? 2 : epochs, seed, options);
      found[kind].push(
        await kept(key, [LR, epochs, shared], options, async () => {
          const result = await tuneArm('lora', LR, task, bases[kind]!);
          say(`${key}: ${(100 * result.accuracy).toFixed(2)} % in ${result.seconds.toFixed(0)} s`);
          return result;
        }),
      );
    }
  }
  const points = (kind: BaseKind) => found[kind].map(({ accuracy }) => 100 * accuracy);
  const at = `${name}, ${shots} per class: LoRA on`;
  return [
    row({ what: `${at} a base in float32`, ours: mean(points('float32')), unit: '%', target: null }),
    ...(['int8', 'int4'] as const).map((kind) => {
      const { mean: ours, low, high } = studentInterval(points(kind).map((value, i) => value - points('float32')[i]!));
      return row({
        what: `${at} a base in ${kind} − on float32`,
        ours,
        unit: 'points',
        target: '>= -1',
        note: `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${seeds.length} seeds, paired; lr ${LR}, ${mean(points(kind)).toFixed(2)} %`,
      });
    }),
  ];
}

function taskOf(set: TuneSet, shots: number, epochs: number, seed: number, { quick }: Options) {
  const train = indexed(drawUpTo(set.pool, set.classes, shots, seed), set.classes);
  const rows = quick ? 100 : set.test.texts.length;
  const test = { texts: set.test.texts.slice(0, rows), labels: set.test.labels.slice(0, rows) };
  return { classes: set.classes, train, test: indexed(test, set.classes), batchSize: 16, epochs, seed };
}
