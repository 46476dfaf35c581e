import { Command } from 'commander';
import { type LoadOptions, taskOfFolder } from '../artifact/load.js';
import { readTable } from '../data/read-table.js';
import { readTask } from '../data/read-task.js';
import { FewtuneError } from '../errors.js';
import { percent, printable, table } from '../text.js';
import { evaluate } from '../workflow/evaluate.js';
import { evaluateTuned } from '../workflow/evaluate-tuned.js';
import { load } from '../workflow/load.js';
import { loadTuned } from '../workflow/load-tuned.js';
import { figures } from './finetune-task.js';
import { jsonOption, labelOption, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';

interface EvaluateFlags {
  text?: string;
  label?: string;
  pair?: string;
  separator?: string;
  quantized?: boolean;
  threads?: number;
  json?: boolean;
}

export function evaluateCommand(signal: AbortSignal): Command {
  return new Command('evaluate')
    .description('Measure a saved model on labelled rows that it has not learned from.')
    .argument('<model>', 'model folder')
    .argument('<file>', 'CSV, JSONL, JSON or Parquet file with a text and a label column')
    .addOption(textOption())
    .addOption(labelOption())
    .option('--pair <column>', 'column with second texts, for a model of pairs')
    .option('--separator <text>', 'between the labels of one cell (multi-label); default: |')
    .option('--quantized', 'use the int8 weights')
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (folder: string, file: string, flags: EvaluateFlags) => {
      const options = { weights: flags.quantized ? 'quantized' : 'fp32', threads: flags.threads } as const;
      if ((await taskOfFolder(folder)) === 'fine-tuned') {
        process.stdout.write(`${await evaluateTask(folder, file, flags, options, signal)}\n`);
        return;
      }
      if (flags.pair !== undefined) {
        throw new FewtuneError('OPTION_INVALID', '--pair: this model reads one text at a time.');
      }
      const model = await load(folder, options);
      const data = await readTable(file, { text: flags.text, label: flags.label, purpose: 'test', signal });
      reportRepairs(data);
      const result = await evaluate(model, data, { signal });
      await model.dispose();
      process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : `${describe(result)}\n`);
    });
}

/** What is printed of a fine-tuned model. */
async function evaluateTask(
  folder: string,
  file: string,
  { text, label, pair, separator, json }: EvaluateFlags,
  options: LoadOptions,
  signal: AbortSignal,
): Promise<string> {
  await using model = await loadTuned(folder, options);
  const { kind, outputs } = model.report;
  const order = kind === 'ordinal' ? outputs : undefined;
  const data = await readTask(file, { task: kind, text, label, pair, separator, order, purpose: 'test', signal });
  reportRepairs(data);
  const result = await evaluateTuned(model, data, { signal });
  if (json) return JSON.stringify(result);
  const [value, interval, others] = figures(result.score);
  return printable(
    `${result.score.name}  ${value}  (95 % interval ${interval}, ${result.examples} rows)${others ? `\n${others}` : ''}`,
  );
}

function describe({ examples, metrics, perClass }: Awaited<ReturnType<typeof evaluate>>): string {
  const [low, high] = metrics.accuracyInterval;
  const rows = perClass.map((row) => [
    row.label,
    row.precision.toFixed(3),
    row.recall.toFixed(3),
    row.f1.toFixed(3),
    String(row.support),
  ]);
  return printable(
    [
      `accuracy  ${percent(metrics.accuracy)}  (95 % interval ${percent(low)} to ${percent(high)}, ${examples} rows)`,
      `macro F1  ${metrics.macroF1.toFixed(3)}   calibration error ${metrics.ece.toFixed(3)}`,
      '',
      table(['label', 'precision', 'recall', 'f1', 'support'], rows),
    ].join('\n'),
  );
}
