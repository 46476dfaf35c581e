import { parseArgs } from 'node:util';
import type { Benchmark, Options } from './lib/bench.js';
import { describeMachine } from './lib/machine.js';
import { Unavailable } from './lib/paths.js';
import { markdown, type Report, table } from './lib/report.js';
import { banking77 } from './seed/banking77.js';
import { encoder } from './seed/encoder.js';
import { engine, engineParts } from './seed/engine.js';
import { fewshot, fewshotParts } from './seed/fewshot.js';
import { fewshotProduct } from './seed/fewshot-product.js';
import { fewshotSpeed } from './seed/fewshot-speed.js';
import { memory } from './seed/memory.js';
import { omniglot, omniglotParts } from './seed/omniglot.js';
import { peft, peftParts } from './seed/peft.js';
import { quickstart } from './seed/quickstart.js';

const benchmarks: readonly Benchmark[] = [
  banking77,
  engine,
  memory,
  quickstart,
  encoder,
  fewshot,
  fewshotProduct,
  fewshotSpeed,
  omniglot,
  peft,
];

const usage = `npm run bench -- <name|all> [options]

${benchmarks.map(({ name, about }) => `  ${name.padEnd(16)}${about}`).join('\n')}

  --json            one JSON document on stdout (use npm run -s)
  --markdown        the table as bench/README.md keeps it
  --quick           a smoke run of under a minute
  --resume          reuse finished parts from bench/results
  --no-peers        without the Python peers; --full-peers: those that take half an hour too
  --only a,b        parts of engine: ${engineParts.join(', ')}
                    parts of fewshot: ${fewshotParts.join(', ')}
                    parts of omniglot: ${omniglotParts.join(', ')}
                    parts of peft: ${peftParts.join(', ')}
  --methods a,b     --shots 5,10     --draws n     parts of banking77
  --methods 'full fine-tuning,top layer'               arms of peft's part cached
`;

const list = (value?: string) => value?.split(',').map((part) => part.trim());

async function run(benchmark: Benchmark, options: Options): Promise<Report> {
  const began = performance.now();
  const { rows, seeds } = await benchmark.run(options);
  const smoke = (row: Report['rows'][number]) => ({ ...row, note: row.note ? `quick · ${row.note}` : 'quick' });
  return {
    bench: benchmark.name,
    date: new Date().toISOString().slice(0, 10),
    command: [
      'npm run bench --',
      ...process.argv.slice(2).filter((arg) => !['--markdown', '--json'].includes(arg)),
    ].join(' '),
    machine: describeMachine(),
    seeds,
    seconds: (performance.now() - began) / 1000,
    rows: options.quick ? rows.map(smoke) : rows,
  };
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    allowNegative: true,
    options: {
      json: { type: 'boolean', default: false },
      markdown: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      resume: { type: 'boolean', default: false },
      peers: { type: 'boolean', default: true },
      'full-peers': { type: 'boolean', default: false },
      only: { type: 'string' },
      methods: { type: 'string' },
      shots: { type: 'string' },
      draws: { type: 'string' },
    },
  });
  const options: Options = {
    quick: values.quick,
    resume: values.resume,
    peers: values.peers,
    fullPeers: values['full-peers'],
    only: list(values.only),
    methods: list(values.methods),
    shots: list(values.shots)?.map(Number),
    draws: values.draws === undefined ? undefined : Number(values.draws),
  };
  const wanted = benchmarks.filter(({ name }) => positionals.includes(name) || positionals.includes('all'));
  const unknown = positionals.filter((name) => name !== 'all' && !benchmarks.some((known) => known.name === name));
  if (wanted.length === 0 || unknown.length > 0) {
    if (unknown.length > 0) process.stderr.write(`no benchmark is called ${unknown.join(', ')}\n\n`);
    process.stderr.write(usage);
    return positionals.length === 0 ? 0 : 2;
  }
  const reports: Report[] = [];
  for (const benchmark of wanted) {
    const report = await run(benchmark, options);
    reports.push(report);
    if (!values.json) process.stdout.write(`${(values.markdown ? markdown : table)(report)}\n\n`);
  }
  if (values.json) process.stdout.write(`${JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2)}\n`);
  return 0;
}

process.exitCode = await main().catch((error) => {
  if (!(error instanceof Unavailable)) throw error;
  process.stderr.write(`${error.message}\n`);
  return 2;
});
