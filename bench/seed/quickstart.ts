import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Benchmark, say } from '../lib/bench.js';
import { runNode } from '../lib/child.js';
import { repository } from '../lib/paths.js';
import { row } from '../lib/report.js';

/** Wall time of what a newcomer runs first, with no cached features. */
export const quickstart: Benchmark = {
  name: 'quickstart',
  about: 'seconds of the quickstart, and of `train --method prototype` on its sample',
  async run({ quick }) {
    const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
    try {
      const [train, test] = ['train_5.csv', 'test_10.csv'].map((name) =>
        path.join(repository, 'examples/data/banking77', name),
      ) as [string, string];
      const columns = ['--text', 'text', '--label', 'category', '--test', test];
      const cli = path.join(repository, 'packages/fewtune/dist/cli/main.js');
      // Each in an empty folder with an empty cache: nothing is known from an earlier run.
      const fresh = (name: string) => {
        const cwd = path.join(folder, name);
        mkdirSync(cwd);
        return { cwd, env: { FEWTUNE_CACHE: path.join(cwd, 'cache') } };
      };
      say('train --method prototype on the sample');
      const prototype = await runNode(
        [cli, 'train', train, ...columns, '--method', 'prototype', '--out', 'model', '--json'],
        fresh('prototype'),
      );
      const rows = [
        row({
          what: 'train --method prototype, sample of Banking77',
          ours: prototype.seconds,
          unit: 's',
          target: '<= 10',
          note: 'whole command, process start and saving included',
        }),
      ];
      if (!quick) {
        say('the quickstart');
        const whole = await runNode([path.join(repository, 'examples/dist/quickstart.js')], fresh('quickstart'));
        rows.push(
          row({
            what: 'npm run quickstart, after install and build',
            ours: whole.seconds,
            unit: 's',
            target: '<= 150',
          }),
          row({ what: 'quickstart: peak memory', ours: whole.peakBytes / 1e9, unit: 'GB', target: null }),
        );
      }
      return { rows, seeds: [] };
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
