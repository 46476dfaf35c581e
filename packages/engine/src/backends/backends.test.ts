import { expect, test } from 'vitest';
import * as e from '../index.js';
import * as node from './node.js';
import type { BackendModule } from './types.js';
import * as web from './web.js';

/** Both modules answer to the same calls: checked by the compiler. */
export const modules: readonly BackendModule[] = [node, web];

test('a backend that is not there is named, with what there is and what would do', async () => {
  const open = (backend: e.Backend) =>
    e.compile(({ x }) => e.mul(x, 2), { x: { dtype: 'float32', shape: [2] } } as const, { backend });
  await expect(open('wasm')).rejects.toMatchObject({
    code: 'BACKEND_MISSING',
    message: expect.stringMatching(/"wasm" is not there: onnxruntime-node has cpu, .* use cpu/),
  });
  await expect(open('metal' as 'cpu')).rejects.toMatchObject({ code: 'BACKEND_MISSING' });
  // The package knows CUDA, and its libraries are not beside it unless its install script fetched them.
  const cuda = open('cuda').then((program) => program.dispose());
  await cuda.catch((error: e.EngineError) => expect(error.code).toBe('BACKEND_MISSING'));
});
