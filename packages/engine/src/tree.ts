/** A value, or values nested in arrays and records: how parameters, batches and results are passed. */
export type Tree<T> = T | readonly Tree<T>[] | { readonly [key: string]: Tree<T> };

type IsLeaf<T> = (value: unknown) => value is T;

/** Every leaf with its path (`layer/weight`), in the order in which records list their keys. */
export function leaves<T>(tree: Tree<T>, isLeaf: IsLeaf<T>, path = ''): [path: string, leaf: T][] {
  if (isLeaf(tree)) return [[path, tree]];
  if (tree === null || typeof tree !== 'object') {
    throw new TypeError(
      `${path || 'the value'} is ${tree === null ? 'null' : typeof tree}, not a tensor or a record of tensors`,
    );
  }
  return Object.entries(tree as Record<string, Tree<T>>).flatMap(([key, value]) =>
    leaves(value, isLeaf, path === '' ? key : `${path}/${key}`),
  );
}

/** The same tree with every leaf replaced. */
export function mapTree<T, U>(
  tree: Tree<T>,
  isLeaf: IsLeaf<T>,
  replace: (leaf: T, path: string) => U,
  path = '',
): Tree<U> {
  if (isLeaf(tree)) return replace(tree, path);
  const child = (key: string) => (path === '' ? key : `${path}/${key}`);
  if (Array.isArray(tree)) return tree.map((value, i) => mapTree(value as Tree<T>, isLeaf, replace, child(String(i))));
  return Object.fromEntries(
    Object.entries(tree as Record<string, Tree<T>>).map(([key, value]) => [
      key,
      mapTree(value, isLeaf, replace, child(key)),
    ]),
  );
}
