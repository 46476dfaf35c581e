import type { Dim } from '../dims.js';
import { product, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { sum } from './arithmetic.js';
import { matMul } from './matmul.js';
import { reshape, transpose } from './shape.js';

/**
 * Sums of products by index letters: `einsum('bhqd,bhkd->bhqk', q, k)`. Two operands are written as transposes around one
 * matrix product, more are joined from the left. An ellipsis stands for the axes that have no letter; without `->` the
 * result has the letters that occur once, in alphabetical order. A letter may stand only once in an operand.
 *
 * @throws EngineError ARGUMENT_INVALID, SHAPE_MISMATCH
 */
export function einsum(equation: string, ...operands: Tensor[]): Tensor {
  const { terms, result } = parse(equation, operands);
  sizesOf(equation, terms, operands);
  let [joined, letters] = [operands[0]!, terms[0]!];
  for (let i = 1; i < operands.length; i++) {
    const later = new Set([...result, ...terms.slice(i + 1).flat()]);
    const kept = [...new Set([...letters, ...terms[i]!])].filter((letter) => later.has(letter));
    joined = pair(joined, letters, operands[i]!, terms[i]!, i === operands.length - 1 ? result : kept);
    letters = i === operands.length - 1 ? result : kept;
  }
  const order = letters.filter((letter) => result.includes(letter));
  return arrange(reduceTo(joined, letters, result), order, result);
}

/** The letters of each operand and of the result; axes under an ellipsis are called 0, 1, … from the last one. */
function parse(equation: string, operands: readonly Tensor[]): { terms: string[][]; result: string[] } {
  const [left, right] = equation.replaceAll(' ', '').split('->');
  const written = left!.split(',');
  const ranks = written.map((term, i) => (operands[i]?.rank ?? 0) - term.replace('...', '').length);
  const deepest = Math.max(0, ...written.map((term, i) => (term.includes('...') ? ranks[i]! : 0)));
  const axes = (count: number) => Array.from({ length: Math.max(count, 0) }, (_, i) => String(count - 1 - i));
  const spelled = (term: string, count: number) => {
    const [before, after] = term.split('...') as [string, string | undefined];
    return after === undefined ? [...before] : [...before, ...axes(count), ...after];
  };
  const terms = written.map((term, i) => spelled(term, ranks[i]!));
  const once = terms.flat().filter((letter, _, all) => all.indexOf(letter) === all.lastIndexOf(letter));
  const implied = [...axes(deepest), ...once.filter((letter) => !/\d/.test(letter)).sort()];
  const result = right === undefined ? implied : spelled(right, deepest);
  const fits =
    written.length === operands.length &&
    terms.every((term, i) => term.length === operands[i]!.rank && new Set(term).size === term.length) &&
    new Set(result).size === result.length &&
    result.every((letter) => terms.some((term) => term.includes(letter)));
  if (fits) return { terms, result };
  throw new EngineError(
    'ARGUMENT_INVALID',
    `einsum: "${equation}" does not describe ${operands.map(({ shape }) => showShape(shape)).join(' and ')}`,
  );
}

/** Two operands with their letters, as one matrix product, to the letters of `result`. */
function pair(left: Tensor, a: string[], right: Tensor, b: string[], result: string[]): Tensor {
  const sizes = sizesOf('a product', [a, b], [left, right]);
  const needed = (own: string[], other: string[]) =>
    own.filter((letter) => other.includes(letter) || result.includes(letter));
  const [keptA, keptB] = [needed(a, b), needed(b, a)];
  const [x, y] = [reduceTo(left, a, keptA), reduceTo(right, b, keptB)];
  const batch = keptA.filter((letter) => keptB.includes(letter) && result.includes(letter));
  const inner = keptA.filter((letter) => keptB.includes(letter) && !result.includes(letter));
  const [freeA, freeB] = [keptA, keptB].map((kept) =>
    kept.filter((letter) => ![...batch, ...inner].includes(letter)),
  ) as [string[], string[]];
  const dims = (letters: string[]): Dim[] => letters.map((letter) => sizes.get(letter)!);
  const flat = (letters: string[]): Dim => product(dims(letters));
  const rows = reshape(arrange(x, keptA, [...batch, ...freeA, ...inner]), [...dims(batch), flat(freeA), flat(inner)]);
  const columns = reshape(arrange(y, keptB, [...batch, ...inner, ...freeB]), [
    ...dims(batch),
    flat(inner),
    flat(freeB),
  ]);
  const joined = matMul(rows, columns);
  const order = [...batch, ...freeA, ...freeB];
  return arrange(reshape(joined, dims(order)), order, result);
}

function sizesOf(equation: string, terms: readonly string[][], operands: readonly Tensor[]): Map<string, Dim> {
  const sizes = new Map<string, Dim>();
  for (const [i, term] of terms.entries()) {
    for (const [axis, letter] of term.entries()) {
      const size = operands[i]!.shape[axis]!;
      const known = sizes.get(letter);
      if (known !== undefined && known !== size) {
        throw new EngineError('SHAPE_MISMATCH', `einsum "${equation}": "${letter}" is ${known} and ${size}`);
      }
      sizes.set(letter, size);
    }
  }
  return sizes;
}

function reduceTo(x: Tensor, letters: readonly string[], kept: readonly string[]): Tensor {
  const axes = letters.flatMap((letter, axis) => (kept.includes(letter) ? [] : [axis]));
  return axes.length === 0 ? x : sum(x, { axes });
}

function arrange(x: Tensor, from: readonly string[], to: readonly string[]): Tensor {
  return transpose(
    x,
    to.map((letter) => from.indexOf(letter)),
  );
}
