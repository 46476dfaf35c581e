/** Runs in Chromium, bundled by bench/lib/chromium.ts: a peer's step on wasm. `peer` is tfjs or jax-js. */
import * as tf from '@tensorflow/tfjs';
import { setThreadsCount, setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import { transformer } from '../../seed/engine/small-models.ts';
import { jaxStep } from './jax-js-steps.mjs';
import { tfjsStep } from './tfjs-steps.mjs';

let step;

async function open(peer, threads) {
  const model = transformer();
  if (peer === 'jax-js') return jaxStep(model.name, model);
  setThreadsCount(threads);
  setWasmPaths('/bench/peers/js/node_modules/@tensorflow/tfjs-backend-wasm/dist/');
  await tf.setBackend('wasm');
  await tf.ready();
  return tfjsStep(model.name, model, true);
}

/** Milliseconds of `count` runs. */
export async function main({ peer, count, threads }) {
  step ??= await open(peer, threads);
  const milliseconds = [];
  for (let run = 0; run < count; run++) {
    const began = performance.now();
    await step();
    milliseconds.push(performance.now() - began);
  }
  return milliseconds;
}
