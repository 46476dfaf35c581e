import { basename, resolve } from 'node:path';
import { Command } from 'commander';
import { type AdapterDiff, type AdapterDifference, diffAdapters } from '../methods/peft/diff-adapters.js';
import { readAdapter } from '../methods/peft/peft-files.js';
import { printable, table } from '../text.js';
import {
  type AdapterSummary,
  addAdapter,
  type ModelAdapter,
  readAdapters,
  removeAdapter,
  summaryOf,
  unknownAdapter,
} from '../workflow/model-adapters.js';
import { jsonOption } from './options.js';

interface Flags {
  json?: boolean;
}

export function adaptersCommand(signal: AbortSignal): Command {
  const command = new Command('adapters').description('The adapters that a model folder holds, as PEFT has them.');
  const sub = (name: string, description: string) => {
    const made = command.command(name).description(description).exitOverride();
    return made.argument('<model>', 'model folder').addOption(jsonOption());
  };
  sub('list', 'Kind, rank, size and base of each.').action(async (folder: string, flags: Flags) => {
    const adapters = (await readAdapters(folder)).map(summaryOf);
    show(flags, { model: folder, adapters }, describeList(adapters));
  });
  sub('add', 'Put an adapter into the folder, if it is for the encoder of the model.')
    .argument('<adapter>', 'folder of a PEFT adapter')
    .option('--name <name>', "what to call it; default: its folder's name")
    .option('--replace', 'also where one of that name stands')
    .action(async (folder: string, from: string, flags: Flags & { name?: string; replace?: boolean }) => {
      const name = flags.name ?? basename(resolve(from));
      const added = await addAdapter(folder, name, from, { replace: flags.replace, signal });
      show(flags, { model: folder, added }, `${describeList([added])}\nadded     ${name} to ${folder}`);
    });
  sub('remove', 'Take an adapter out of the folder.')
    .argument('<name>', 'its name')
    .action(async (folder: string, name: string, flags: Flags) => {
      await removeAdapter(folder, name, { signal });
      show(flags, { model: folder, removed: name }, `removed   ${name} from ${folder}`);
    });
  sub('diff', 'How far two adapters are from each other, module by module.')
    .argument('<a>', 'name of an adapter in the folder, or the folder of one')
    .argument('<b>', 'the same')
    .action(async (folder: string, a: string, b: string, flags: Flags) => {
      const present = await readAdapters(folder);
      const [first, second] = [await named(folder, present, a), await named(folder, present, b)];
      const diff = diffAdapters(first, second);
      show(flags, { model: folder, a, b, ...diff }, describeDiff(a, b, diff));
    });
  return command;
}

function show({ json }: Flags, document: object, text: string): void {
  process.stdout.write(json ? `${JSON.stringify(document)}\n` : `${printable(text)}\n`);
}

/** What looks like a path is one; everything else is a name, which must be there. */
async function named(folder: string, present: readonly ModelAdapter[], name: string) {
  const found = present.find((one) => one.name === name);
  if (found) return found.adapter;
  if (/[\\/]/.test(name)) return readAdapter(name);
  throw unknownAdapter(
    folder,
    name,
    present.map((one) => one.name),
  );
}

function describeList(adapters: readonly AdapterSummary[]): string {
  if (adapters.length === 0) return 'no adapters';
  const rows = adapters.map(({ name, method, rank, modules, parameters, bytes, base, labels }) => [
    name,
    method,
    rank === undefined ? '' : String(rank),
    String(modules),
    String(parameters),
    `${(bytes / 2 ** 10).toFixed(0)} KiB`,
    base ?? 'unknown',
    labels === null ? '' : String(labels.length),
  ]);
  return table(['name', 'kind', 'rank', 'modules', 'parameters', 'size', 'base', 'labels'], rows);
}

function describeDiff(a: string, b: string, { of, places, whole, config }: AdapterDiff): string {
  const figure = (value: number | undefined) => (value === undefined ? '' : value.toPrecision(3));
  const row = ({ name, ...own }: AdapterDifference) => [
    name === '' ? 'all' : name,
    figure(own.a),
    figure(own.b),
    figure(own.difference),
    figure(own.cosine),
  ];
  const fields = Object.entries(config).map(([name, pair]) => [
    name,
    ...pair.map((value) => JSON.stringify(value).slice(0, 60)),
  ]);
  return [
    table(
      [of === 'updates' ? 'length of updates' : 'length of tensors', a, b, 'difference', 'cosine'],
      [...places, whole].map(row),
    ),
    ...(fields.length === 0 ? [] : ['', table(['configuration', a, b], fields)]),
  ].join('\n');
}
