/** Meta-learning in a minute: three classes whose places differ from task to task. `node examples/dist/meta-learning.js` */
import { hostTensor } from '@fewtune/engine';
import { Maml, type MetaTask, mlp } from 'fewtune';

const rows = (centres: number[], each: number) => {
  const y = centres.flatMap((_, way) => Array<number>(each).fill(way));
  const x = y.flatMap((way, i) => [centres[way]! + Math.sin(i * 7.3) / 4, Math.cos(i * 3.1)]);
  return { x: hostTensor('float32', [y.length, 2], x), y: hostTensor('int64', [y.length], y) };
};
const task = (shift: number): MetaTask => {
  const centres = [Math.sin(shift) * 2, Math.sin(shift) * 2 + 1.5, Math.sin(shift) * 2 - 1.5];
  return { support: rows(centres, 2), query: rows(centres, 5) };
};
const batches = Array.from({ length: 100 }, (_, i) => [task(i), task(i + 0.5)]);

const model = mlp({ inputs: 2, hidden: [16], outputs: 3 });
await using maml = new Maml({ model, innerLr: 0.1, innerSteps: 3, metaLr: 0.01 });
const unseen = Array.from({ length: 20 }, (_, i) => task(i + 0.25));
console.log(`before: ${await accuracy()} of the queries right after three steps on six examples`);
for await (const { step, loss } of maml.metaTrain(batches, { epochs: 3 })) {
  if (step % 100 === 0) console.log(`step ${step}: loss ${loss.toFixed(3)}`);
}
console.log(`after: ${await accuracy()}, on tasks that were never trained on`);

async function accuracy(): Promise<string> {
  let right = 0;
  let all = 0;
  for (const { support, query } of unseen) {
    const adapted = await maml.adapt({ support });
    const { data } = await adapted.predict(query.x); // [15, 3]
    for (const [row, label] of (query.y.data as BigInt64Array).entries()) {
      const scores = (data as Float32Array).subarray(3 * row, 3 * row + 3);
      if (scores.indexOf(Math.max(...scores)) === Number(label)) right++;
      all++;
    }
  }
  return `${((100 * right) / all).toFixed(1)} %`;
}
