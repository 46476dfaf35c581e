import { type Encoder, loadEncoder } from '@fewtune/models';
import { type AdaptationName, adaptationOf, classification, type TuneEvent, tune } from 'fewtune';
import { type Options, say } from '../../lib/bench.js';
import { kept } from '../../lib/kept.js';
import { threads } from '../../lib/machine.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { drawUpTo, type Indexed, indexed, type TuneSet, tuneSets } from './sets.js';

const SEEDS = [0, 1, 2, 3, 4];
const SWEEP_SEED = 100;
const SHOTS = 64;
/** Rates are chosen on as many rows of a class, at a quarter of the cost. */
const SWEEP_SHOTS = 16;
const BATCH = 32;
const HEAD_LR = 1e-3;
/** How far below full fine-tuning the saved time may bring the score, in points. */
const TOLERANCE = 1.5;
/** Test rows that the curves are drawn by; the last weights are judged by all. */
const CURVE_ROWS = 770;

interface Arm {
  readonly name: string;
  readonly adaptation: AdaptationName;
  readonly options: object;
  readonly epochs: number;
  readonly rates: readonly number[];
  /** Looks an epoch. */
  readonly looks: number;
}

const layer = (at: number) => `*.layer.${at}.*`;
const arms: readonly Arm[] = [
  { name: 'full fine-tuning', adaptation: 'full', options: {}, epochs: 3, rates: [1e-4, 3e-4], looks: 3 },
  { name: 'top layer', adaptation: 'full', options: { layers: 1 }, epochs: 5, rates: [1e-3, 2e-3], looks: 2 },
  {
    name: 'LoRA in the top layer',
    adaptation: 'lora',
    options: { targets: layer(5), rank: 16, alpha: 32 },
    epochs: 5,
    rates: [3e-3, 1e-2],
    looks: 2,
  },
];

/** A held-out score after some seconds of training. */
interface Point {
  readonly seconds: number;
  readonly score: number;
}

interface Run {
  /** Of training, states that are kept among it; not of looks. */
  readonly seconds: number;
  /** Of that, until the first step was done: opening programs, and computing states. */
  readonly opening: number;
  /** On all test rows, by the last weights, in per cent. */
  readonly score: number;
  readonly curve: readonly Point[];
}

/** Training upper layers on kept states beside full fine-tuning: seconds until the same held-out score, and the score. */
export async function cachedRows(options: Options): Promise<Row[]> {
  const encoder = await loadEncoder();
  const set = tuneSets().find(({ name }) => name === 'Banking77')!;
  const seeds = options.quick ? SEEDS.slice(0, 1) : SEEDS;
  const found = new Map<Arm, Run[]>();
  const rates = new Map<Arm, number>();
  const wanted = options.quick ? arms.slice(0, 2) : arms;
  for (const arm of wanted.filter(({ name }) => options.methods?.includes(name) ?? true)) {
    const lr = await sweep(arm, set, encoder, options);
    rates.set(arm, lr);
    const runs: Run[] = [];
    for (const seed of seeds) {
      const key = `peft/cached/${arm.name}-${seed}`;
      runs.push(
        await kept(key, [arm, lr, BATCH, HEAD_LR, threads], options, async () => {
          const run = await measured(arm, lr, set, encoder, { seed, quick: options.quick });
          say(
            `${key}: ${run.score.toFixed(2)} % in ${run.seconds.toFixed(1)} s, ${run.opening.toFixed(1)} s of it opening`,
          );
          return run;
        }),
      );
    }
    found.set(arm, runs);
  }
  const [full, ...cached] = [...found];
  return [
    scoreRow(full!, rates),
    ...cached.flatMap((entry) => [scoreRow(entry, rates), ...comparison(entry, full![1])]),
  ];
}

/** The rate whose run is best on the validation rows. */
async function sweep(arm: Arm, set: TuneSet, encoder: Encoder, options: Options): Promise<number> {
  if (options.quick) return arm.rates[1]!;
  const found: { lr: number; score: number }[] = [];
  for (const lr of arm.rates) {
    const settings = [arm, BATCH, HEAD_LR, SWEEP_SHOTS];
    const score = await kept(`peft/cached/sweep-${arm.name}-${lr}`, settings, options, async () => {
      const train = indexed(drawUpTo(set.pool, set.classes, SWEEP_SHOTS, SWEEP_SEED), set.classes);
      // As many steps as the runs have.
      const epochs = Math.round((arm.epochs * SHOTS) / SWEEP_SHOTS / 2);
      const tuned = await tune(
        encoder,
        { texts: train.texts },
        classification(train.labels, set.classes),
        adaptOf(arm),
        { ...settingsOf(lr), epochs },
        { seed: SWEEP_SEED, threads },
      );
      const validation = indexed(set.validation, set.classes);
      const score = share(await tuned.logits(validation.texts), validation.labels, set.classes.length);
      await tuned.dispose();
      say(`peft/cached: ${arm.name}, lr ${lr}: ${score.toFixed(2)} % on validation rows`);
      return score;
    });
    found.push({ lr, score });
  }
  return found.reduce((best, next) => (next.score > best.score ? next : best)).lr;
}

const adaptOf = ({ adaptation, options }: Arm) => adaptationOf(adaptation, options);
const settingsOf = (lr: number) => ({ batchSize: BATCH, lr, headLr: HEAD_LR }) as const;

async function measured(
  arm: Arm,
  lr: number,
  set: TuneSet,
  encoder: Encoder,
  { seed, quick }: { seed: number; quick: boolean },
): Promise<Run> {
  const shots = quick ? 4 : SHOTS;
  const train = indexed(drawUpTo(set.pool, set.classes, shots, seed), set.classes);
  const test = indexed(set.test, set.classes);
  const shown = everySo(test, quick ? 100 : CURVE_ROWS);
  const steps = Math.ceil(train.texts.length / BATCH);
  const clock = new StepClock();
  // States of the rows of looks are kept too: computing them counts, to our disadvantage.
  const tuned = await tune(
    encoder,
    { texts: train.texts },
    classification(train.labels, set.classes),
    adaptOf(arm),
    {
      ...settingsOf(lr),
      epochs: quick ? 1 : arm.epochs,
      validation: {
        on: { examples: { texts: shown.texts }, task: classification(shown.labels, set.classes) },
        everySteps: Math.ceil(steps / arm.looks),
        keep: 'last',
      },
    },
    { seed, threads, onProgress: (event) => clock.stepped(event) },
  );
  const score = share(await tuned.logits(test.texts), test.labels, set.classes.length);
  await tuned.dispose();
  return { ...clock.read(), score };
}

/** Seconds of steps without the looks between them: a step with a look counts as long as its neighbours do. */
class StepClock {
  private readonly began = performance.now();
  private last: number | undefined;
  private opening = 0;
  private readonly plain: number[] = [];
  private readonly looks: { step: number; score: number }[] = [];
  private steps = 0;

  stepped({ step, look }: TuneEvent): void {
    const now = performance.now();
    if (this.last === undefined) this.opening = (now - this.began) / 1000;
    else if (!look) this.plain.push((now - this.last) / 1000);
    if (look) this.looks.push({ step, score: 100 * look.score.value });
    this.last = now;
    this.steps = step;
  }

  read(): Omit<Run, 'score'> {
    const each = mean(this.plain);
    const at = (step: number) => this.opening + (step - 1) * each;
    const curve = this.looks.map(({ step, score }) => ({ seconds: at(step), score }));
    return { opening: this.opening, seconds: at(this.steps), curve };
  }
}

/** Rows at equal distances. */
function everySo({ texts, labels }: Indexed, count: number): Indexed {
  const rows = Array.from({ length: count }, (_, i) => Math.floor((i * texts.length) / count));
  return { texts: rows.map((row) => texts[row]!), labels: Int32Array.from(rows, (row) => labels[row]!) };
}

/** Right answers in per cent. */
function share(logits: Float32Array, labels: Int32Array, classes: number): number {
  const right = labels.filter((label, row) => {
    const scores = logits.subarray(row * classes, (row + 1) * classes);
    return scores.indexOf(Math.max(...scores)) === label;
  });
  return (100 * right.length) / labels.length;
}

/** When a curve is first at a score, between two looks along a line; undefined when it never is. */
export function secondsTo(curve: readonly Point[], score: number): number | undefined {
  const at = curve.findIndex((point) => point.score >= score);
  if (at < 0) return undefined;
  const [before, after] = [curve[at - 1], curve[at]!];
  if (!before) return after.seconds;
  return before.seconds + ((after.seconds - before.seconds) * (score - before.score)) / (after.score - before.score);
}

const interval = (values: readonly number[]) => {
  const { low, high } = studentInterval(values);
  return `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}`;
};

function scoreRow([arm, runs]: [Arm, Run[]], rates: ReadonlyMap<Arm, number>): Row {
  const scores = runs.map(({ score }) => score);
  const seconds = mean(runs.map((run) => run.seconds));
  return row({
    what: `Banking77, ${SHOTS} per class: ${arm.name}, accuracy`,
    ours: mean(scores),
    unit: '%',
    target: null,
    note: `${interval(scores)}; lr ${rates.get(arm)}; ${arm.epochs} epochs in ${seconds.toFixed(1)} s`,
  });
}

/** Paired by draw. */
function comparison([arm, runs]: [Arm, Run[]], full: readonly Run[]): Row[] {
  const points = runs.map(({ score }, i) => score - full[i]!.score);
  const pairs = runs.map(({ curve }, i) => {
    const wanted = full[i]!.curve.at(-1)!.score - TOLERANCE;
    return { ours: secondsTo(curve, wanted), theirs: secondsTo(full[i]!.curve, wanted), whole: full[i]!.seconds };
  });
  const reached = pairs.flatMap(({ ours, theirs, whole }) =>
    ours === undefined || theirs === undefined ? [] : [{ ours, theirs, whole }],
  );
  const saved = reached.map(({ ours, theirs }) => 100 * (1 - ours / theirs));
  const ofWhole = reached.map(({ ours, whole }) => 100 * (1 - ours / whole));
  const all = reached.length === pairs.length;
  const what = `Banking77, ${SHOTS} per class: ${arm.name} on kept states`;
  const times = `${mean(reached.map(({ ours }) => ours)).toFixed(1)} s beside ${mean(reached.map(({ theirs }) => theirs)).toFixed(1)} s`;
  const note = all ? `${times}; ${interval(saved)}` : `reached in ${reached.length} of ${pairs.length} draws`;
  return [
    row({
      what: `${what} − full fine-tuning`,
      ours: mean(points),
      unit: 'points',
      target: '>= -1.5',
      note: interval(points),
    }),
    row({
      what: `${what}: less time to full fine-tuning's last score less ${TOLERANCE} points, where that gets there too`,
      ours: all ? mean(saved) : null,
      unit: '%',
      target: '>= 60',
      note,
    }),
    row({
      what: `${what}: less time to that score than all of full fine-tuning`,
      ours: all ? mean(ofWhole) : null,
      unit: '%',
      target: '>= 60',
      note: all ? interval(ofWhole) : note,
    }),
  ];
}
