import type { Advice } from '../artifact/manifest.js';
import { throwIfAborted } from '../errors.js';
import { bootstrapInterval, pairedBootstrap } from '../evaluation/bootstrap.js';
import type { FitContext, Labelled, MethodName } from '../methods/method.js';
import { type Candidate, OutOfFold } from './cross-validate.js';

export interface RaceOptions {
  /** Fold of each row, and how many there are. */
  readonly folds: Int32Array;
  readonly foldCount: number;
  /** For the folds and the winner's fit on all rows together. */
  readonly budgetSeconds: number;
  readonly context: FitContext;
  readonly requested: string;
  /** Folds at most for a method that trains the encoder. */
  readonly maxCostlyFolds?: number;
  onProgress?(fraction: number, metrics: Readonly<Record<string, number | string>>): void;
}

export interface RaceResult {
  readonly winner: Candidate;
  readonly outOfFold: OutOfFold;
  readonly advice: Advice;
}

/** Methods that train the encoder itself: minutes instead of seconds. */
const costly: ReadonlySet<MethodName> = new Set(['lora', 'full']);

export const raceRule =
  'The highest accuracy on out-of-fold rows wins, compared on rows that both methods predicted; equal ones go to the method that trains faster.';

interface Runner {
  readonly candidate: Candidate;
  readonly outOfFold: OutOfFold;
  /** Why it ended before the last fold. */
  note?: string;
}

/**
 * Races methods by stratified cross-validation. Those that need seconds predict every row. Those that train the encoder
 * take turns, one fold each, while the estimated time still fits the budget with the winner's last fit set aside; one
 * whose paired 95 % interval lies below the leader is not given further folds.
 */
export async function race(
  data: Labelled,
  candidates: readonly Candidate[],
  options: RaceOptions,
): Promise<RaceResult> {
  const { folds, foldCount, budgetSeconds, context, requested } = options;
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  const skipped: Advice['skipped'] = [];
  const runners: Runner[] = [];
  const alone = candidates.length === 1;
  const cheap = candidates.filter((c) => !costly.has(c.method.name));
  const dear = candidates.filter((c) => costly.has(c.method.name));

  const runFold = async (runner: Runner, fold: number) => {
    throwIfAborted(context.signal);
    const name = runner.candidate.method.name;
    const tell = (within: number, metrics: Readonly<Record<string, number>>) =>
      options.onProgress?.(Math.min(0.99, elapsed() / budgetSeconds), {
        method: name,
        fold: `${fold + 1}/${foldCount}`,
        ...(within > 0 ? metrics : {}),
      });
    tell(0, {});
    await runner.outOfFold.addFold(runner.candidate, data, folds, fold, { ...context, onProgress: tell });
  };

  for (const candidate of cheap) {
    const runner: Runner = { candidate, outOfFold: new OutOfFold(data.texts.length, data.classes.length) };
    for (let fold = 0; fold < foldCount; fold++) {
      const perFold = runner.outOfFold.foldsDone === 0 ? 0 : runner.outOfFold.seconds / runner.outOfFold.foldsDone;
      if (elapsed() + perFold > budgetSeconds && (fold > 0 || runners.length > 0)) {
        break;
      }
      await runFold(runner, fold);
    }
    if (runner.outOfFold.foldsDone === 0) {
      skipped.push({ method: candidate.method.name, reason: outOfBudget(elapsed(), budgetSeconds) });
      continue;
    }
    if (runner.outOfFold.foldsDone < foldCount) {
      runner.note = partOfFolds(runner, foldCount, budgetSeconds);
    }
    runners.push(runner);
  }

  const racing = await Promise.all(
    dear.map(async (candidate) => ({
      runner: { candidate, outOfFold: new OutOfFold(data.texts.length, data.classes.length) } as Runner,
      estimate: await estimateSeconds(candidate, data, context),
    })),
  );
  racing.sort((a, b) => a.estimate - b.estimate);
  const foldLimit = Math.min(foldCount, options.maxCostlyFolds ?? foldCount);
  for (let fold = 0; fold < foldLimit; fold++) {
    for (const entry of racing) {
      const { runner } = entry;
      if (runner.note !== undefined || runner.outOfFold.foldsDone < fold) {
        continue;
      }
      const perFold = fold === 0 ? entry.estimate : runner.outOfFold.seconds / runner.outOfFold.foldsDone;
      const lastFit = (perFold * foldCount) / (foldCount - 1); // on all rows, should it win
      const left = budgetSeconds - elapsed();
      if (perFold + lastFit > left && !(alone && fold === 0)) {
        if (fold === 0) {
          skipped.push({
            method: runner.candidate.method.name,
            reason: `one fold and the fit on all rows would take about ${Math.ceil(perFold + lastFit)} s, ${Math.max(0, Math.floor(left))} s of the ${budgetSeconds} s budget were left; raise the budget to try it`,
          });
        }
        runner.note = partOfFolds(runner, foldCount, budgetSeconds);
        continue;
      }
      await runFold(runner, fold);
      if (fold === 0) {
        runners.push(runner);
      }
      const leader = leaderOf(runners, data.labels);
      if (leader !== runner && compare(runner, leader, data.labels, context.seed).interval[1] < 0) {
        runner.note = `${runner.outOfFold.foldsDone} of ${foldCount} folds: clearly behind ${leader.candidate.method.name}`;
      }
    }
  }
  for (const { runner } of racing) {
    if (runner.outOfFold.foldsDone > 0 && runner.outOfFold.foldsDone < foldCount) {
      runner.note ??= `${runner.outOfFold.foldsDone} of ${foldCount} folds`;
    }
  }
  const winner = leaderOf(runners, data.labels);
  const others = runners.filter((runner) => runner !== winner);
  const second = others.length === 0 ? undefined : closest(winner, others, data.labels);
  return {
    winner: winner.candidate,
    outOfFold: winner.outOfFold,
    advice: {
      requested,
      chosen: winner.candidate.method.name,
      rule: alone ? 'The method was named, so nothing was raced.' : raceRule,
      tried: runners.map((runner) => entryOf(runner, data.labels, context.seed)),
      skipped,
      ...(second === undefined
        ? {}
        : { margin: { over: second.candidate.method.name, ...compare(winner, second, data.labels, context.seed) } }),
    },
  };
}

function outOfBudget(elapsed: number, budget: number): string {
  return `the ${budget} s budget was used up after ${Math.round(elapsed)} s; raise the budget to try it`;
}

function partOfFolds({ outOfFold }: Runner, foldCount: number, budget: number): string {
  return `${outOfFold.foldsDone} of ${foldCount} folds: more did not fit the ${budget} s budget`;
}

/** A method's own estimate of one fit; Infinity-free: those that say nothing are taken to be quick. */
async function estimateSeconds({ method, options }: Candidate, data: Labelled, context: FitContext): Promise<number> {
  return (await method.estimateSeconds?.(data, options, context)) ?? 0;
}

/** Runners stand in order of cost, so that a later one must be strictly better. */
function leaderOf(runners: readonly Runner[], labels: Int32Array): Runner {
  return runners.reduce((leader, runner) => (difference(runner, leader, labels) > 0 ? runner : leader));
}

/** The other runner that came nearest to `winner`. */
function closest(winner: Runner, others: readonly Runner[], labels: Int32Array): Runner {
  return others.reduce((best, other) =>
    difference(winner, other, labels) < difference(winner, best, labels) ? other : best,
  );
}

/** Rows that both predicted, with 1 where each was right. */
function shared(a: Runner, b: Runner, labels: Int32Array): [Uint8Array, Uint8Array] {
  const rows = a.outOfFold.rows().filter((row) => b.outOfFold.done[row] === 1);
  const correct = (runner: Runner) =>
    Uint8Array.from(rows, (row) => (runner.outOfFold.isCorrect(row, labels[row]!) ? 1 : 0));
  return [correct(a), correct(b)];
}

function difference(a: Runner, b: Runner, labels: Int32Array): number {
  const [right, wrong] = shared(a, b, labels);
  return right.reduce((sum, value, i) => sum + value - wrong[i]!, 0) / Math.max(1, right.length);
}

function compare(a: Runner, b: Runner, labels: Int32Array, seed: number) {
  const [first, second] = shared(a, b, labels);
  const { difference, interval } = pairedBootstrap(first, second, { seed });
  return { difference, interval: [...interval] as [number, number], examples: first.length };
}

function entryOf(runner: Runner, labels: Int32Array, seed: number): Advice['tried'][number] {
  const rows = runner.outOfFold.rows();
  const correct = Uint8Array.from(rows, (row) => (runner.outOfFold.isCorrect(row, labels[row]!) ? 1 : 0));
  return {
    method: runner.candidate.method.name,
    accuracy: correct.reduce((sum, value) => sum + value, 0) / correct.length,
    accuracyInterval: [...bootstrapInterval(correct, { seed })] as [number, number],
    examples: rows.length,
    seconds: runner.outOfFold.seconds,
    ...(runner.note === undefined ? {} : { note: runner.note }),
  };
}
