/**
 * Runs a module in headless Chromium: for tests and benchmarks of what happens in browsers.
 *
 *     const browser = await findChromium();              // undefined where there is none (Debian: apt-get install chromium)
 *     const { ms } = await runInChromium<{ ms: number }>(
 *       `import * as e from '@fewtune/engine';
 *        export async function main({ size }) {            // runs in the page; what it returns is handed back as JSON
 *          const step = await e.trainStep({ …, backend: 'wasm', threads: 2 });
 *          return { ms: … };
 *        }`,
 *       { argument: { size: 512 } },
 *     );
 *
 * The module is bundled from the engine's TypeScript sources (no build before), with any npm package that is installed.
 * It may be given as code or as the path of a file. Pages are cross-origin isolated, so that WebAssembly has threads
 * (`threads` of the session says how many), and `{ webgpu: true }` brings WebGPU on SwiftShader, a software adapter.
 * Files of the repository are served under their path, for packages that fetch their own .wasm:
 * `setWasmPaths('/node_modules/@tensorflow/tfjs-backend-wasm/dist/')`.
 * `openChromium` keeps the page open, for several calls in turn: alternating runs of peers, say.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';
import { chromium } from 'playwright-core';

export interface ChromiumOptions {
  /** Bring WebGPU, on a software adapter. */
  readonly webgpu?: boolean;
  /** Without isolation WebAssembly has one thread, as on most pages of the web. Default true. */
  readonly isolated?: boolean;
}

export interface RunOptions extends ChromiumOptions {
  /** Given to `main`; must survive JSON. */
  readonly argument?: unknown;
}

/** An open page. */
export interface Page {
  /** Calls the module's `main`. @throws Error with the page's own message and stack */
  run<T>(argument?: unknown): Promise<T>;
  /** What the page has logged so far. */
  readonly log: readonly string[];
  close(): Promise<void>;
}

const root = repositoryRoot(dirname(fileURLToPath(import.meta.url)));

function repositoryRoot(folder: string): string {
  return existsSync(join(folder, 'package-lock.json')) ? folder : repositoryRoot(dirname(folder));
}

/** Where Chromium is: `FEWTUNE_CHROMIUM` or the usual places. */
export function findChromium(): string | undefined {
  const places = [
    process.env.FEWTUNE_CHROMIUM,
    '/usr/bin/chromium',
    '/usr/bin/chromium-browser',
    '/usr/bin/google-chrome',
  ];
  return places.find((place) => place && existsSync(place));
}

/** Opens a page with a module that exports `main`. @param module TypeScript, or the path of a file with it */
export async function openChromium(module: string, options: ChromiumOptions = {}): Promise<Page> {
  const executablePath = findChromium();
  if (!executablePath) throw new Error('there is no Chromium; install it or name it in FEWTUNE_CHROMIUM');
  const script = await bundle(module);
  const server = await serve(script, options.isolated ?? true);
  const browser = await launch(executablePath, options);
  const close = async () => {
    await browser.close();
    server.close();
    server.closeAllConnections();
  };
  try {
    const page = await browser.newPage();
    const log: string[] = [];
    page.on('console', (message) => log.push(message.text()));
    page.on('pageerror', (error) => log.push(String(error)));
    await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`);
    const loaded = await page.waitForFunction('globalThis.main || globalThis.failed', undefined, { timeout: 60_000 });
    const failed = await loaded.evaluate(() => (globalThis as { failed?: string }).failed);
    if (failed) throw new Error(`the page did not load: ${failed}\n${log.join('\n')}`);
    return {
      log,
      run: <T>(argument?: unknown) =>
        page.evaluate((given) => (globalThis as unknown as { main(x: unknown): Promise<T> }).main(given), argument),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function launch(executablePath: string, { webgpu }: ChromiumOptions) {
  return chromium.launch({
    executablePath,
    args: [
      '--no-sandbox', // containers run as root
      '--js-flags=--expose-gc',
      ...(webgpu ? ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : []),
    ],
  });
}

/** The text of `selector` in the page of an address, once it matches. @throws Error with the text at the time limit */
export async function readPage(
  address: string,
  selector: string,
  matching: RegExp,
  options: ChromiumOptions & { timeoutMs?: number } = {},
): Promise<string> {
  const executablePath = findChromium();
  if (!executablePath) throw new Error('there is no Chromium; install it or name it in FEWTUNE_CHROMIUM');
  const browser = await launch(executablePath, options);
  try {
    const page = await browser.newPage();
    const log: string[] = [];
    page.on('console', (message) => log.push(message.text()));
    page.on('pageerror', (error) => log.push(String(error)));
    await page.goto(address);
    const text = () =>
      page
        .locator(selector)
        .textContent()
        .then((text) => text ?? '');
    const until = performance.now() + (options.timeoutMs ?? 60_000);
    while (!matching.test(await text())) {
      if (performance.now() > until) throw new Error(`${selector} holds "${await text()}"; ${log.join('\n')}`);
      await page.waitForTimeout(100);
    }
    return await text();
  } finally {
    await browser.close();
  }
}

/** Opens a page, calls `main` once and closes it. */
export async function runInChromium<T>(module: string, options: RunOptions = {}): Promise<T> {
  const page = await openChromium(module, options);
  try {
    return await page.run<T>(options.argument);
  } finally {
    await page.close();
  }
}

/** The engine from its sources, and its backend for browsers, as `imports` in its package.json would choose it. */
const engineSources: Plugin = {
  name: 'engine-sources',
  setup({ onResolve }) {
    onResolve({ filter: /^@fewtune\/engine$/ }, () => ({ path: join(root, 'packages/engine/src/index.ts') }));
    onResolve({ filter: /^#backend$/ }, () => ({ path: join(root, 'packages/engine/src/backends/web.ts') }));
    onResolve({ filter: /^#files$/ }, () => ({ path: join(root, 'packages/engine/src/onnx/import/files.web.ts') }));
    // Left to the import map: its threads load the file that they come from.
    onResolve({ filter: /^onnxruntime-web/ }, ({ path }) => ({ path, external: true }));
  },
};

async function bundle(module: string): Promise<string> {
  const isPath = !module.includes('\n') && existsSync(module);
  const { outputFiles } = await build({
    ...(isPath
      ? { entryPoints: [module] }
      : { stdin: { contents: module, loader: 'ts' as const, resolveDir: join(root, 'bench') } }),
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2023',
    plugins: [engineSources],
    logLevel: 'silent',
  });
  return outputFiles[0]!.text;
}

const importMap = {
  imports: {
    'onnxruntime-web/wasm': '/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs',
    'onnxruntime-web/webgpu': '/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs',
  },
};

const html = `<!doctype html><meta charset="utf-8"><title>Fewtune</title>
<script type="importmap">${JSON.stringify(importMap)}</script>
<script type="module">
  try { globalThis.main = (await import('/module.js')).main; if (!globalThis.main) throw new Error('it exports no main'); }
  catch (error) { globalThis.failed = String(error && error.stack || error); }
</script>`;

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

async function serve(script: string, isolated: boolean) {
  const isolation = {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
  };
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname));
    const send = (type: string, body: string | Uint8Array) =>
      response.writeHead(200, { 'Content-Type': type, ...(isolated ? isolation : {}) }).end(body);
    try {
      if (path === '/') send('text/html', html);
      else if (path === '/module.js') send('text/javascript', script);
      else send(types[extname(path)] ?? 'application/octet-stream', await readFile(join(root, path)));
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return server;
}
