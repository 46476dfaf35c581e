import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { expect, test } from 'vitest';

const engine = fileURLToPath(new URL('..', import.meta.url));

/** All TypeScript of the tour, in a file of its own beside the built package, where imports resolve as a user's do. */
function writeTour(): string {
  const readme = readFileSync(path.join(engine, 'README.md'), 'utf8');
  const blocks = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code!);
  expect(blocks.length).toBeGreaterThan(4);
  const file = path.join(engine, 'dist', 'readme-tour.ts');
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, blocks.join('\n'));
  return file;
}

test("the README's tour type-checks and runs as it stands", async () => {
  const file = writeTour();
  const program = ts.createProgram([file], {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    noUncheckedIndexedAccess: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
  });
  const messages = ts
    .getPreEmitDiagnostics(program)
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
  expect(messages).toEqual([]);
  await import(/* @vite-ignore */ file);
});
