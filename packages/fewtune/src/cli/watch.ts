import { existsSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { FewtuneError } from '../errors.js';
import type { Run } from '../run.js';
import { Progress, type ProgressState } from './progress.js';

/** Where a run that writes `out` keeps its state until it is done. */
export function checkpointOf(out: string): string {
  const target = resolve(out);
  return join(dirname(target), `.${basename(target)}.checkpoint.safetensors`);
}

/**
 * Shows a run's progress until its end.
 *
 * @param checkpoint of a run that `--resume` can go on with
 */
export async function watch<Result>(run: Run<ProgressState, Result>, checkpoint?: string): Promise<Result> {
  const progress = new Progress();
  try {
    for await (const event of run) progress.show(event);
    return await run.result;
  } catch (error) {
    const isKept = checkpoint !== undefined && existsSync(checkpoint);
    if (!(isKept && error instanceof FewtuneError && error.code === 'INTERRUPTED')) throw error;
    throw new FewtuneError('INTERRUPTED', 'interrupted: the run is kept; --resume goes on with it', { cause: error });
  } finally {
    progress.done();
  }
}
