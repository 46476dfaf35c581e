import { Command, Option } from 'commander';
import type { Prediction } from '../artifact/classifier.js';
import { taskOfFolder } from '../artifact/load.js';
import { readTexts } from '../data/read-table.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { oneLine, percent, printable, table } from '../text.js';
import { load } from '../workflow/load.js';
import { integer, jsonOption, textOption, threadsOption } from './options.js';
import { predictTuned } from './predict-tuned.js';
import { reportRepairs } from './repairs.js';

interface PredictFlags {
  file?: string;
  text?: string;
  explain?: number;
  quantized?: boolean;
  threads?: number;
  json?: boolean;
}

export function predictCommand(signal: AbortSignal): Command {
  return new Command('predict')
    .description('Label texts: those given, those of a file, or one a line from stdin.')
    .argument('<model>', 'model folder')
    .argument('[text...]', 'texts to label')
    .option('--file <file>', 'CSV, JSONL, JSON or Parquet file with a text column, or a .txt file with one text a line')
    .addOption(textOption())
    .addOption(
      new Option('--explain [n]', 'show the n nearest examples that the model keeps').preset('3').argParser(integer(1)),
    )
    .option('--quantized', 'use the int8 weights')
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (folder: string, given: string[], flags: PredictFlags) => {
      const texts = await textsFrom(given, flags, signal);
      const options = { weights: flags.quantized ? 'quantized' : 'fp32', threads: flags.threads } as const;
      if ((await taskOfFolder(folder)) === 'fine-tuned') {
        const { json, explain, file } = flags;
        process.stdout.write(`${await predictTuned(folder, texts, { ...options, json, explain, file, signal })}\n`);
        return;
      }
      const model = await load(folder, options);
      const predictions = await model.predict(texts, { signal, explain: flags.explain });
      await model.dispose();
      process.stdout.write(
        flags.json ? `${JSON.stringify(documentOf(texts, predictions))}\n` : `${describe(texts, predictions)}\n`,
      );
    });
}

async function textsFrom(
  given: readonly string[],
  flags: PredictFlags,
  signal: AbortSignal,
): Promise<readonly string[]> {
  if (given.length > 0 && flags.file !== undefined) {
    throw new FewtuneError('OPTION_INVALID', 'texts and --file were both given; give one of them.');
  }
  if (given.length > 0) {
    return given;
  }
  if (flags.file !== undefined) {
    const list = await readTexts(flags.file, { text: flags.text, signal });
    reportRepairs(list);
    return list.texts;
  }
  return linesOf(await readStdin(signal), 'stdin');
}

async function readStdin(signal: AbortSignal): Promise<string> {
  if (process.stdin.isTTY) {
    throw new FewtuneError(
      'OPTION_INVALID',
      'no text to label. Give texts after the model folder, --file, or pipe lines into the command.',
    );
  }
  const chunks: Buffer[] = [];
  const stop = () => process.stdin.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const chunk of process.stdin) {
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    throwIfAborted(signal); // a stream that was closed on purpose says that it ended too early
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
  throwIfAborted(signal);
  return Buffer.concat(chunks).toString('utf8');
}

/** One text a line; blank lines are left out, and said so. */
function linesOf(content: string, source: string): string[] {
  const lines = content
    .replace(/^\ufeff/, '')
    .replace(/\r?\n$/, '')
    .split(/\r?\n/);
  const texts = lines.filter((line) => line.trim() !== '');
  if (texts.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${source}: no text to label, every line is blank. Give at least one line.`);
  }
  if (texts.length < lines.length) {
    process.stderr.write(`${lines.length - texts.length} blank lines of ${source} left out\n`);
  }
  return texts;
}

/** The document of `predict --json`. */
function documentOf(texts: readonly string[], predictions: readonly Prediction[]) {
  return predictions.map((prediction, i) => ({ input: texts[i], ...prediction }));
}

function describe(texts: readonly string[], predictions: readonly Prediction[]): string {
  const rows = predictions.map(({ label, confidence }, i) => [label, percent(confidence), oneLine(texts[i]!, 80)]);
  const lines = table(['label', 'confidence', 'text'], rows).split('\n');
  const explained = predictions.flatMap(({ nearest = [] }, i) => [
    lines[i + 2]!,
    ...nearest.map(
      ({ label, similarity, text }) =>
        `    ${similarity.toFixed(3)}  ${label}${text === undefined ? '' : `  ${oneLine(text, 80)}`}`,
    ),
  ]);
  return printable([...lines.slice(0, 2), ...explained].join('\n'));
}
