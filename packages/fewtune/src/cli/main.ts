import { Command, CommanderError } from 'commander';
import { version } from '../version.js';
import { adaptersCommand } from './adapters.js';
import { doctorCommand } from './doctor.js';
import { evaluateCommand } from './evaluate.js';
import { exitCodeOf, reportError } from './failure.js';
import { finetuneCommand } from './finetune.js';
import { forgetCommand } from './forget.js';
import { learnCommand } from './learn.js';
import { mergeCommand } from './merge.js';
import { metaTrainCommand } from './meta-train.js';
import { predictCommand } from './predict.js';
import { trainCommand } from './train.js';

/** Exit codes: 0 done, 1 our failure, 2 the input or the options are wrong, 130 interrupted. */
async function main(argv: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  process.on('SIGINT', () => {
    if (interrupt.signal.aborted) {
      process.exit(130); // a second Ctrl-C does not wait for the running step
    }
    interrupt.abort();
  });
  process.on('SIGTERM', () => interrupt.abort());
  const program = new Command('fewtune')
    .description('From a handful of labelled examples to a text classifier that you can trust.')
    .version(version)
    .exitOverride()
    .showSuggestionAfterError();
  for (const command of [
    trainCommand,
    finetuneCommand,
    mergeCommand,
    adaptersCommand,
    predictCommand,
    evaluateCommand,
    learnCommand,
    forgetCommand,
    metaTrainCommand,
    doctorCommand,
  ]) {
    program.addCommand(command(interrupt.signal).exitOverride());
  }
  try {
    await program.parseAsync(argv);
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode === 0 ? 0 : 2; // commander has already printed what was wrong
    }
    reportError(error);
    return exitCodeOf(error);
  }
}

// A reader that stops early (`fewtune predict … | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.exitCode = await main(process.argv);
