/** jax-js on its wasm backend in Node. The argument is the folder of start values. */
import { createRequire } from 'node:module';
import { jaxStep } from './jax-js-steps.mjs';
import { readModel, serve } from './serve.mjs';

const { version } = createRequire(import.meta.url)('./node_modules/@jax-js/jax/package.json');

await serve(`jax-js ${version} wasm`, (kind) => jaxStep(kind, readModel(kind)));
