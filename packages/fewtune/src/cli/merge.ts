import { Command } from 'commander';
import { checkOutput } from '../artifact/folder.js';
import { mergeManifestFile } from '../artifact/merge-manifest.js';
import { readTable } from '../data/read-table.js';
import { percent, printable } from '../text.js';
import { type Merged, merge } from '../workflow/merge.js';
import { jsonOption, labelOption, number, textOption, threadsOption } from './options.js';
import { reportRepairs } from './repairs.js';

interface MergeFlags {
  weight: number;
  test?: string;
  text?: string;
  label?: string;
  out: string;
  threads?: number;
  json?: boolean;
}

export function mergeCommand(signal: AbortSignal): Command {
  return new Command('merge')
    .description('Put an adapter into the weights of its base, and measure what that changed.')
    .argument('<base>', 'Hub id or folder of an encoder, minilm, a .onnx file, a transformers.js or model folder')
    .argument('<adapter>', "folder of a PEFT adapter, or the name of one in the model folder's adapters")
    .requiredOption('--out <dir>', 'folder to write')
    .option('--weight <w>', 'share of the update; negative takes it away', number, 1)
    .option('--test <file>', 'labelled rows to measure on, with the head of the adapter or the classifier of the model')
    .addOption(textOption())
    .addOption(labelOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (base: string, adapter: string, flags: MergeFlags) => {
      const { weight, out, threads, text, label } = flags;
      await checkOutput(out, mergeManifestFile);
      const test =
        flags.test === undefined ? undefined : await readTable(flags.test, { text, label, purpose: 'test', signal });
      if (test) reportRepairs(test);
      const merged = await merge(base, adapter, { weight, test, threads, signal });
      await merged.save(out, { signal });
      const document = { folder: out, ...merged.report };
      process.stdout.write(flags.json ? `${JSON.stringify(document)}\n` : `${describe(merged)}\nsaved     ${out}\n`);
    });
}

function describe({ report }: Merged): string {
  const { adapter, base, measured, weight, merged } = report;
  const { accuracyBefore, accuracyAfter, largestChange } = measured;
  const lines = [
    `adapter   ${adapter.source}: ${adapter.method} on ${adapter.modules} modules, weight ${weight}`,
    `base      ${base.id}`,
    `merged    ${merged ? '' : 'no: adapters stay nodes beside weights that are quantised or used twice; '}` +
      `${measured.of} differ by at most ${measured.largestDifference.toExponential(1)} on ${measured.texts} texts`,
    ...(largestChange === undefined
      ? []
      : [`changed   ${measured.of} by at most ${largestChange.toPrecision(2)} against the base`]),
    ...(accuracyBefore === undefined || accuracyAfter === undefined
      ? []
      : [`right     ${percent(accuracyBefore)} with the adapter beside the weights, ${percent(accuracyAfter)} merged`]),
  ];
  return printable(lines.join('\n'));
}
