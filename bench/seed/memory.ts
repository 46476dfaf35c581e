import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Benchmark, say } from '../lib/bench.js';
import { runNode } from '../lib/child.js';
import { repository } from '../lib/paths.js';
import { row } from '../lib/report.js';
import { generator } from '../lib/statistics.js';
import { type Labelled, writeCsv } from '../lib/table-file.js';

/** Peak resident memory of `fewtune train --method linear` on many sentences, in a process of its own. */
export const memory: Benchmark = {
  name: 'memory',
  about: 'peak memory of `fewtune train --method linear` on 10 000 sentences of 30 words',
  async run({ quick }) {
    const sentences = quick ? 600 : 10_000;
    const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
    try {
      const file = path.join(folder, 'sentences.csv');
      writeFileSync(file, writeCsv(syntheticSentences(sentences, 30, 20)));
      say(`training on ${sentences} sentences of 30 words`);
      const cli = path.join(repository, 'packages/fewtune/dist/cli/main.js');
      const args = [cli, 'train', file, '--text', 'text', '--label', 'category', '--method', 'linear'];
      const { peakBytes, seconds } = await runNode([...args, '--out', path.join(folder, 'model'), '--json'], {
        env: { FEWTUNE_CACHE: path.join(folder, 'cache') }, // nothing is known from an earlier run
      });
      const what = `train --method linear, ${sentences} sentences of 30 words`;
      const note = '20 classes, cross-validated, peak resident memory of the process';
      return {
        rows: [
          row({ what: `${what}: peak memory`, ours: peakBytes / 1e9, unit: 'GB', target: '< 1.5', note }),
          row({
            what: `${what}: time`,
            ours: seconds,
            unit: 's',
            target: null,
            note: 'whole command, no cached features',
          }),
        ],
        seeds: [1],
      };
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

const words =
  `account address answer application balance bank bill branch business button calendar call card cash change
charge claim client code company computer contract cost country credit customer day delay delivery deposit detail device
discount document door email employee error fee file form friend fund garden group home hotel hour house idea insurance
interest internet invoice issue item job key language letter limit loan location machine mail manager market message
minute mobile money month morning name network news note number office online option order package page parcel passport
password payment person phone picture plan policy price problem product profile question rate reason receipt refund
report request result road room sale school screen service shop signal site store street summer support system team
term ticket time total town train transfer travel trip update user value visit wallet water website week window word
work world year`.split(/\s+/);

/** Sentences in which half the words come from the class's own ten, so that there is something to learn. */
function syntheticSentences(count: number, length: number, classes: number): Labelled {
  const random = generator(1);
  const pick = (from: readonly string[]) => from[Math.floor(random() * from.length)]!;
  const own = Array.from({ length: classes }, () => Array.from({ length: 10 }, () => pick(words)));
  const sentence = (topic: readonly string[]) =>
    Array.from({ length }, () => pick(random() < 0.5 ? topic : words)).join(' ');
  return {
    texts: Array.from({ length: count }, (_, index) => sentence(own[index % classes]!)),
    labels: Array.from({ length: count }, (_, index) => `class ${index % classes}`),
  };
}
