import path from 'node:path';
import { findChromium, openChromium } from '../../lib/chromium.js';
import type { Contender } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { repository } from '../../lib/paths.js';
import { row } from '../../lib/report.js';
import type { PageRequest } from './page.js';
import type { Part } from './part.js';
import { transformer } from './small-models.js';
import { smallStep } from './small-step.js';

const browserThreads = 2;

/** A transformer step in headless Chromium on wasm against its matrix products there, and against Node. */
export const browser: Part = {
  name: 'browser',
  async run({ quick }) {
    const model = transformer();
    const what = `${model.what}, Chromium, wasm, ${browserThreads} threads`;
    if (!findChromium()) {
      const note = 'not run: there is no Chromium; install it or name it in FEWTUNE_CHROMIUM';
      return [row({ what, ours: null, unit: 'ms', target: '<= 1.5x peer', peerName: 'its matrix products', note })];
    }
    const page = await openChromium(path.join(repository, 'bench/seed/engine/page.ts'));
    const inPage = (what: PageRequest['what'], name: string): Contender => ({
      name,
      time: (count) => page.run<number[]>({ what, count, threads: browserThreads } satisfies PageRequest),
      close: async () => {},
    });
    try {
      return await contest({
        what,
        ours: inPage('step', 'Fewtune, Chromium'),
        products: { contender: inPage('products', 'its matrix products'), target: '<= 1.5x peer' },
        rivals: [
          {
            name: 'Fewtune, Node',
            target: '<= 5x peer',
            contender: await smallStep(model, { threads }, 'Fewtune, Node'),
          },
        ],
        rounds: quick ? 2 : 5,
        runs: quick ? 2 : 5,
      });
    } finally {
      await page.close();
    }
  },
};
