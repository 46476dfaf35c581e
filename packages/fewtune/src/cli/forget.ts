import { Command } from 'commander';
import { checkOutput } from '../artifact/folder.js';
import { oneLine, printable } from '../text.js';
import type { Forgotten } from '../workflow/forget-class.js';
import { load } from '../workflow/load.js';
import { collect, jsonOption, threadsOption } from './options.js';

interface ForgetFlags {
  label: string[];
  out?: string;
  threads?: number;
  json?: boolean;
}

export function forgetCommand(signal: AbortSignal): Command {
  return new Command('forget')
    .description('Remove classes from a saved model, with the examples it keeps of them.')
    .argument('<model>', 'model folder')
    .requiredOption('--label <name>', 'the class to remove; repeat for several', collect)
    .option('--out <dir>', 'model folder to write; default: the same, replaced as a whole')
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (folder: string, flags: ForgetFlags) => {
      const out = flags.out ?? folder;
      await using model = await load(folder, { threads: flags.threads });
      await checkOutput(out);
      const forgotten: Forgotten[] = [];
      for (const label of flags.label) forgotten.push(await model.forget(label));
      await model.save(out, { signal });
      const lines = forgotten.map(
        ({ label, examples }) => `forgot ${oneLine(label, 60)}, with ${examples} kept examples`,
      );
      process.stdout.write(
        flags.json
          ? `${JSON.stringify({ model: out, classes: model.labels.length, forgotten })}\n`
          : `${printable(lines.join('\n'))}\n${model.labels.length} classes are left\nsaved  ${out}\n`,
      );
    });
}
