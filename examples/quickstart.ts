// The main job on a small sample: read labelled sentences, race the methods, keep the best, use it, save it.
// Run with `npm run quickstart`. Uses only what the package `fewtune` exports.
import { describeData, describeReport, load, profile, readTable, table, train } from 'fewtune';

const started = performance.now();
const here = new URL('../data/banking77/', import.meta.url).pathname; // this file runs from examples/dist
const columns = { text: 'text', label: 'category' };
const data = await readTable(`${here}train_5.csv`, columns);
const test = await readTable(`${here}test_10.csv`, { ...columns, purpose: 'test' });
console.log('Banking77: which of 77 things does a customer want?');
console.log(`${describeData(profile(data))}\n`);

const run = train(data, { method: 'auto', test, seed: 7, budget: 125 });
let shown = '';
for await (const { stage, metrics, elapsedMs } of run) {
  const now = `${stage} ${metrics.method ?? ''}`;
  if (now !== shown) console.error(`${(elapsedMs / 1000).toFixed(0).padStart(4)} s  ${now}`);
  shown = now;
}
const model = await run.result;
console.log(`\n${describeReport(model.report)}\n`);

const folder = 'models/banking77';
await model.save(folder);
await model.dispose();

const restored = await load(folder); // sizes and hashes of all files are verified
const sentences = [
  'the machine swallowed my card and will not give it back',
  'why was I charged twice for the same coffee?',
  'how do I get some euros onto my account from my other bank?',
  'my new card has still not come',
  'what a lovely day',
];
const predictions = await restored.predict(sentences);
const rows = predictions.map(({ label, confidence }, i) => [
  label,
  `${(100 * confidence).toFixed(0)} %`,
  sentences[i]!,
]);
console.log(table(['label', 'confidence', 'sentence'], rows));
await restored.dispose();

console.log(`\nSaved in ${folder}: read its README.md, or label more text with`);
console.log(`  npx fewtune predict ${folder} "I lost my phone, what now?"`);
console.log(`${((performance.now() - started) / 1000).toFixed(0)} s in all`);
