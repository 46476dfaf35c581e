import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Encoder, loadEncoder } from '@fewtune/models';
import { type Options, say } from '../../lib/bench.js';
import { kept } from '../../lib/kept.js';
import { threads } from '../../lib/machine.js';
import { noPeers, PeerServer } from '../../lib/peers.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { type ArmResult, type ArmTask, methodArm, peerArm, shared, tuneArm } from './arms.js';
import { drawUpTo, indexed, type TuneSet, tuneSets } from './sets.js';

const SEEDS = [0, 1, 2, 3, 4];
const SWEEP_SEED = 100;

/** Candidates of each arm; the best on validation rows is taken, for each data set and count apart. */
const rates = { full: [3e-5, 1e-4, 3e-4], lora: [3e-4, 1e-3, 3e-3] } as const;
type TuneMethod = keyof typeof rates;

/** Large sets: 3 epochs of batches of 32. Small ones: batches of 16, 10 epochs, but at least 100 steps. */
function lengthOf(rows: number): { batchSize: number; epochs: number } {
  if (rows >= 2000) return { batchSize: 32, epochs: 3 };
  const batchSize = 16;
  return { batchSize, epochs: Math.max(10, Math.ceil((100 * batchSize) / rows)) };
}

/** A rate is chosen on as many rows at most, in about as many, smaller steps as a run takes: at half of its cost. */
const SWEEP_ROWS = 1300;

interface Setting {
  readonly set: TuneSet;
  readonly shots: number;
  readonly options: Options;
  readonly encoder: Encoder;
}

/**
 * LoRA beside full fine-tuning on one data set, each with its own learning rate, and beside Python's transformers and peft
 * with the same settings; the floors are word counts and logistic regression on the frozen encoder.
 */
export const accuracyRows =
  (name: string) =>
  async (options: Options, python?: string): Promise<Row[]> => {
    const encoder = await loadEncoder();
    const set = tuneSets().find((one) => one.name === name)!;
    const server = python ? new PeerServer(python, 'peft_finetune.py', ['--threads', String(threads)]) : undefined;
    try {
      const rows: Row[] = [];
      for (const shots of options.quick ? [8] : (options.shots ?? [64, 8])) {
        rows.push(...(await comparison({ set, shots, options, encoder }, server)));
      }
      return rows;
    } finally {
      server?.close();
    }
  };

async function comparison(setting: Setting, server?: PeerServer): Promise<Row[]> {
  const { set, shots, options, encoder } = setting;
  const at = `${set.name}, ${shots} per class`;
  const seeds = options.quick ? SEEDS.slice(0, 1) : SEEDS;
  const runs = async (arm: string, settings: unknown, run: (task: ArmTask) => Promise<ArmResult>) => {
    const results: ArmResult[] = [];
    for (const seed of seeds) {
      results.push(await keptRun(setting, `${arm}-${seed}`, settings, () => run(taskOf(setting, shots, seed))));
    }
    return results;
  };
  const chosen = { full: await sweep(setting, 'full'), lora: await sweep(setting, 'lora') };
  const ours = {
    full: await runs('full', chosen.full, (task) => tuneArm('full', chosen.full, task, encoder)),
    lora: await runs('lora', chosen.lora, (task) => tuneArm('lora', chosen.lora, task, encoder)),
  };
  const floors = {
    'TF-IDF and logistic regression': await runs('tfidf', '', (task) => methodArm('tfidf', task, encoder)),
    'frozen encoder and logistic regression': await runs('linear', '', (task) => methodArm('linear', task, encoder)),
    ...(shots <= 8 &&
      set.classes.length < 10 &&
      !options.quick && {
        'few-shot recipe (`train --method lora`)': await runs('few-shot-lora', '', (task) =>
          methodArm('lora', task, encoder),
        ),
      }),
  };
  const peer = server && shots >= 64 ? await peerRuns(setting, chosen.lora, server, runs) : undefined;
  const rows = Object.entries(floors).map(([name, results]) => accuracyRow(`${at}: ${name}`, results));
  rows.push(accuracyRow(`${at}: full fine-tuning`, ours.full, `lr ${chosen.full}`));
  rows.push(accuracyRow(`${at}: LoRA`, ours.lora, `lr ${chosen.lora}`));
  rows.push(difference(`${at}: LoRA − full fine-tuning`, ours.lora, ours.full, shots >= 64 ? '>= -1.2' : null));
  if (shots >= 64) rows.push(shareRow(`${at}: trained share of the encoder by LoRA`, ours.lora, encoder));
  if (peer) {
    rows.push(difference(`${at}: LoRA − Python peft, same settings`, ours.lora, peer, '>= -1'));
    rows.push(await secondsRow(setting, chosen.lora, server!));
  } else if (!server) {
    rows.push(row({ what: `${at}: Python peft`, ours: null, unit: '%', target: null, note: noPeers }));
  }
  return rows;
}

/** The rate whose run has the best accuracy on the validation rows; where it is the largest, larger ones are tried too. */
async function sweep(setting: Setting, method: TuneMethod): Promise<number> {
  const { set, shots, options, encoder } = setting;
  const test = indexed(set.validation, set.classes);
  const fewer = Math.min(shots, Math.floor(SWEEP_ROWS / set.classes.length));
  const task = { ...taskOf(setting, fewer, SWEEP_SEED), test, ...(fewer < shots && { batchSize: 16, epochs: 5 }) };
  const accuracyAt = async (lr: number) =>
    (await keptRun(setting, `sweep-${method}-${lr}`, lr, () => tuneArm(method, lr, task, encoder))).accuracy;
  if (options.quick) return rates[method][1];
  let best = { lr: 0, accuracy: -1 };
  for (const lr of rates[method]) {
    const accuracy = await accuracyAt(lr);
    if (accuracy > best.accuracy) best = { lr, accuracy };
  }
  while (best.lr >= rates[method].at(-1)!) {
    const lr = 3 * best.lr;
    const accuracy = await accuracyAt(lr);
    if (accuracy <= best.accuracy) break;
    best = { lr, accuracy };
  }
  return best.lr;
}

async function peerRuns(
  { set }: Setting,
  lr: number,
  server: PeerServer,
  runs: (arm: string, settings: unknown, run: (task: ArmTask) => Promise<ArmResult>) => Promise<ArmResult[]>,
): Promise<ArmResult[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
  const file = path.join(folder, `${set.name}.json`);
  try {
    return await runs('peer-lora', lr, (task) => peerArm('lora', lr, task, server, file));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function taskOf({ set, options }: Setting, shots: number, seed: number): ArmTask {
  const train = indexed(drawUpTo(set.pool, set.classes, shots, seed), set.classes);
  const rows = options.quick ? 100 : set.test.texts.length;
  const test = { texts: set.test.texts.slice(0, rows), labels: set.test.labels.slice(0, rows) };
  const length = options.quick ? { batchSize: 16, epochs: 3 } : lengthOf(train.texts.length);
  return { classes: set.classes, train, test: indexed(test, set.classes), ...length, seed };
}

/** A run with its setting in its name; told when it is measured. */
function keptRun(
  { set, shots, options }: Setting,
  name: string,
  settings: unknown,
  measure: () => Promise<ArmResult>,
): Promise<ArmResult> {
  const key = `peft/${set.name}-${shots}/${name}`;
  return kept(key, [settings, shared], options, async () => {
    const result = await measure();
    say(`${key}: ${(100 * result.accuracy).toFixed(2)} % in ${result.seconds.toFixed(0)} s`);
    return result;
  });
}

const shown = ({ low, high }: { low: number; high: number }) => `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}`;

function accuracyRow(what: string, results: readonly ArmResult[], how?: string): Row {
  const found = studentInterval(results.map(({ accuracy }) => 100 * accuracy));
  const seconds = `${mean(results.map(({ seconds }) => seconds)).toFixed(1)} s`;
  return row({
    what,
    ours: found.mean,
    unit: '%',
    target: null,
    note: [shown(found), how, seconds].filter(Boolean).join('; '),
  });
}

/** Paired by draw: both sides learned from the same rows. */
function difference(
  what: string,
  ours: readonly ArmResult[],
  theirs: readonly ArmResult[],
  target: string | null,
): Row {
  const points = ours.map(({ accuracy }, i) => 100 * (accuracy - theirs[i]!.accuracy));
  const found = studentInterval(points);
  const their = mean(theirs.map(({ accuracy }) => 100 * accuracy)).toFixed(2);
  return row({ what, ours: found.mean, unit: 'points', target, note: `${shown(found)}, paired; the other ${their} %` });
}

function shareRow(what: string, results: readonly ArmResult[], encoder: Encoder): Row {
  const all = Object.values(encoder.weights).reduce((sum, { data }) => sum + data.length, 0);
  const ours = (100 * results[0]!.trainable) / all;
  return row({ what, ours, unit: '%', target: '<= 2', note: `${results[0]!.trainable} of ${all} numbers` });
}

/** An epoch on the same rows with the same threads, one side after the other. */
async function secondsRow(setting: Setting, lr: number, server: PeerServer): Promise<Row> {
  const { set, shots, encoder } = setting;
  const task = { ...taskOf(setting, shots, 0), epochs: 1 };
  const ours = await keptRun(setting, 'epoch-lora', [lr, threads], () => tuneArm('lora', lr, task, encoder));
  const [theirs] = await peerRuns(setting, lr, server, async (_, __, run) => [
    await keptRun(setting, 'epoch-peer-lora', [lr, threads], () => run(task)),
  ]);
  return row({
    what: `${set.name}, ${shots} per class: LoRA, seconds of an epoch`,
    ours: ours.seconds,
    unit: 's',
    peer: theirs!.seconds,
    peerName: 'Python peft',
    target: '<= 1x peer',
    note: `${task.train.texts.length} texts, batches of ${task.batchSize} grouped by length on both sides; ${threads} threads`,
  });
}
