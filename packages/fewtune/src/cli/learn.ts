import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { Command } from 'commander';
import { checkOutput } from '../artifact/folder.js';
import { readTable, readTexts } from '../data/read-table.js';
import { readSupportFolder } from '../data/support-folder.js';
import { FewtuneError } from '../errors.js';
import { oneLine, printable, table } from '../text.js';
import { findLabel } from '../workflow/forget-class.js';
import type { Learned } from '../workflow/learn-class.js';
import { load } from '../workflow/load.js';
import { collect, jsonOption, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';

interface LearnFlags {
  label?: string;
  example?: string[];
  text?: string;
  labelColumn?: string;
  more?: boolean;
  out?: string;
  threads?: number;
  json?: boolean;
}

/** Examples by label, in the order in which they are learned. */
type Lessons = ReadonlyMap<string, readonly string[]>;

export function learnCommand(signal: AbortSignal): Command {
  return new Command('learn')
    .description('Add classes to a saved model from a few examples each, without retraining it.')
    .argument('<model>', 'model folder')
    .argument(
      '[examples]',
      'with --label: a .txt file with one example a line, or a table; without: a table with labels, or a folder of class folders',
    )
    .option('--label <name>', 'the class that the examples belong to')
    .option('--example <text>', 'an example of --label; repeat for several', collect)
    .addOption(textOption())
    .option('--label-column <column>', 'column with the labels, for a table with several classes')
    .option('--more', 'examples may be for classes that the model has already')
    .option('--out <dir>', 'model folder to write; default: the same, replaced as a whole')
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (folder: string, source: string | undefined, flags: LearnFlags) => {
      const out = flags.out ?? folder;
      const lessons = await lessonsFrom(source, flags, signal);
      await using model = await load(folder, { threads: flags.threads });
      await checkOutput(out);
      refuseKnown(lessons, model.labels, flags);
      const learned: Learned[] = [];
      for (const [label, examples] of lessons) {
        const isKnown = findLabel(model.labels, label) !== -1;
        const more = flags.label === undefined ? isKnown : flags.more === true;
        learned.push(await model.learn(label, examples, { more, signal }));
      }
      await model.save(out, { signal });
      const document = { model: out, classes: model.labels.length, learned };
      process.stdout.write(flags.json ? `${JSON.stringify(document)}\n` : `${describe(learned)}\nsaved  ${out}\n`);
    });
}

async function lessonsFrom(source: string | undefined, flags: LearnFlags, signal: AbortSignal): Promise<Lessons> {
  const { label, example, text, labelColumn } = flags;
  if ((source === undefined) === (example === undefined)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `give ${source === undefined ? 'examples' : 'either'}: a file or folder after the model, or --label with --example "…".`,
    );
  }
  if (label === undefined) {
    if (source === undefined) throw new FewtuneError('OPTION_INVALID', '--example needs --label, the class it is of.');
    return labelledLessons(source, { text, label: labelColumn, signal });
  }
  if (labelColumn !== undefined) {
    throw new FewtuneError('OPTION_INVALID', '--label names one class, --label-column many; give one of them.');
  }
  if (source === undefined) return new Map([[label, example!]]);
  const list = await readTexts(source, { text, signal });
  reportRepairs(list);
  return new Map([[label, list.texts]]);
}

async function labelledLessons(
  source: string,
  columns: { text?: string; label?: string; signal: AbortSignal },
): Promise<Lessons> {
  if (await isFolder(source)) {
    const { texts, labels, classes, skipped } = await readSupportFolder(source);
    for (const { path, reason } of skipped) process.stderr.write(`${printable(`${source}/${path}: ${reason}`)}\n`);
    return new Map(classes.map((name, c) => [name, texts.filter((_, row) => labels[row] === c)]));
  }
  if (extname(source).toLowerCase() === '.txt') {
    throw new FewtuneError('OPTION_INVALID', `${source}: a .txt file has no labels; name the class with --label.`);
  }
  const data = await readTable(source, columns);
  reportRepairs(data);
  return new Map(data.classes.map((name) => [name, data.texts.filter((_, row) => data.labels[row] === name)]));
}

/** Found before anything is learned, and all at once. */
function refuseKnown(lessons: Lessons, labels: readonly string[], { more, label }: LearnFlags): void {
  if (more || label !== undefined) return; // a single one is refused by the model itself
  const known = [...lessons.keys()].filter((name) => findLabel(labels, name) !== -1);
  if (known.length === 0) return;
  throw new FewtuneError(
    'LABEL_EXISTS',
    `the model has ${known.map((name) => JSON.stringify(name)).join(', ')} already. With --more it learns from these ` +
      'examples too; else leave them out.',
  );
}

const isFolder = (path: string) =>
  stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );

function describe(learned: readonly Learned[]): string {
  const rows = learned.map(({ label, isNew, added, examples, heldOut, others }) => [
    oneLine(label, 60),
    isNew ? 'new' : 'more',
    String(added),
    String(examples),
    heldOut === undefined ? '' : `${heldOut.right} of ${heldOut.examples}`,
    `${others.after} of ${others.examples}, before ${others.before}`,
    oneLine(heldOut?.mistakenFor.join(', ') ?? '', 60),
  ]);
  const header = [
    'class',
    '',
    'added',
    'examples',
    'held out, right',
    'kept ones of the others, right',
    'mistaken for',
  ];
  return printable(table(header, rows));
}
