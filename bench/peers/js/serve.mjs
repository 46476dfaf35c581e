/**
 * What the JavaScript peers share: a loop that answers `<kind> <count>` lines on stdin with one line of JSON each, and the
 * start values that the other side has written, see bench/seed/engine/small-models.ts.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';

/** Weights and batch of `kind`: { weights, batch } of { shape, data }. */
export function readModel(kind) {
  const folder = process.argv[2];
  const tensors = JSON.parse(readFileSync(path.join(folder, `${kind}.json`), 'utf8'));
  const bytes = readFileSync(path.join(folder, `${kind}.bin`));
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const read = (of) =>
    Object.fromEntries(
      Object.entries(of).map(([name, { shape, at }]) => {
        const length = shape.reduce((product, size) => product * size, 1);
        return [name, { shape, data: values.slice(at, at + length) }];
      }),
    );
  return { weights: read(tensors.weights), batch: read(tensors.batch) };
}

/**
 * @param name  the peer with its version
 * @param make  kind -> step; a step resolves, with its loss, when its weights are there
 */
export async function serve(name, make) {
  const steps = new Map();
  for await (const line of createInterface({ input: process.stdin })) {
    const [kind, count] = line.split(' ');
    let answer;
    try {
      if (kind === 'version') answer = { name };
      else {
        if (!steps.has(kind)) steps.set(kind, await make(kind));
        const ms = [];
        const loss = [];
        for (let run = 0; run < Number(count); run++) {
          const began = performance.now();
          loss.push(await steps.get(kind)());
          ms.push(performance.now() - began);
        }
        answer = { ms, loss };
      }
    } catch (error) {
      answer = { error: String(error?.message ?? error).slice(0, 300) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}
