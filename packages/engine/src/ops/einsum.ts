import type { Dim } from '../dims.js';
import { product, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { sum } from './arithmetic.js';
import { matMul } from './matmul.js';
import { reshape, transpose } from './shape.js';

/**
 * Sums of products by index letters, of one or two tensors: `einsum('bhqd,bhkd->bhqk', q, k)`. It is written as
 * transposes around one matrix product. A letter may stand once in an operand, and an ellipsis is not understood.
 *
 * @throws EngineError ARGUMENT_INVALID, SHAPE_MISMATCH
 */
export function einsum(equation: string, ...operands: Tensor[]): Tensor {
  const [left, right] = equation.replaceAll(' ', '').split('->');
  const terms = left!.split(',').map((term) => [...term]);
  const fits =
    right !== undefined &&
    terms.length === operands.length &&
    operands.length <= 2 &&
    terms.every((term, i) => term.length === operands[i]!.rank && new Set(term).size === term.length) &&
    [...right].every((letter) => terms.some((term) => term.includes(letter)));
  if (!fits) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `einsum: "${equation}" does not describe ${operands.map(({ shape }) => showShape(shape)).join(' and ')}`,
    );
  }
  const sizes = sizesOf(equation, terms, operands);
  const result = [...right];
  if (operands.length === 1)
    return arrange(
      reduceTo(operands[0]!, terms[0]!, result),
      terms[0]!.filter((l) => result.includes(l)),
      result,
    );

  const [a, b] = terms as [string[], string[]];
  const needed = (own: string[], other: string[]) =>
    own.filter((letter) => other.includes(letter) || result.includes(letter));
  const [keptA, keptB] = [needed(a, b), needed(b, a)];
  const [x, y] = [reduceTo(operands[0]!, a, keptA), reduceTo(operands[1]!, b, keptB)];
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
