/** Maps from names to tensors, specs or values. */
import type { Named } from '@fewtune/engine';

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
