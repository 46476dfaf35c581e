/** Models from the web: the browser's counterpart of `files.node.ts`. */
import { EngineError } from '../../errors.js';
import type { OnnxFunctionOptions } from './onnx-function.js';
import { OnnxFunction } from './onnx-function.js';
import type { ExternalReader } from './weights.js';

async function get(url: URL | string, range?: string): Promise<Uint8Array> {
  const response = await fetch(url, range ? { headers: { Range: range } } : {}).catch((cause: unknown) => {
    throw new EngineError('ONNX_INVALID', `cannot fetch "${url}"`, { cause });
  });
  if (!response.ok) throw new EngineError('ONNX_INVALID', `"${url}" answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The same as in Node.js, with a URL instead of a path; data beside the file is fetched from its own folder only. */
export async function readOnnxModel(
  model: string | Uint8Array,
  options: OnnxFunctionOptions = {},
): Promise<OnnxFunction> {
  if (typeof model !== 'string') return OnnxFunction.fromBytes(model, options);
  return OnnxFunction.fromBytes(await get(model), {
    external: folderReader(
      new URL('.', new URL(model, (globalThis as { location?: { href: string } }).location?.href)).href,
    ),
    ...options,
  });
}

/** Fetches parts of files below one URL. */
export function folderReader(folder: string): ExternalReader {
  return async ({ tensor, location, offset, length }) => {
    const url = new URL(location, folder);
    if (!url.href.startsWith(folder) || /^[\\/]|\.\.|:/.test(location)) {
      throw new EngineError(
        'ONNX_INVALID',
        `tensor "${tensor}": its external data "${location}" leaves the model's folder`,
      );
    }
    const bytes = await get(url, `bytes=${offset}-${offset + length - 1}`);
    // A server that knows no ranges sends the whole file.
    return bytes.length === length ? bytes : bytes.slice(offset, offset + length);
  };
}

/** @throws EngineError ARGUMENT_INVALID: a browser has no files to write; offer the bytes of `toOnnx` for download */
export async function saveOnnx(): Promise<void> {
  throw new EngineError('ARGUMENT_INVALID', 'a browser writes no files; toOnnx gives the bytes to download');
}
