/** Train on 74 intents, learn three more from five examples each, and see why. `node examples/dist/learn-new-class.js` */
import { fileURLToPath } from 'node:url';
import { readTable, train } from 'fewtune';

const file = (name: string) => fileURLToPath(new URL(`../data/banking77/${name}`, import.meta.url));
const data = await readTable(file('train_5.csv'));
const test = await readTable(file('test_10.csv'), { purpose: 'test' });
const later = ['card_swallowed', 'lost_or_stolen_phone', 'exchange_rate'];

const rows = [...data.labels.keys()].filter((row) => !later.includes(data.labels[row]!));
const pick = <T>(values: readonly T[]) => rows.map((row) => values[row]!);
const first = {
  ...data,
  texts: pick(data.texts),
  labels: pick(data.labels),
  lines: pick(data.lines),
  classes: data.classes.filter((name) => !later.includes(name)),
};

await using model = await train(first, { method: 'linear' }).result;
console.log(`trained on ${model.labels.length} classes: ${await right(later)} of the later classes' test rows right`);
for (const label of later) {
  const examples = data.texts.filter((_, row) => data.labels[row] === label);
  const { added, heldOut, seconds } = await model.learn(label, examples);
  const kept = heldOut && `${heldOut.right} of ${heldOut.examples} right when held out`;
  console.log(`learned ${label} from ${added} examples in ${seconds.toFixed(2)} s, ${kept}`);
}
console.log(
  `now ${model.labels.length} classes: ${await right(later)} of the later right, ${await right(model.labels)} of all`,
);

const [prediction] = await model.predict(['the machine ate my card and will not give it back'], { explain: 3 });
console.log(`${prediction!.label}, ${(100 * prediction!.confidence).toFixed(0)} % sure, because of`);
for (const { similarity, label, text } of prediction!.nearest!)
  console.log(`  ${similarity.toFixed(2)} ${label}: ${text}`);

async function right(classes: readonly string[]): Promise<string> {
  const asked = [...test.labels.keys()].filter((row) => classes.includes(test.labels[row]!));
  const predictions = await model.predict(asked.map((row) => test.texts[row]!));
  const hits = predictions.filter(({ label }, i) => label === test.labels[asked[i]!]).length;
  return `${((100 * hits) / asked.length).toFixed(1)} %`;
}
