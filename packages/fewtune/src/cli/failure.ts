import { ModelError } from '@fewtune/models';
import { FewtuneError } from '../errors.js';
import { printable } from '../text.js';

/** One message on stderr, never a stack trace (set FEWTUNE_DEBUG=1 to see it). */
export function reportError(error: unknown): void {
  process.stderr.write(`${printable(messageOf(error))}\n`);
  if (process.env.FEWTUNE_DEBUG === '1' && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
  } else if (exitCodeOf(error) === 1) {
    process.stderr.write('This is a fault of ours. Set FEWTUNE_DEBUG=1 to see where it happened.\n');
  }
}

/** 2 for what the user can mend, 130 for an interruption, 1 for everything that nobody foresaw. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof FewtuneError) {
    return { input: 2, internal: 1, interrupted: 130 }[error.kind];
  }
  if (error instanceof ModelError) {
    return error.code === 'ABORTED' ? 130 : 2; // an encoder that is not there, damaged, or of an unknown kind
  }
  return 1;
}

function messageOf(error: unknown): string {
  if (exitCodeOf(error) === 130) {
    const kept = error instanceof FewtuneError && error.message.startsWith('interrupted: ');
    return kept ? error.message : 'interrupted: nothing was written';
  }
  if (error instanceof FewtuneError || error instanceof ModelError) {
    return `error [${error.code}] ${error.message}`;
  }
  return `error [INTERNAL] ${error instanceof Error ? error.message : String(error)}`;
}
