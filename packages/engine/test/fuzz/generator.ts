import type { Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import { uniform } from '../catalogue/case.js';

/** A value of a random program: its sizes, and between which numbers its elements lie. */
export interface Value {
  readonly name: string;
  readonly shape: readonly number[];
  readonly low: number;
  readonly high: number;
}

/** One operator applied to earlier values. */
export interface Step {
  readonly inputs: readonly Value[];
  /** The call as TypeScript, of the inputs' names. */
  readonly text: string;
  readonly fn: (...inputs: Tensor[]) => Tensor;
  /** Bounds of the result, from the bounds of the inputs. */
  readonly range: readonly [number, number];
}

/** Makes a step from the values there are, or nothing if it has no use for them. */
export type OperatorMaker = (g: Generator) => Step | undefined;

export interface Program {
  readonly seed: number;
  readonly dtype: 'float32' | 'float64';
  readonly inputs: readonly Value[];
  readonly steps: readonly (Step & { readonly name: string })[];
  readonly text: string;
}

/** Draws one program: values that fit together, and choices, all from one seed. */
export class Generator {
  readonly inputs: Value[] = [];
  readonly values: Value[] = [];
  private readonly next: () => number;

  constructor(
    seed: number,
    readonly dtype: 'float32' | 'float64',
  ) {
    this.next = uniform(seed * 2654435761);
  }

  /** A whole number from `low` up to `high`, included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)]!;
  }

  /** A value that satisfies the condition; rather one of the last. */
  value(fits: (value: Value) => boolean = () => true): Value | undefined {
    const candidates = this.values.filter(fits);
    if (candidates.length === 0) return undefined;
    return this.chance(0.5) ? candidates.at(-1)! : this.pick(candidates);
  }

  /** A new input of the program. */
  input(shape: readonly number[], [low, high]: readonly [number, number] = [-1, 1]): Value {
    const value = { name: `x${this.inputs.length}`, shape: [...shape], low, high };
    this.inputs.push(value);
    this.values.push(value);
    return value;
  }

  /** Something that broadcasts against `x`: a value there is, or a new input. */
  partner(x: Value, fits: (value: Value) => boolean = () => true, range?: readonly [number, number]): Value {
    const found = this.chance(0.5)
      ? this.value((y) => broadcast(x.shape, y.shape) !== undefined && fits(y))
      : undefined;
    if (found) return found;
    const shape = x.shape.slice(this.int(0, x.shape.length)).map((size) => (this.chance(0.3) ? 1 : size));
    return this.input(this.chance(0.15) && shape.length < 3 ? [this.int(2, 3), ...fullRank(x, shape)] : shape, range);
  }
}

/** The same sizes behind a new axis need every axis of `x`. */
const fullRank = (x: Value, shape: number[]) => (shape.length === x.shape.length ? shape : x.shape.map(() => 1));

export function broadcast(a: readonly number[], b: readonly number[]): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const [x, y] = [a[axis - rank + a.length] ?? 1, b[axis - rank + b.length] ?? 1];
    if (x !== y && x !== 1 && y !== 1) return undefined;
    shape.push(Math.max(x, y));
  }
  return shape;
}

/** Elements above which a program is no longer small. */
const largest = 96;

/** A random program of 3 to 10 operators. */
export function generate(
  seed: number,
  makers: Readonly<Record<'float32' | 'float64', readonly OperatorMaker[]>>,
): Program {
  const draw = uniform(seed);
  const dtype = draw() < 0.4 ? 'float32' : 'float64';
  const g = new Generator(seed, dtype);
  for (let i = g.int(1, 2); i > 0; i--) g.input(Array.from({ length: g.int(1, 3) }, () => g.int(1, 4)));
  const count = g.int(3, 10);
  const steps: (Step & { name: string })[] = [];
  for (let tries = 0; steps.length < count && tries < 200; tries++) {
    const [inputs, values] = [g.inputs.length, g.values.length];
    const step = g.pick(makers[dtype])(g);
    const shape = step && shapeOf(step, dtype);
    const small =
      shape &&
      e.elementCount(shape) <= largest &&
      shape.length <= 5 &&
      step.range.every((bound) => Math.abs(bound) <= 40);
    if (!step || !small) {
      // What was made for it goes again.
      g.inputs.length = inputs;
      g.values.length = values;
      continue;
    }
    const name = `v${steps.length}`;
    steps.push({ ...step, name });
    g.values.push({ name, shape, low: step.range[0], high: step.range[1] });
  }
  const lines = [
    ...g.inputs.map(({ name, shape, low, high }) => `${name}: ${dtype} [${shape}], elements in ${low}..${high}`),
    ...steps.map(({ name, text }) => `${name} = ${text}; // [${g.values.find((value) => value.name === name)!.shape}]`),
  ];
  return { seed, dtype, inputs: g.inputs, steps, text: lines.join('\n') };
}

function shapeOf(step: Step, dtype: 'float32' | 'float64'): number[] {
  const inputs = step.inputs.map(({ shape }) => e.constant(e.zeros(dtype, shape)));
  return step.fn(...inputs).shape as number[];
}

/** Σ w ∘ sin over every value that nothing reads: the whole program as a scalar. */
export function lossOf({ seed, inputs, steps }: Program): (xs: readonly Tensor[]) => Tensor {
  const read = new Set(steps.flatMap((step) => step.inputs.map(({ name }) => name)));
  return (xs) => {
    const known = new Map(inputs.map(({ name }, i) => [name, xs[i]!]));
    for (const step of steps) known.set(step.name, step.fn(...step.inputs.map(({ name }) => known.get(name)!)));
    const ends = steps.filter(({ name }) => !read.has(name)).map(({ name }) => known.get(name)!);
    return ends.map((end, i) => weigh(e.sin(end), seed + i)).reduce((a, b) => e.add(a, b));
  };
}

/** A weighted sum, so that no direction is special. */
export function weigh(y: Tensor, seed: number): Tensor {
  const next = uniform(seed);
  const shape = y.shape as number[];
  const weights = Array.from({ length: e.elementCount(shape) }, () => 0.5 + next());
  return e.sum(e.mul(y, e.constant(e.hostTensor(y.dtype, shape, weights))));
}
