import type { Benchmark } from '../lib/bench.js';
import { Unavailable } from '../lib/paths.js';
import type { Row } from '../lib/report.js';
import type { Part } from './engine/part.js';
import { contextOf, finished } from './engine.js';
import { distances } from './omniglot/distances.js';
import { lake } from './omniglot/lake.js';
import { methods } from './omniglot/methods.js';

const parts: readonly Part[] = [methods, lake, distances];

export const omniglotParts: readonly string[] = parts.map(({ name }) => name);

/** Few-shot learning on images: Omniglot as the repository brendenlake/omniglot has it in its minimal sets. */
export const omniglot: Benchmark = {
  name: 'omniglot',
  about: 'few-shot learning of characters beside learn2learn and easyfsl, Lake’s one-shot runs, distances',
  async run(options) {
    const unknown = options.only?.find((name) => !omniglotParts.includes(name));
    if (unknown !== undefined) {
      throw new Unavailable(`omniglot has no part "${unknown}"; it has ${omniglotParts.join(', ')}`);
    }
    const context = await contextOf(options);
    const rows: Row[] = [];
    for (const part of parts.filter(({ name }) => options.only?.includes(name) ?? true)) {
      rows.push(...(await finished(part, context, 'omniglot')));
    }
    return { rows, seeds: [1, 2, 7] };
  },
};
