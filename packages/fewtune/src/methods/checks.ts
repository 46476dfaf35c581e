/** Refusals that several learners share. */
import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../errors.js';

/** @throws FewtuneError OPTION_INVALID */
export function checkCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new FewtuneError('OPTION_INVALID', `${name} is ${value}; it must be a whole number of at least ${least}.`);
}

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
