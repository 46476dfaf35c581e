import { throwIfAborted } from '../../errors.js';

/** Value at `x`; writes the gradient into `gradient`. May answer later, e.g. when a compiled program computes it. */
export type Objective = (x: Float64Array, gradient: Float64Array) => number | Promise<number>;

export interface LbfgsOptions {
  maxIterations?: number;
  /** Stops when no gradient entry exceeds this; 1e-5 by default. */
  gradientTolerance?: number;
  /** Pairs (step, change of gradient) kept. */
  memory?: number;
  signal?: AbortSignal;
}

export interface LbfgsResult {
  readonly x: Float64Array;
  readonly value: number;
  readonly iterations: number;
  readonly evaluations: number;
  readonly converged: boolean;
}

function dot(a: Float64Array, b: Float64Array): number {
  let s0 = 0;
  let s1 = 0;
  const even = a.length & ~1;
  for (let i = 0; i < even; i += 2) {
    s0 += a[i]! * b[i]!;
    s1 += a[i + 1]! * b[i + 1]!;
  }
  return even < a.length ? s0 + s1 + a[even]! * b[even]! : s0 + s1;
}

function largest(a: Float64Array): number {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]!));
  return most;
}

/** target = x + scale · y */
function addScaled(target: Float64Array, x: Float64Array, scale: number, y: Float64Array): void {
  for (let i = 0; i < x.length; i++) target[i] = x[i]! + scale * y[i]!;
}

interface Pair {
  readonly step: Float64Array;
  readonly change: Float64Array;
  readonly curvature: number;
}

/** −H g by the two-loop recursion. Nocedal and Wright 2006, algorithm 7.4. */
function direction(gradient: Float64Array, pairs: readonly Pair[]): Float64Array {
  const q = new Float64Array(gradient.length);
  addScaled(q, q, -1, gradient);
  const alphas = new Float64Array(pairs.length);
  for (let i = pairs.length - 1; i >= 0; i--) {
    const { step, change, curvature } = pairs[i]!;
    alphas[i] = dot(step, q) / curvature;
    addScaled(q, q, -alphas[i]!, change);
  }
  const last = pairs.at(-1);
  if (last !== undefined) {
    const scale = last.curvature / dot(last.change, last.change);
    for (let i = 0; i < q.length; i++) q[i]! *= scale;
  }
  pairs.forEach(({ step, change, curvature }, i) => {
    const beta = dot(change, q) / curvature;
    addScaled(q, q, alphas[i]! - beta, step);
  });
  return q;
}

/** Minimum of the cubic through two points with slopes, kept inside the bracket. Nocedal and Wright 2006, eq. 3.59. */
function cubicMinimum(a: number, fa: number, ga: number, b: number, fb: number, gb: number): number {
  const d1 = ga + gb - (3 * (fa - fb)) / (a - b);
  const root = d1 * d1 - ga * gb;
  const lo = Math.min(a, b);
  const hi = Math.max(a, b);
  const margin = 0.1 * (hi - lo);
  if (root >= 0) {
    const d2 = Math.sign(b - a) * Math.sqrt(root);
    const t = b - ((b - a) * (gb + d2 - d1)) / (gb - ga + 2 * d2);
    if (Number.isFinite(t)) return Math.min(hi - margin, Math.max(lo + margin, t));
  }
  return (lo + hi) / 2;
}

const SUFFICIENT_DECREASE = 1e-4;
const CURVATURE = 0.9;

/**
 * Limited-memory BFGS with a strong Wolfe line search. Nocedal and Wright 2006, algorithms 7.5, 3.5 and 3.6.
 * A value that is not finite counts as too long a step. `start` is left untouched.
 */
export async function lbfgs(
  objective: Objective,
  start: Float64Array,
  options: LbfgsOptions = {},
): Promise<LbfgsResult> {
  const { maxIterations = 200, gradientTolerance = 1e-5, memory = 10, signal } = options;
  let x = new Float64Array(start);
  let gradient = new Float64Array(x.length);
  let value = await objective(x, gradient);
  let evaluations = 1;
  let iterations = 0;
  const pairs: Pair[] = [];
  let converged = largest(gradient) <= gradientTolerance;

  while (!converged && iterations < maxIterations) {
    throwIfAborted(signal);
    let p = direction(gradient, pairs);
    let slope = dot(gradient, p);
    if (!(slope < 0)) {
      pairs.length = 0;
      p = direction(gradient, pairs);
      slope = dot(gradient, p);
    }
    const trial = new Float64Array(x.length);
    const trialGradient = new Float64Array(x.length);
    const probe = async (t: number) => {
      addScaled(trial, x, t, p);
      const f = await objective(trial, trialGradient);
      evaluations++;
      return { t, f: Number.isFinite(f) ? f : Number.POSITIVE_INFINITY, g: dot(trialGradient, p) };
    };
    const wolfe = await searchLine(probe, value, slope, pairs.length === 0 ? Math.min(1, 1 / Math.sqrt(-slope)) : 1);
    if (!wolfe) {
      if (pairs.length === 0) break; // no descent along the gradient itself: as low as rounding lets us go
      pairs.length = 0;
      continue;
    }
    const step = new Float64Array(x.length);
    const change = new Float64Array(x.length);
    addScaled(step, trial, -1, x);
    addScaled(change, trialGradient, -1, gradient);
    const curvature = dot(step, change);
    if (curvature > 1e-12 * dot(change, change)) {
      pairs.push({ step, change, curvature });
      if (pairs.length > memory) pairs.shift();
    }
    x = trial;
    gradient = trialGradient;
    value = wolfe.f;
    iterations++;
    converged = largest(gradient) <= gradientTolerance;
  }
  return { x, value, iterations, evaluations, converged };
}

interface Probe {
  readonly t: number;
  readonly f: number;
  readonly g: number;
}

/** The last point probed fulfils the strong Wolfe conditions, or at least falls; undefined when nothing does. */
async function searchLine(
  probe: (t: number) => Promise<Probe>,
  f0: number,
  g0: number,
  first: number,
): Promise<Probe | undefined> {
  const falls = ({ t, f }: Probe) => f <= f0 + SUFFICIENT_DECREASE * t * g0;
  const flat = ({ g }: Probe) => Math.abs(g) <= -CURVATURE * g0;
  let low: Probe = { t: 0, f: f0, g: g0 };
  let high: Probe | undefined;
  let t = first;
  for (let tries = 0; tries < 25; tries++) {
    const at = await probe(t);
    if (!falls(at) || (at.f >= low.f && low.t > 0)) {
      high = at;
    } else {
      if (flat(at)) return at;
      if (at.g * ((high?.t ?? Number.POSITIVE_INFINITY) - low.t) >= 0) high = low;
      low = at;
    }
    if (high === undefined) {
      t = 2 * at.t;
    } else {
      if (Math.abs(high.t - low.t) < 1e-12) break;
      t = Number.isFinite(high.f)
        ? cubicMinimum(low.t, low.f, low.g, high.t, high.f, high.g)
        : low.t + 0.1 * (high.t - low.t);
    }
  }
  if (low.t === 0) return undefined;
  return probe(low.t); // leaves its gradient in place
}
