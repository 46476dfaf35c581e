/** Runs in Chromium, bundled by bench/lib/chromium.ts: the small transformer's step and its matrix products on wasm. */
import type { Contender } from '../../lib/contender.js';
import { productsContender } from './matrix-products.js';
import { transformer } from './small-models.js';
import { smallStep } from './small-step.js';

export interface PageRequest {
  readonly what: 'step' | 'products';
  readonly count: number;
  readonly threads: number;
}

const opened = new Map<string, Promise<Contender>>();

/** Milliseconds of `count` runs; what is timed is opened by its first request. */
export async function main({ what, count, threads }: PageRequest): Promise<readonly number[]> {
  const session = { backend: 'wasm', threads } as const;
  const open = () =>
    what === 'step' ? smallStep(transformer(), session) : productsContender(transformer().products, session);
  const known = opened.get(what) ?? open();
  opened.set(what, known);
  return (await known).time(count);
}
