import { basename, extname, join } from 'node:path';
import { Command } from 'commander';
import { adaptersFolder } from '../artifact/adapter-names.js';
import { checkOutput } from '../artifact/folder.js';
import { profile } from '../data/profile.js';
import { readTable } from '../data/read-table.js';
import { FewtuneError } from '../errors.js';
import { percent, printable } from '../text.js';
import { describeData, describeReport } from '../workflow/describe.js';
import { type FinetunedOnnx, finetuneOnnx, parseFinetuneOnnx } from '../workflow/finetune-onnx.js';
import { findOnnx } from '../workflow/onnx-text.js';
import { assignment, integer, jsonOption, labelOption, positive, textOption, threadsOption } from './options.js';
import { Progress } from './progress.js';
import { testFrom } from './train.js';

interface FinetuneFlags {
  text?: string;
  label?: string;
  test?: string;
  targets?: string;
  rank?: number;
  epochs?: number;
  lr?: number;
  set?: Record<string, unknown>;
  tokenizer?: string;
  output?: string;
  name: string;
  out?: string;
  seed: number;
  threads?: number;
  json?: boolean;
}

export function finetuneCommand(signal: AbortSignal): Command {
  return new Command('finetune')
    .description('Fine-tune a model that was trained elsewhere, and keep what was learned as an adapter too.')
    .argument('<base>', '.onnx file or transformers.js folder')
    .argument('<data>', 'CSV, TSV, JSONL, JSON or Parquet file with a text and a label column')
    .addOption(textOption())
    .addOption(labelOption())
    .option('--test <file|fraction>', 'file to measure on, or fraction of the rows to put aside')
    .option(
      '--targets <names>',
      'layers, weights or nodes to adapt: names, ends of names, patterns; default: all-linear',
    )
    .option('--rank <n>', 'rank of the adapter', integer(1))
    .option('--epochs <n>', 'passes over the examples', integer(1))
    .option('--lr <rate>', 'largest learning rate', positive)
    .option('--set <name=value>', 'another option of the training; repeat for several', assignment)
    .option('--tokenizer <dir>', 'folder with tokenizer.json, where it is not beside the model')
    .option('--output <name>', "the model's output to read, where several could be meant")
    .option('--name <name>', 'what the adapter is called in the folder', 'tuned')
    .option('--out <dir>', 'model folder to write; default: models/<name of the data file>')
    .option('--seed <n>', 'same seed, same result', integer(0), 7)
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (base: string, file: string, flags: FinetuneFlags) => {
      const out = flags.out ?? join('models', basename(file, extname(file)));
      const options = optionsOf(flags);
      parseFinetuneOnnx(options);
      if ((await findOnnx(base)) === undefined) {
        throw new FewtuneError(
          'MODEL_NOT_FOUND',
          `${base}: there is no ONNX model. Give a .onnx file or a transformers.js folder; \`fewtune train --encoder\` fine-tunes an encoder.`,
        );
      }
      await checkOutput(out); // before any work is done
      const columns = { text: flags.text, label: flags.label, signal };
      const data = await readTable(file, columns);
      const test = await testFrom(flags.test, columns);
      if (!flags.json) process.stdout.write(`${describeData(profile(data))}\n\n`);
      const { name, tokenizer, output, seed, threads } = flags;
      const run = finetuneOnnx(base, data, { options, test, name, tokenizer, output, seed, threads, signal });
      const progress = new Progress();
      try {
        for await (const event of run) progress.show(event);
      } finally {
        progress.done();
      }
      const tuned = await run.result;
      await tuned.model.save(out, { signal });
      const adapter = join(out, adaptersFolder, name);
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(documentOf(tuned, out, adapter))}\n`
          : `${describe(tuned)}\nsaved     ${out}\nadapter   ${adapter}\n`,
      );
      await tuned.model.dispose();
    });
}

/** Flags that are options of the training too; given twice is an error. */
function optionsOf({ targets, rank, epochs, lr, set = {} }: FinetuneFlags): Record<string, unknown> {
  const flags = {
    ...(targets !== undefined && { targets: targets.includes(',') ? targets.split(',') : targets }),
    ...(rank !== undefined && { rank }),
    ...(epochs !== undefined && { epochs }),
    ...(lr !== undefined && { lr }),
  };
  const twice = Object.keys(flags).find((name) => Object.hasOwn(set, name));
  if (twice) throw new FewtuneError('OPTION_INVALID', `--${twice} and --set ${twice}=… were both given; give one.`);
  return { ...set, ...flags };
}

/** The document of `finetune --json`. */
function documentOf({ model, merge, parameters }: FinetunedOnnx, out: string, adapter: string) {
  const { method, encoder, trainingData, seconds, metrics, evaluatedOn } = model.report;
  return {
    model: out,
    adapter,
    base: encoder!.id,
    method: method.name,
    examples: trainingData.examples,
    classes: trainingData.classes,
    parameters,
    merge,
    seconds,
    metrics,
    evaluatedOn,
    repairs: trainingData.repairs,
  };
}

function describe({ model, merge, parameters }: FinetunedOnnx): string {
  const { adapter, head, total } = parameters;
  const lines = [
    describeReport(model.report),
    `weights   ${adapter} of the adapter${head > 0 ? ` and ${head} of the head` : ''} were trained, ${percent((adapter + head) / total)} of ${total}`,
    `merged    ${merge.merged ? '' : 'no: adapters stay nodes beside weights that are quantised or used twice; '}logits differ by at most ` +
      `${merge.largestDifference.toExponential(1)} on ${merge.texts} texts; right ${percent(merge.accuracyBefore)} before, ${percent(merge.accuracyAfter)} after`,
  ];
  return printable(lines.join('\n'));
}
