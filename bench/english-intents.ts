import { readFileSync } from 'node:fs';
import { type ClassFold, classFolds, metaTrainEncoder, type SplitName, type TextDataset } from 'fewtune';
import { dataFile } from './lib/paths.js';
import { type Labelled, readLabelled } from './lib/table-file.js';

/**
 * Builds the start for English intents: the embedded encoder, meta-trained on the training classes of CLINC150 (CC BY 3.0)
 * and Banking77 (CC BY 4.0), fold 01 of both. Their validation classes choose what is kept, their test classes measure it.
 *
 *     npm run english-intents [folder]
 */
const out = process.argv[2] ?? 'starts/english-intents';
const parts: Readonly<Record<SplitName, string[]>> = { train: [], validation: [], test: [] };
const texts: string[] = [];
const labels: string[] = [];

for (const { name, rows } of [
  { name: 'clinc150', rows: [readLabelled(dataFile('clinc150/clinc150.csv'), 'text', 'intent')] },
  {
    name: 'banking77',
    rows: ['train', 'test'].map((part) => readLabelled(dataFile(`banking77/${part}.csv`), 'text', 'category')),
  },
]) {
  const own = (label: string) => `${name}/${label}`; // both have an exchange_rate
  const joined: Labelled = { texts: rows.flatMap((part) => part.texts), labels: rows.flatMap((part) => part.labels) };
  texts.push(...joined.texts);
  labels.push(...joined.labels.map(own));
  const folds = classFolds(JSON.parse(readFileSync(dataFile(`${name}/class_folds.json`), 'utf8')), [
    ...new Set(joined.labels),
  ]);
  const fold = folds.get('01')!;
  for (const part of ['train', 'validation', 'test'] as const) parts[part].push(...fold[part].map(own));
}
const data: TextDataset = {
  source: 'CLINC150 (CC BY 3.0) and Banking77 (CC BY 4.0)', // stands in the start's card, which goes where the start goes
  texts,
  labels,
  lines: texts.map((_, row) => row + 1),
  classes: [...new Set(labels)].sort(),
  repairs: [],
};

const run = metaTrainEncoder(data, { fold: parts satisfies ClassFold });
for await (const { stage, fraction, metrics } of run) {
  const shown = Object.entries(metrics).map(
    ([name, value]) => `${name} ${typeof value === 'number' ? Number(value.toPrecision(4)) : value}`,
  );
  process.stderr.write(`${(100 * fraction).toFixed(0)} % ${stage} ${shown.join(', ')}\n`);
}
const start = await run.result;
await start.save(out);
for (const { on, classes, before, after } of start.report.measured) {
  console.log(
    `${on}: ${classes} classes, plain prototypes ${(100 * before).toFixed(2)} % → ${(100 * after).toFixed(2)} %`,
  );
}
console.log(`saved ${out}; its classes are of CLINC150 (CC BY 3.0) and Banking77 (CC BY 4.0)`);
