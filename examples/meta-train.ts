/** Meta-train on 55 old intents, then learn 22 new ones from five examples each, with and without that start. `node examples/dist/meta-train.js` */
import { fileURLToPath } from 'node:url';
import { metaTrainEncoder, openMetaTrained, readTable, splitClasses, type TextDataset, train } from 'fewtune';

const file = (name: string) => fileURLToPath(new URL(`../data/banking77/${name}`, import.meta.url));
const five = await readTable(file('train_5.csv'));
const ten = await readTable(file('test_10.csv'), { purpose: 'test' });
const fold = splitClasses(five.classes, { train: 40, validation: 15, test: 22 }, 7);
const [old, later] = [[...fold.train, ...fold.validation], fold.test];

const folder = 'starts/banking';
const known = joined(of(five, old), of(ten, old)); // fifteen examples of each old intent
const run = metaTrainEncoder(known, { fold: { train: fold.train, validation: fold.validation } });
for await (const { stage, metrics } of run) {
  if (stage === 'train' && Number(metrics.step) % 30 === 0) console.log(metrics);
}
await (await run.result).save(folder);

const start = await openMetaTrained(folder);
console.log(start.report.measured);
for (const from of [undefined, start]) {
  const options = { method: 'prototype', test: of(ten, later), ...(from && { from }) } as const;
  await using model = await train(of(five, later), options).result;
  const { accuracy, accuracyInterval } = model.report.metrics;
  const [low, high] = accuracyInterval.map((value) => (100 * value).toFixed(1));
  const name = from ? `from ${folder}` : 'frozen encoder';
  console.log(`${name}: ${(100 * accuracy).toFixed(1)} % of 22 new intents (95 % interval ${low} to ${high})`);
}

/** The rows of some classes. */
function of(table: TextDataset, classes: readonly string[]): TextDataset {
  const rows = [...table.labels.keys()].filter((row) => classes.includes(table.labels[row]!));
  const pick = <T>(values: readonly T[]) => rows.map((row) => values[row]!);
  const { texts, labels, lines } = table;
  return { ...table, texts: pick(texts), labels: pick(labels), lines: pick(lines), classes: [...classes].sort() };
}

function joined(a: TextDataset, b: TextDataset): TextDataset {
  const { texts, labels, lines } = b;
  return { ...a, texts: [...a.texts, ...texts], labels: [...a.labels, ...labels], lines: [...a.lines, ...lines] };
}
