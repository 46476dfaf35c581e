import { EngineError } from './errors.js';

/**
 * Symbolic sizes. A dimension is a number, a symbol (`batch`), or a product of both (`12*batch*seq`), written as a
 * string in one canonical form, so that equal sizes are equal strings. A symbol is never 1, so broadcasting stays
 * decidable while the graph is built.
 */
export type Dim = number | string;

interface Monomial {
  readonly factor: number;
  readonly symbols: readonly string[];
}

function parse(dim: Dim): Monomial {
  if (typeof dim === 'number') return { factor: dim, symbols: [] };
  let factor = 1;
  const symbols: string[] = [];
  for (const part of dim.split('*')) {
    const value = Number(part);
    if (Number.isNaN(value)) symbols.push(part);
    else factor *= value;
  }
  return { factor, symbols };
}

function format({ factor, symbols }: Monomial): Dim {
  if (symbols.length === 0) return factor;
  const sorted = [...symbols].sort();
  return factor === 1 ? sorted.join('*') : [factor, ...sorted].join('*');
}

/** The product of sizes. */
export function product(dims: readonly Dim[]): Dim {
  const parts = dims.map(parse);
  return format({
    factor: parts.reduce((f, part) => f * part.factor, 1),
    symbols: parts.flatMap((part) => part.symbols),
  });
}

/** `total / known`, or undefined when it is no whole size. */
export function quotient(total: Dim, known: Dim): Dim | undefined {
  const a = parse(total);
  const b = parse(known);
  const symbols = [...a.symbols];
  for (const symbol of b.symbols) {
    const at = symbols.indexOf(symbol);
    if (at < 0) return undefined;
    symbols.splice(at, 1);
  }
  if (b.factor === 0 || a.factor % b.factor !== 0) return undefined;
  return format({ factor: a.factor / b.factor, symbols });
}

/** Symbols and whole factor of a size, for whoever must compute it at run time. */
export function factorsOf(dim: Dim): Monomial {
  return parse(dim);
}

export function isSymbolic(dim: Dim): dim is string {
  return typeof dim === 'string';
}

export function sameShape(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

export function showShape(shape: readonly Dim[]): string {
  return `[${shape.join(', ')}]`;
}

/** Symbols in a shape. */
export function symbolsIn(shape: readonly Dim[]): string[] {
  return [...new Set(shape.flatMap((dim) => parse(dim).symbols))];
}

/**
 * Sizes that must be numbers. `compile` and `trainStep` answer the error by tracing for the sizes they are given.
 *
 * @throws EngineError SIZE_UNKNOWN
 */
export function knownSizes(operation: string, dims: readonly Dim[], shape: readonly Dim[] = dims): number[] {
  const symbols = symbolsIn(dims);
  if (symbols.length === 0) return dims as number[];
  throw new EngineError(
    'SIZE_UNKNOWN',
    `${operation} needs ${symbols.join(' and ')} of ${showShape(shape)} as a number while it is traced`,
    { symbols },
  );
}
