import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['packages/*/src/**/*.test.ts', 'packages/*/test/**/*.test.ts', 'bench/**/*.test.ts'],
    testTimeout: 60_000,
    // Two workers: each runs ONNX Runtime sessions of its own, and the reference machine has two cores.
    maxWorkers: 2,
    // A thread pool for every small session costs more than it brings.
    env: { FEWTUNE_THREADS: '1' },
  },
});
