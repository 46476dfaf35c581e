import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findChromium, openChromium, readPage, runInChromium } from '../../../../bench/lib/chromium.js';
import { serve } from '../../../../examples/browser/serve.js';
import type { SessionOptions } from '../../src/index.js';
import { nameOf } from '../catalogue.js';
import { expectAgreement, expectSameTraining } from './agree.js';
import { cases, type main, type Result, runCases, train, trainTransformer } from './suite.js';
import { announce } from './webgpu.js';

const suite = new URL('./suite.ts', import.meta.url).pathname;
const reason = findChromium() ? undefined : 'there is no Chromium; apt-get install chromium, or set FEWTUNE_CHROMIUM';
const skipped = announce('wasm and WebGPU in Chromium', reason);

const pages: readonly { name: string; options: SessionOptions; without?: RegExp }[] = [
  { name: 'wasm with two threads', options: { backend: 'wasm', threads: 2 } },
  // The browser's WebGPU build has no float64 at all; NaN as in Node.js.
  { name: 'WebGPU', options: { backend: 'webgpu' }, without: /^(cast, floats|isNan)$/ },
];

describe.skipIf(skipped).each(pages)('$name in Chromium', ({ options, without }) => {
  let page: Awaited<ReturnType<typeof main>>;
  let wanted: Record<string, Result>;
  beforeAll(async () => {
    wanted = await runCases({});
    page = await runInChromium(suite, { webgpu: options.backend === 'webgpu', argument: { options, steps: 50 } });
  }, 120_000);

  test.each(cases.map(nameOf).filter((name) => !without?.test(name)))('%s', (name) => {
    const loose = options.backend === 'webgpu' && /^(sin|cos|tan)\b/.test(name);
    expectAgreement(page.cases[name], wanted[name]!, loose ? 2 ** -11 : 1e-4);
  });

  test('50 training steps are those of the CPU; params, snapshot and restore work', async () => {
    expectSameTraining(page.training, await train(50, {}));
  });

  test('a transformer trains', async () => {
    expectAgreement({ losses: page.transformer }, { losses: await trainTransformer(10, {}) }, 1e-4);
  });
});

describe.skipIf(skipped)('a page', () => {
  const code = `import * as e from '@fewtune/engine';
    export async function main(options) {
      try {
        const program = await e.compile(({ x }) => e.mul(x, 2), { x: { dtype: 'float32', shape: [1] } }, options);
        const { data } = await program.run({ x: e.hostTensor('float32', [1], [21]) });
        return [data[0], globalThis.crossOriginIsolated];
      } catch (error) {
        return [error.code, error.message];
      }
    }`;
  let page: Awaited<ReturnType<typeof openChromium>>;
  beforeAll(async () => {
    page = await openChromium(code, { isolated: false });
  });
  afterAll(() => page.close());

  test('without isolation works with one thread, and says so', async () => {
    expect(await page.run({ threads: 2 })).toEqual([42, false]);
    expect(page.log.join('\n')).toContain('not cross-origin isolated');
  });

  test('names the backends that it lacks, and what would do', async () => {
    expect(await page.run({ backend: 'cpu' })).toEqual(['BACKEND_MISSING', expect.stringContaining('wasm and webgpu')]);
    expect(await page.run({ backend: 'webgpu' })).toEqual(['BACKEND_MISSING', expect.stringContaining('adapter')]);
  });
});

test.skipIf(skipped)('the example without a bundler trains, with an import map and two threads', async () => {
  const server = await serve(fileURLToPath(new URL('../../../../', import.meta.url)), 0);
  try {
    const address = `http://localhost:${(server.address() as AddressInfo).port}/examples/browser/`;
    expect(await readPage(address, '#log', /learned/)).toMatch(/a step takes [\d.]+ ms[\s\S]*\nlearned/);
  } finally {
    server.close();
    server.closeAllConnections();
  }
});
