import { readFile, rm } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { checkOutput } from '../artifact/folder.js';
import { metaManifestFile } from '../artifact/meta-manifest.js';
import { type ClassFold, classFolds, type SplitName, splitNames } from '../data/class-split.js';
import { quoteSome } from '../data/dataset.js';
import { readTable } from '../data/read-table.js';
import { FewtuneError } from '../errors.js';
import { percent, printable, table } from '../text.js';
import {
  checkMetaTrainOptions,
  type MetaMethod,
  metaMethods,
  metaTrainDefaults,
  metaTrainEncoder,
} from '../workflow/meta-train.js';
import type { MetaTrained } from '../workflow/meta-trained.js';
import { assignment, integer, jsonOption, labelOption, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';
import { checkpointOf, watch } from './watch.js';

interface MetaTrainFlags {
  text?: string;
  label?: string;
  folds?: string;
  fold?: string;
  split?: Partial<Record<SplitName, number>>;
  method: MetaMethod;
  set?: Record<string, unknown>;
  encoder?: string;
  out?: string;
  resume?: boolean;
  seed: number;
  threads?: number;
  json?: boolean;
}

export function metaTrainCommand(signal: AbortSignal): Command {
  return new Command('meta-train')
    .description('Train an encoder on many classes, so that new ones need few examples: a start for `train --from`.')
    .argument('<file>', 'CSV, TSV, JSONL, JSON or Parquet file with a text and a label column')
    .addOption(textOption())
    .addOption(labelOption())
    .option('--split <a,b,c>', 'classes to train on, validate on and test on: fractions or numbers', parts)
    .option('--folds <file>', 'JSON file with the classes of each part, instead of --split')
    .option('--fold <name>', 'which of the folds in that file')
    .option('--method <name>', metaMethods.join(', '), metaTrainDefaults.method)
    .option('--set <name=value>', 'an option of the training; repeat for several', assignment)
    .option('--encoder <id|dir>', 'Hub id or folder of a sentence encoder; default: the embedded all-MiniLM-L6-v2')
    .option('--out <dir>', 'folder to write; default: starts/<name of the file>')
    .option('--resume', 'go on with a run that was interrupted')
    .option('--seed <n>', 'same seed, same result', integer(0), metaTrainDefaults.seed)
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (file: string, flags: MetaTrainFlags) => {
      const out = flags.out ?? join('starts', basename(file, extname(file)));
      const checkpoint = checkpointOf(out);
      const { method, set, split, encoder, resume, seed, threads } = flags;
      const given = { method, options: set, split, encoder, checkpoint, resume, seed, threads, signal };
      checkMetaTrainOptions(given);
      await checkOutput(out, metaManifestFile);
      const data = await readTable(file, { text: flags.text, label: flags.label, signal });
      reportRepairs(data);
      const fold = await foldFrom(flags, data.classes);
      const start = await watch(metaTrainEncoder(data, { ...given, fold }), checkpoint);
      await start.save(out, { signal });
      await rm(checkpoint, { force: true });
      const document = { start: out, ...documentOf(start) };
      process.stdout.write(flags.json ? `${JSON.stringify(document)}\n` : `${describe(start)}\nsaved  ${out}\n`);
    });
}

/** `0.5,0.25,0.25` or `50,50,50`: classes to train on, validate on, test on. */
function parts(text: string): Partial<Record<SplitName, number>> {
  const sizes = text.split(',').map(Number);
  if (sizes.length > 3 || sizes.some((size) => !(size >= 0)) || text.split(',').some((part) => part.trim() === '')) {
    throw new InvalidArgumentError('Give one to three numbers, such as 0.5,0.25,0.25 or 50,50,50.');
  }
  return Object.fromEntries(sizes.map((size, i) => [splitNames[i]!, size]));
}

/** The fold that is meant, of a file as `{ "01": { "train": […], "valid": […], "test": […] }, … }` or with one alone. */
async function foldFrom(flags: MetaTrainFlags, classes: readonly string[]): Promise<ClassFold | undefined> {
  const { folds: file, fold: name, split } = flags;
  if (file === undefined) {
    if (name !== undefined)
      throw new FewtuneError('OPTION_INVALID', '--fold names a fold of --folds, which is missing.');
    return undefined;
  }
  if (split !== undefined) throw new FewtuneError('OPTION_INVALID', '--folds and --split were both given; give one.');
  let content: unknown;
  try {
    content = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new FewtuneError(
      missing ? 'FILE_NOT_FOUND' : 'FILE_UNREADABLE',
      `${file}: ${missing ? 'no such file' : (cause as Error).message}.`,
      { cause },
    );
  }
  const isOne =
    typeof content === 'object' && content !== null && Array.isArray((content as { train?: unknown }).train);
  const folds = classFolds(isOne ? { only: content } : content, classes);
  const chosen = folds.size === 1 && name === undefined ? [...folds.values()][0] : folds.get(name ?? '');
  if (chosen !== undefined) return chosen;
  throw new FewtuneError(
    'OPTION_INVALID',
    `${file} holds the folds ${quoteSome([...folds.keys()], 12)}; ${name === undefined ? 'name one with --fold' : `there is no ${JSON.stringify(name)}`}.`,
  );
}

/** The document of `meta-train --json`, but for the folder. */
function documentOf({ report }: MetaTrained) {
  const { kind, base, classes, trainingData, measured, steps, keptStep, seconds } = report;
  return {
    kind,
    encoder: base.id,
    classes: classes.length,
    examples: trainingData.examples,
    steps,
    keptStep,
    seconds,
    measured,
  };
}

function describe({ report }: MetaTrained): string {
  const rows = report.measured.map(({ on, classes, before, after }) => [
    `${classes} ${on} classes`,
    percent(before),
    percent(after),
  ]);
  return printable(
    [
      `meta-trained ${report.base.id} on ${report.classes.length} classes, ${report.trainingData.examples} examples: ` +
        `${report.steps} steps, step ${report.keptStep} kept`,
      ...(rows.length === 0 ? [] : [table(['accuracy on classes never trained on', 'before', 'after'], rows)]),
      ...report.measured.map(({ on, how }) => `${on}: ${how}`),
    ].join('\n'),
  );
}
