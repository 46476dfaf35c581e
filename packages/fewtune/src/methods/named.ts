/** Maps from names to tensors, specs or values. */
import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../errors.js';

export const mapValues = <T, U>(values: Named<T>, change: (value: T, name: string) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value, name)]));

/** `{ a }` → `{ 'word/a' }` */
export const prefixed = <T>(word: string, values: Named<T>): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${word}/${name}`, value]));

/** `{ 'word/a', 'other/b' }` → `{ a }` */
export const under = <T>(word: string, values: Named<T>): Record<string, T> =>
  Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) =>
      name.startsWith(`${word}/`) ? [[name.slice(word.length + 1), value]] : [],
    ),
  );

/** @throws FewtuneError OPTION_INVALID when names or shapes are not those wanted; `whose` says of what, as in "this model" */
export function checkStart(start: Named<HostTensor>, fresh: Named<HostTensor>, whose: string): void {
  const shapeOf = (tensor?: HostTensor) => (tensor ? `[${tensor.shape.join(', ')}]` : 'missing');
  for (const name of new Set([...Object.keys(fresh), ...Object.keys(start)])) {
    const [given, wanted] = [shapeOf(start[name]), shapeOf(fresh[name])];
    if (given === wanted) continue;
    const what = wanted === 'missing' ? `and ${whose} have no such tensor` : `it must be ${wanted}`;
    throw new FewtuneError('OPTION_INVALID', `start: "${name}" is ${given}, ${what}.`);
  }
}
