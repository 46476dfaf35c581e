import { basename, extname, join } from 'node:path';
import { Command } from 'commander';
import { checkOutput } from '../artifact/folder.js';
import type { TextDataset } from '../data/dataset.js';
import { profile } from '../data/profile.js';
import { readTable } from '../data/read-table.js';
import { FewtuneError } from '../errors.js';
import { type MethodName, methodNames } from '../methods/method.js';
import { describeData, describeReport } from '../workflow/describe.js';
import { checkTrainOptions, train, trainDefaults } from '../workflow/train.js';
import type { TrainedModel } from '../workflow/trained-model.js';
import { assignment, integer, jsonOption, labelOption, positive, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';
import { watch } from './watch.js';

interface TrainFlags {
  text?: string;
  label?: string;
  test?: string;
  method: 'auto' | MethodName;
  set?: Record<string, unknown>;
  encoder?: string;
  from?: string;
  out?: string;
  keepExamples: boolean;
  seed: number;
  budget: number;
  threads?: number;
  json?: boolean;
}

export function trainCommand(signal: AbortSignal): Command {
  return new Command('train')
    .description('Learn a text classifier from labelled examples and save it as a folder.')
    .argument('<file>', 'CSV, TSV, JSONL, JSON or Parquet file with a text and a label column')
    .addOption(textOption())
    .addOption(labelOption())
    .option(
      '--test <file|fraction>',
      'file to measure on, or fraction of the rows to put aside; default: cross-validation',
    )
    .option('--method <name>', `auto, ${methodNames.join(', ')}`, trainDefaults.method)
    .option('--set <name=value>', 'an option of the named method; repeat for several', assignment)
    .option('--encoder <id|dir>', 'Hub id or folder of a sentence encoder; default: the embedded all-MiniLM-L6-v2')
    .option('--from <dir>', 'meta-trained start (fewtune meta-train), instead of --encoder')
    .option('--out <dir>', 'model folder to write; default: models/<name of the file>')
    .option('--no-keep-examples', 'leave the training texts out of the folder; their vectors are kept')
    .option('--seed <n>', 'same seed, same result', integer(0), trainDefaults.seed)
    .option('--budget <seconds>', 'time for the race of methods and the last fit', positive, trainDefaults.budget)
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (file: string, flags: TrainFlags) => {
      const out = flags.out ?? join('models', basename(file, extname(file)));
      checkTrainOptions({
        method: flags.method,
        encoder: flags.encoder,
        from: flags.from,
        options: flags.set,
        seed: flags.seed,
        budget: flags.budget,
        threads: flags.threads,
      });
      await checkOutput(out); // before any work is done
      const columns = { text: flags.text, label: flags.label, signal };
      const data = await readTable(file, columns);
      const test = await testFrom(flags.test, columns);
      if (!flags.json) {
        process.stdout.write(`${describeData(profile(data))}\n\n`);
      }
      const model = await runTraining(data, test, flags, signal);
      await model.save(out, { signal });
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(trainDocument(model, out))}\n`
          : `${describeReport(model.report)}\nsaved     ${out}\n`,
      );
      await model.dispose();
    });
}

async function runTraining(
  data: TextDataset,
  test: TextDataset | number | undefined,
  flags: TrainFlags,
  signal: AbortSignal,
): Promise<TrainedModel> {
  const { method, set, encoder, from, keepExamples, seed, budget, threads } = flags;
  return watch(train(data, { method, options: set, test, encoder, from, keepExamples, seed, budget, threads, signal }));
}

/** `--test 0.2` is a fraction, anything else a file. */
export async function testFrom(
  given: string | undefined,
  columns: { text?: string; label?: string; signal: AbortSignal },
): Promise<TextDataset | number | undefined> {
  if (given === undefined) return undefined;
  const share = shareIn(given);
  if (share !== undefined) return share;
  const test = await readTable(given, { ...columns, purpose: 'test' });
  reportRepairs(test);
  return test;
}

/** The fraction that `--test` names; undefined where it names a file. @throws FewtuneError OPTION_INVALID */
export function shareIn(given: string): number | undefined {
  if (!/^[-+]?(\d*\.)?\d+(e[-+]?\d+)?$/i.test(given)) return undefined;
  const fraction = Number(given);
  if (fraction > 0 && fraction < 1) return fraction;
  throw new FewtuneError(
    'OPTION_INVALID',
    `--test ${given}: a fraction lies between 0 and 1, for instance 0.2. For a file of that name write ./${given}.`,
  );
}

/** The document of `train --json`. */
function trainDocument(model: TrainedModel, out: string) {
  const { method, encoder, trainingData, seconds, metrics, evaluatedOn, advice } = model.report;
  return {
    model: out,
    method: method.name,
    encoder: encoder?.id ?? null,
    ...(encoder?.start && { start: encoder.start }),
    examples: trainingData.examples,
    classes: trainingData.classes,
    seconds,
    metrics,
    evaluatedOn,
    advice,
    repairs: trainingData.repairs,
  };
}
