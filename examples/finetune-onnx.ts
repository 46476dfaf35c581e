// Any ONNX file is a differentiable function: open one, insert LoRA, train it, write it back, run it anywhere.
// Run with `npm run build && node examples/dist/finetune-onnx.js [model.onnx]`. Without a file it makes one from the
// embedded sentence encoder: ids and mask in, one vector a sentence out.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import {
  adamW,
  constant,
  constantRate,
  crossEntropy,
  exportOnnx,
  type HostTensor,
  hostTensor,
  insertLora,
  l2Normalize,
  matMul,
  mergeLora,
  openOnnx,
  readOnnxModel,
  saveOnnx,
  trainStep,
  zeros,
} from '@fewtune/engine';
import { type Encoder, encode, loadEncoder, padBatch, pool } from '@fewtune/models';

const here = new URL('../data/banking77/', import.meta.url).pathname; // this file runs from examples/dist
const encoder = await loadEncoder();
await mkdir('models', { recursive: true });
const given = process.argv[2];
const file = given ?? 'models/encoder.onnx';
if (!given) await writeFile(file, sentenceEncoder(encoder));

// 1. Open it: inputs and weights by name.
const model = await readOnnxModel(file);
console.log(`${file}: inputs ${Object.keys(model.inputs).join(', ')}; ${Object.keys(model.weights).length} weights`);
const [idsName, maskName] = Object.keys(model.inputs) as [string, string];
const [outputName] = Object.keys(model.outputs) as [string];

// 2. Adapters at the products of the last two layers (of a file we do not know, at all of them). Everything else is
// frozen, and below the lowest adapter nothing is differentiated.
const targets = given ? '*' : /layer\.[45]\./;
const tuned = insertLora(model, { targets, rank: 8, alpha: 16, seed: 1 });
const { params, frozen } = tuned.split();
const count = (tensors: Record<string, HostTensor>) =>
  Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0);
console.log(`trained ${count(params)}, frozen ${count(frozen)} numbers`);

// 3. Eight intents of a bank's customers that are easily confused, five sentences of each; a class is the direction of
// its row in `head`.
const classes = 8;
const train = await rows('train_5.csv');
const test = await rows('test_10.csv');
const labels = [...new Set(train.map(({ label }) => label).filter((label) => label.includes('card')))].slice(
  0,
  classes,
);
const chosen = train.filter(({ label }) => labels.includes(label));
const step = await trainStep({
  params: { ...params, head: zeros('float32', [classes, 384]) },
  frozen,
  batch: {
    ids: { dtype: 'int64', shape: ['batch', 'seq'] },
    mask: { dtype: 'int64', shape: ['batch', 'seq'] },
    target: { dtype: 'int64', shape: ['batch'] },
  },
  optimizer: adamW(),
  schedule: constantRate(2e-3),
  loss: ({ head, ...weights }, { frozen, batch: { ids, mask, target } }) => {
    const inputs = { [idsName]: ids, [maskName]: mask };
    const vectors = tuned.apply({ weights: { ...frozen, ...weights }, inputs })[outputName]!;
    return crossEntropy(matMul(vectors, head!, { transposeB: true, alpha: 20 }), target);
  },
});
const batch = {
  ...tokens(chosen.map(({ text }) => text)),
  target: hostTensor(
    'int64',
    [chosen.length],
    chosen.map(({ label }) => labels.indexOf(label)),
  ),
};
const started = performance.now();
for (let i = 0; i < 15; i++) {
  const { loss } = await step.run(batch);
  if (i % 5 === 0 || i === 14) console.log(`step ${i}: loss ${loss.toFixed(3)}`);
}
console.log(`${((performance.now() - started) / 1000).toFixed(1)} s of training`);
const { head: _, ...trained } = await step.params();
await step.dispose();

// 4. The adapters go into the weights, and the file is the old graph with other numbers in it.
const written = 'models/encoder-finetuned.onnx';
await saveOnnx(written, model, mergeLora(tuned, trained));

// 5. Any runtime opens it. The nearest class by mean vector, before and after:
for (const path of [file, written]) console.log(`${path}: ${(100 * (await accuracy(path))).toFixed(0)} % right`);

async function accuracy(path: string): Promise<number> {
  const session = await openOnnx(path);
  const vectors = async (texts: string[]) => {
    const { ids, mask } = tokens(texts);
    const { [outputName]: output } = await session.run({ [idsName]: ids, [maskName]: mask });
    const data = output!.data as Float32Array;
    return texts.map((_, i) => data.subarray(i * 384, (i + 1) * 384));
  };
  const known = await vectors(chosen.map(({ text }) => text));
  const asked = test.filter(({ label }) => labels.includes(label));
  const found = await vectors(asked.map(({ text }) => text));
  await session.dispose();
  const score = (vector: Float32Array, label: string) =>
    known.reduce((sum, own, i) => (chosen[i]!.label === label ? sum + dot(own, vector) : sum), 0);
  const right = asked.filter(({ label }, i) =>
    labels.every((other) => score(found[i]!, label) >= score(found[i]!, other)),
  );
  return right.length / asked.length;
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function tokens(texts: string[]): { ids: HostTensor; mask: HostTensor } {
  const { inputIds, attentionMask } = padBatch(
    texts.map((text) => encoder.tokenizer.encode(text)),
    encoder.tokenizer.padId,
  );
  return { ids: inputIds, mask: attentionMask };
}

/** The two columns of a CSV file whose texts may be quoted. */
async function rows(name: string): Promise<{ text: string; label: string }[]> {
  const lines = (await readFile(`${here}${name}`, 'utf8')).trim().split('\n').slice(1);
  return lines.flatMap((line) => {
    const found = /^(?:"((?:[^"]|"")*)"|([^",]*)),(.*?)\r?$/.exec(line);
    return found ? [{ text: (found[1] ?? found[2]!).replaceAll('""', '"'), label: found[3]! }] : [];
  });
}

function sentenceEncoder({ config, weights, pooling }: Encoder): Uint8Array {
  const spec = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  return exportOnnx(
    ({ input_ids, attention_mask }) => {
      const named = Object.fromEntries(Object.entries(weights).map(([name, w]) => [name, constant(w, name)]));
      const hidden = encode(config, named, { inputIds: input_ids!, attentionMask: attention_mask! });
      return { embedding: l2Normalize(pool(hidden, attention_mask!, pooling)) };
    },
    { input_ids: spec, attention_mask: spec },
  );
}
