import type { Benchmark, Options } from '../lib/bench.js';
import { Unavailable } from '../lib/paths.js';
import { peersPython } from '../lib/peers.js';
import type { Row } from '../lib/report.js';
import { accuracyRows } from './peft/accuracy.js';
import { cachedRows } from './peft/cached.js';
import { quantisedRows } from './peft/quantised.js';
import { residentRows } from './peft/resident.js';

type PeftPart = (options: Options, python?: string) => Promise<Row[]>;

const parts: Readonly<Record<string, PeftPart>> = {
  financial: accuracyRows('Financial sentiment'),
  'ag-news': accuracyRows('AG News'),
  banking77: accuracyRows('Banking77'),
  cached: cachedRows,
  resident: residentRows,
  quantised: quantisedRows,
};

export const peftParts: readonly string[] = Object.keys(parts);

/** Fine-tuning of MiniLM: LoRA beside full fine-tuning and Python's peft, and what adapters and caches cost and save. */
export const peft: Benchmark = {
  name: 'peft',
  about: 'LoRA beside full fine-tuning and Python peft: accuracy, seconds, memory',
  async run(options) {
    const unknown = options.only?.find((name) => !parts[name]);
    if (unknown !== undefined) throw new Unavailable(`peft has no part "${unknown}"; it has ${peftParts.join(', ')}`);
    const python = options.peers && !options.quick ? peersPython() : undefined;
    const rows: Row[] = [];
    for (const [name, part] of Object.entries(parts)) {
      if (options.only?.includes(name) ?? true) rows.push(...(await part(options, python)));
    }
    return { rows, seeds: [0, 1, 2, 3, 4] };
  },
};
