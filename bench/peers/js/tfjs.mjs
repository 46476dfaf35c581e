/** TensorFlow.js on its wasm backend in Node. Arguments: the folder of start values, and `tuned`. */
import { createRequire } from 'node:module';
import path from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import { readModel, serve } from './serve.mjs';
import { tfjsStep } from './tfjs-steps.mjs';

const require = createRequire(import.meta.url);
setWasmPaths(`${path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'))}/dist/`);
await tf.setBackend('wasm');
await tf.ready();

await serve(`TensorFlow.js ${tf.version.tfjs} wasm`, (kind) =>
  tfjsStep(kind, readModel(kind), process.argv[3] === 'tuned'),
);
