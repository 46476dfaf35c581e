import { Command } from 'commander';
import { readTable } from '../data/read-table.js';
import { percent, printable, table } from '../text.js';
import { evaluate } from '../workflow/evaluate.js';
import { load } from '../workflow/load.js';
import { jsonOption, labelOption, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';

interface EvaluateFlags {
  text?: string;
  label?: string;
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
    .option('--quantized', 'use the int8 weights')
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (folder: string, file: string, flags: EvaluateFlags) => {
      const model = await load(folder, { weights: flags.quantized ? 'quantized' : 'fp32', threads: flags.threads });
      const data = await readTable(file, { text: flags.text, label: flags.label, purpose: 'test', signal });
      reportRepairs(data);
      const result = await evaluate(model, data, { signal });
      await model.dispose();
      process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : `${describe(result)}\n`);
    });
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
