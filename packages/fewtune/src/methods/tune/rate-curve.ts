import { FewtuneError } from '../../errors.js';

/** A step of a range test. */
export interface RatePoint {
  readonly lr: number;
  /** Before the step. */
  readonly loss: number;
  /** A running mean of it and those before. */
  readonly smoothed: number;
}

/** How much of the running mean is its past. */
const past = 0.9;
/** A running mean so many times the lowest one before means that the run diverges. */
const diverged = 4;

/** The rates of a test, each larger than the one before by the same factor. */
export function ratesOf({ from, to, steps }: { from: number; to: number; steps: number }): number[] {
  return Array.from({ length: steps }, (_, i) => from * (to / from) ** (i / (steps - 1)));
}

/** Takes the losses of a range test one by one. */
export class RateCurve {
  readonly points: RatePoint[] = [];
  private mean = 0;
  private lowest = Number.POSITIVE_INFINITY;

  /** @returns whether the test has seen enough: the loss explodes, or is no number */
  add(lr: number, loss: number): boolean {
    if (!Number.isFinite(loss)) return true;
    this.mean = past * this.mean + (1 - past) * loss;
    const smoothed = this.mean / (1 - past ** (this.points.length + 1)); // as Adam corrects its moments
    this.points.push({ lr, loss, smoothed });
    this.lowest = Math.min(this.lowest, smoothed);
    return smoothed > diverged * this.lowest;
  }
}

/** Rates that a range test points out. */
export interface RatesFound {
  /** Where the loss falls fastest along the logarithm of the rate. */
  readonly steepest: number;
  /** Where the loss is lowest, on the brink of rising. */
  readonly lowest: number;
  /** A tenth of `lowest`, or `steepest` where that is less. */
  readonly suggestion: number;
}

/**
 * Smith 2017, arXiv:1506.01186, looks for the rates between which a model learns. The steepest place lies between them, by
 * the slope of a line through the losses around it, which smooths them without lagging behind; but a rate that is good for
 * a step is often too high for a run, so that of the lowest loss has to stay ten times away.
 *
 * @throws FewtuneError OPTION_INVALID when the loss falls nowhere
 */
export function ratesFound(points: readonly RatePoint[]): RatesFound {
  const reach = Math.max(2, Math.round(points.length / 12));
  const places = points.slice(reach, -reach).map(({ lr }, i) => {
    const around = points.slice(i, i + 2 * reach + 1);
    const losses = around.map(({ loss }) => loss);
    return {
      lr,
      loss: mean(losses),
      slope: slopeOf(
        around.map((point) => Math.log(point.lr)),
        losses,
      ),
    };
  });
  const least = (key: 'slope' | 'loss') => places.reduce((best, place) => (place[key] < best[key] ? place : best));
  if (places.every(({ slope }) => slope >= 0)) {
    const range = points.length > 0 ? `between the rates ${points[0]!.lr} and ${points.at(-1)!.lr}` : 'at any rate';
    throw new FewtuneError(
      'OPTION_INVALID',
      `the range test: the loss does not fall ${range}; give other rates, or an lr.`,
    );
  }
  const [steepest, lowest] = [least('slope').lr, least('loss').lr];
  return { steepest, lowest, suggestion: Math.min(steepest, lowest / 10) };
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Of the line that lies closest to the points, by squares. */
function slopeOf(x: readonly number[], y: readonly number[]): number {
  const [mx, my] = [mean(x), mean(y)];
  const [up, down] = x.reduce(([a, b], value, i) => [a + (value - mx) * (y[i]! - my), b + (value - mx) ** 2], [0, 0]);
  return up! / down!;
}
