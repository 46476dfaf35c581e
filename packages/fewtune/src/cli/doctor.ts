import { availableParallelism, freemem, totalmem } from 'node:os';
import { loadEncoder, SentenceEmbedder } from '@fewtune/models';
import { Command } from 'commander';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { percent, printable, table } from '../text.js';
import { version } from '../version.js';
import { jsonOption } from './options.js';
import { syntheticTraining } from './synthetic-training.js';

interface Check {
  readonly what: string;
  readonly ok: boolean;
  readonly found: string;
}

export function doctorCommand(signal: AbortSignal): Command {
  return new Command('doctor')
    .description('Prove in about ten seconds that this installation works.')
    .addOption(jsonOption())
    .action(async (flags: { json?: boolean }) => {
      const checks: Check[] = [];
      for (const { what, run } of examinations) {
        throwIfAborted(signal);
        process.stderr.write(`${what} …\n`);
        checks.push(await examine(what, run, signal));
      }
      const ok = checks.every((check) => check.ok);
      const document = {
        ok,
        fewtune: version,
        node: process.version,
        platform: `${process.platform} ${process.arch}`,
        checks,
      };
      const rows = checks.map((check) => [check.ok ? 'ok' : 'FAILED', check.what, check.found]);
      const shown = `${table(['', 'check', 'found'], rows)}\n\n${ok ? 'Everything works.' : 'Something does not work; see the lines above.'}`;
      process.stdout.write(flags.json ? `${JSON.stringify(document)}\n` : `${printable(shown)}\n`);
      process.exitCode = ok ? 0 : 1;
    });
}

const examinations: readonly { what: string; run: (signal: AbortSignal) => Promise<{ ok: boolean; found: string }> }[] =
  [
    { what: 'Node.js', run: nodeVersion },
    { what: 'processor and memory', run: resources },
    { what: 'training on ONNX Runtime', run: training },
    { what: 'embedded encoder', run: encoder },
  ];

async function nodeVersion() {
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
  const ok = major > 20 || (major === 20 && minor >= 19);
  return {
    ok,
    found: `${process.version} on ${process.platform} ${process.arch}${ok ? '' : '; needs 20.19 or later'}`,
  };
}

async function resources() {
  const gigabytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GB`;
  const free = freemem();
  const ok = free > 0.75 * 2 ** 30;
  const found = `${availableParallelism()} threads, ${gigabytes(free)} of ${gigabytes(totalmem())} free`;
  return { ok, found: ok ? found : `${found}; training wants 0.75 GB` };
}

async function training(signal: AbortSignal) {
  const { steps, msPerStep, accuracy } = await syntheticTraining(signal);
  return {
    ok: accuracy > 0.9,
    found: `${steps} steps, ${msPerStep.toFixed(2)} ms each; ${percent(accuracy)} right (chance 25 %)`,
  };
}

async function encoder(signal: AbortSignal) {
  const loaded = await loadEncoder(undefined, { signal });
  const embedder = await SentenceEmbedder.create(loaded);
  const texts = ['my card was swallowed by the machine', 'the cash machine kept my card', 'what a lovely day'];
  const vectors = await embedder.embed(texts, { signal });
  await embedder.dispose();
  const similarity = (a: number, b: number) => {
    let sum = 0;
    for (let i = 0; i < loaded.hidden; i++) {
      sum += vectors[a * loaded.hidden + i]! * vectors[b * loaded.hidden + i]!;
    }
    return sum;
  };
  const [near, far] = [similarity(0, 1), similarity(0, 2)];
  return {
    ok: near > far + 0.2,
    found: `${loaded.id}, ${loaded.hidden} numbers a sentence; alike ${near.toFixed(2)}, unlike ${far.toFixed(2)}`,
  };
}

/** A check that throws has failed; only an interruption ends the examination. */
async function examine(what: string, run: (typeof examinations)[number]['run'], signal: AbortSignal): Promise<Check> {
  try {
    return { what, ...(await run(signal)) };
  } catch (error) {
    if (error instanceof FewtuneError && error.code === 'INTERRUPTED') {
      throw error;
    }
    return { what, ok: false, found: error instanceof Error ? error.message : String(error) };
  }
}
