import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const sources: Record<string, string> = { '#backend': 'backends/node.ts', '#files': 'onnx/import/files.node.ts' };

export default defineConfig({
  plugins: [
    {
      // Tests import the engine's sources; package.json's `imports` names the compiled files.
      name: 'backend-of-the-sources',
      enforce: 'pre',
      resolveId: (id, importer) =>
        Object.hasOwn(sources, id) && importer?.includes('/packages/engine/src/')
          ? fileURLToPath(new URL(`packages/engine/src/${sources[id]}`, import.meta.url))
          : undefined,
    },
  ],
  test: {
    include: ['packages/*/src/**/*.test.ts', 'packages/*/test/**/*.test.ts', 'bench/**/*.test.ts'],
    globalSetup: 'vitest.temporary.ts',
    testTimeout: 60_000,
    // Two workers: each runs ONNX Runtime sessions of its own, and the reference machine has two cores.
    maxWorkers: 2,
    // A thread pool for every small session costs more than it brings.
    env: { FEWTUNE_THREADS: '1' },
  },
});
