import { existsSync } from 'node:fs';
import path from 'node:path';
import { findChromium, openChromium, type Page } from '../../lib/chromium.js';
import { type Contender, PeerFailed, type Rival } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { repository } from '../../lib/paths.js';
import { row } from '../../lib/report.js';
import type { PageRequest } from './page.js';
import type { Part } from './part.js';
import { transformer } from './small-models.js';
import { smallStep } from './small-step.js';

const browserThreads = 2;

/** A transformer step in headless Chromium on wasm against its matrix products there, Node, and the JavaScript peers there. */
export const browser: Part = {
  name: 'browser',
  async run({ quick, peers }) {
    const model = transformer();
    const what = `${model.what}, Chromium, wasm, ${browserThreads} threads`;
    if (!findChromium()) {
      const note = 'not run: there is no Chromium; install it or name it in FEWTUNE_CHROMIUM';
      return [row({ what, ours: null, unit: 'ms', target: '<= 1.5x peer', peerName: 'its matrix products', note })];
    }
    const pages = [await openChromium(path.join(repository, 'bench/seed/engine/page.ts'))];
    const [page] = pages as [Page];
    const peerFile = path.join(repository, 'bench/peers/js/page.mjs');
    const installed = peers && existsSync(path.join(repository, 'bench/peers/js/node_modules'));
    const inBrowser = async (peer: 'tfjs' | 'jax-js', name: string): Promise<Rival> => {
      if (!installed) return { name, target: null, note: 'peer not run: npm ci --prefix bench/peers/js' };
      const own = await openChromium(peerFile);
      pages.push(own);
      const time = async (count: number) => {
        try {
          return await own.run<number[]>({ peer, count, threads: browserThreads });
        } catch (error) {
          throw new PeerFailed(error instanceof Error ? error.message.split('\n')[0] : String(error));
        }
      };
      return { name, target: null, contender: { name, time, close: async () => {} } };
    };
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
          await inBrowser('tfjs', 'TensorFlow.js wasm, tuned, Chromium'),
          await inBrowser('jax-js', 'jax-js wasm, Chromium'),
        ],
        rounds: quick ? 2 : 5,
        runs: quick ? 2 : 5,
      });
    } finally {
      for (const open of pages) await open.close();
    }
  },
};
