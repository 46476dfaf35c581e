/**
 * Serves the repository's folder to browsers, with the two headers that WebAssembly threads need:
 *
 *     npm run build && node examples/dist/browser/serve.js      # then open http://localhost:8080/examples/browser/
 */
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

/** Listens on localhost only. */
export async function serve(folder: string, port: number): Promise<Server> {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const asked = path.join(folder, path.normalize(decodeURIComponent(pathname)));
    const file = pathname.endsWith('/') ? path.join(asked, 'index.html') : asked;
    try {
      const body = await readFile(file);
      response.writeHead(200, {
        'Content-Type': types[path.extname(file)] ?? 'application/octet-stream',
        'Cross-Origin-Opener-Policy': 'same-origin',
        'Cross-Origin-Embedder-Policy': 'require-corp',
      });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((listening) => server.listen(port, '127.0.0.1', listening));
  return server;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await serve(process.cwd(), 8080);
  console.log('http://localhost:8080/examples/browser/');
}
