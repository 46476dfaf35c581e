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

/** Methods that leave the encoder as it is: seconds. Those that train it take minutes. */
const cheap: ReadonlySet<MethodName> = new Set(['tfidf', 'prototype', 'linear']);

export const raceRule =
  'The highest accuracy on out-of-fold rows wins, compared on rows that both methods predicted; equal ones go to the method that trains faster.';

interface Runner {
  readonly candidate: Candidate;
  readonly outOfFold: OutOfFold;
  /** Why it ended before the last fold. */
  note?: string;
}

/** What the parts of a race share. */
interface Track {
  readonly data: Labelled;
  readonly options: RaceOptions;
  readonly alone: boolean;
  /** Those that predicted at least one fold, in order of cost. */
  readonly runners: Runner[];
  readonly skipped: Advice['skipped'];
  /** Seconds since the start. */
  elapsed(): number;
}

/**
 * Races methods by stratified cross-validation. Those that need seconds predict every row. Those that train the encoder
 * take turns, one fold each, while one more fold and the winner's last fit fit the budget; one whose paired 95 % interval
 * lies below the leader is not given further folds.
 */
export async function race(
  data: Labelled,
  candidates: readonly Candidate[],
  options: RaceOptions,
): Promise<RaceResult> {
  const started = performance.now();
  const track: Track = {
    data,
    options,
    alone: candidates.length === 1,
    runners: [],
    skipped: [],
    elapsed: () => (performance.now() - started) / 1000,
  };
  for (const candidate of candidates.filter(({ method }) => cheap.has(method.name))) {
    await runQuick(track, candidate);
  }
  await runCostly(
    track,
    candidates.filter(({ method }) => !cheap.has(method.name)),
  );
  return conclude(track);
}

/** All folds of a method that needs seconds, as long as the budget lasts; the first method has no limit. */
async function runQuick(track: Track, candidate: Candidate): Promise<void> {
  const { foldCount, budgetSeconds } = track.options;
  const runner = newRunner(track, candidate);
  for (let fold = 0; fold < foldCount; fold++) {
    const mayStop = fold > 0 || track.runners.length > 0;
    if (mayStop && track.elapsed() + secondsPerFold(runner) > budgetSeconds) {
      break;
    }
    await runFold(track, runner, fold);
  }
  if (runner.outOfFold.foldsDone === 0) {
    const reason = `the ${budgetSeconds} s budget was used up after ${Math.round(track.elapsed())} s; raise the budget to try it`;
    track.skipped.push({ method: candidate.method.name, reason });
    return;
  }
  if (runner.outOfFold.foldsDone < foldCount) {
    runner.note = partOfFolds(runner, track.options);
  }
  track.runners.push(runner);
}

/** Methods that train the encoder, cheapest first, one fold each in turn. */
async function runCostly(track: Track, candidates: readonly Candidate[]): Promise<void> {
  const { data, options } = track;
  const { foldCount, budgetSeconds, context } = options;
  const racing: { runner: Runner; estimate: number }[] = [];
  for (const candidate of candidates) {
    const estimate = (await candidate.method.estimateSeconds?.(data, candidate.options, context)) ?? 0;
    racing.push({ runner: newRunner(track, candidate), estimate });
  }
  racing.sort((a, b) => a.estimate - b.estimate);
  const foldLimit = Math.min(foldCount, options.maxCostlyFolds ?? foldCount);
  for (let fold = 0; fold < foldLimit; fold++) {
    for (const { runner, estimate } of racing.filter(({ runner }) => runner.note === undefined)) {
      const perFold = fold === 0 ? estimate / estimateMayExceed : secondsPerFold(runner);
      const mustRun = track.alone && fold === 0;
      const left = budgetSeconds - track.elapsed();
      const finished = mustRun
        ? await runFold(track, runner, fold)
        : withLastFit(perFold, foldCount) <= left && (await runFold(track, runner, fold, left));
      if (fold === 0 && finished) {
        track.runners.push(runner);
      }
      if (!finished) {
        runner.note = partOfFolds(runner, options);
        if (fold === 0) {
          track.skipped.push({
            method: runner.candidate.method.name,
            reason: `one fold and the last fit do not fit what was left of the ${budgetSeconds} s budget, ${Math.floor(left)} s (estimate: ${Math.ceil(withLastFit(estimate, foldCount))} s); raise the budget to try it`,
          });
        }
        continue;
      }
      const leader = leaderOf(track.runners, data.labels);
      if (leader !== runner && compare(runner, leader, data.labels, context.seed).interval[1] < 0) {
        runner.note = `${runner.outOfFold.foldsDone} of ${foldCount} folds: clearly behind ${leader.candidate.method.name}`;
      }
    }
  }
  for (const { runner } of racing) {
    if (runner.outOfFold.foldsDone < foldCount) {
      runner.note ??= `${runner.outOfFold.foldsDone} of ${foldCount} folds`;
    }
  }
}

/**
 * An estimate is taken in a moment and may be this many times too high on a busy machine, so a method is turned away
 * untried only when a third of it does not fit; from then on its measured progress decides.
 */
const estimateMayExceed = 3;

/** Share of a fold after which its progress is taken for its speed. */
const tellingShare = 0.1;

/** Seconds of one more fold and of the fit on all rows that follows, should the method win. */
function withLastFit(perFold: number, foldCount: number): number {
  return perFold + (perFold * foldCount) / (foldCount - 1);
}

/**
 * Fits and predicts one fold. With `secondsLeft` the fold is given up as soon as its progress says that it and the last
 * fit would take longer.
 *
 * @returns whether the fold was finished
 */
async function runFold(
  track: Track,
  runner: Runner,
  fold: number,
  secondsLeft = Number.POSITIVE_INFINITY,
): Promise<boolean> {
  const { data, options, elapsed } = track;
  const { context, folds, foldCount, budgetSeconds } = options;
  const tooSlow = new AbortController();
  const signal = AbortSignal.any([tooSlow.signal, ...(context.signal === undefined ? [] : [context.signal])]);
  let first: { share: number; at: number } | undefined;
  const begun = elapsed();
  const onProgress = (share: number, metrics: Readonly<Record<string, number>>) => {
    first ??= { share, at: elapsed() };
    const run = share - first.share;
    if (run >= tellingShare) {
      const perFold = first.at - begun + (elapsed() - first.at) / run;
      if (withLastFit(perFold, foldCount) > secondsLeft) {
        tooSlow.abort();
      }
    }
    options.onProgress?.(Math.min(0.99, elapsed() / budgetSeconds), {
      method: runner.candidate.method.name,
      fold: `${fold + 1}/${foldCount}`,
      ...metrics,
    });
  };
  throwIfAborted(context.signal);
  options.onProgress?.(Math.min(0.99, elapsed() / budgetSeconds), {
    method: runner.candidate.method.name,
    fold: `${fold + 1}/${foldCount}`,
  });
  try {
    await runner.outOfFold.addFold(runner.candidate, data, folds, fold, { ...context, signal, onProgress });
    return true;
  } catch (error) {
    if (tooSlow.signal.aborted && context.signal?.aborted !== true) {
      return false;
    }
    throw error;
  }
}

function newRunner({ data }: Track, candidate: Candidate): Runner {
  return { candidate, outOfFold: new OutOfFold(data.texts.length, data.classes.length) };
}

function secondsPerFold({ outOfFold }: Runner): number {
  return outOfFold.foldsDone === 0 ? 0 : outOfFold.seconds / outOfFold.foldsDone;
}

function conclude({ data, options, runners, skipped, alone }: Track): RaceResult {
  const { seed } = options.context;
  const winner = leaderOf(runners, data.labels);
  const others = runners.filter((runner) => runner !== winner);
  const second = others.length === 0 ? undefined : closest(winner, others, data.labels);
  return {
    winner: winner.candidate,
    outOfFold: winner.outOfFold,
    advice: {
      requested: options.requested,
      chosen: winner.candidate.method.name,
      rule: alone ? 'The method was named, so nothing was raced.' : raceRule,
      tried: runners.map((runner) => entryOf(runner, data.labels, seed)),
      skipped,
      ...(second === undefined
        ? {}
        : { margin: { over: second.candidate.method.name, ...compare(winner, second, data.labels, seed) } }),
    },
  };
}

function partOfFolds({ outOfFold }: Runner, { foldCount, budgetSeconds }: RaceOptions): string {
  return `${outOfFold.foldsDone} of ${foldCount} folds: more did not fit the ${budgetSeconds} s budget`;
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
