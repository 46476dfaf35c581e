import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { HostTensor, Named } from '@fewtune/engine';
import { ModelError, readSafetensors, writeSafetensors } from '@fewtune/models';
import { FewtuneError } from '../errors.js';
import type { GuardState } from './rate-guard.js';

/** How far a run has come. */
export interface Progress {
  /** The epoch it is in, from 0, and how many of its batches are done. */
  readonly epoch: number;
  readonly batches: number;
  /** Of this epoch's losses so far. */
  readonly sum: number;
  readonly steps: number;
  readonly epochLosses: readonly number[];
  /** Of this epoch's batches, those that did not diverge; all when left out. */
  readonly good?: number;
  readonly guard?: GuardState;
}

/** One text for the names and values of tensors that do not change in a run. */
export function digestOf(tensors: Named<HostTensor> = {}): string {
  const hash = createHash('sha256');
  for (const [name, { data }] of Object.entries(tensors)) {
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest('hex');
}

/** Written beside and then renamed, so that a run that is killed leaves the checkpoint before. */
export async function writeCheckpoint(
  path: string,
  configuration: Readonly<Record<string, unknown>>,
  progress: Progress,
  state: Named<HostTensor>,
): Promise<void> {
  const metadata = { configuration: JSON.stringify(configuration), progress: JSON.stringify(progress) };
  try {
    await writeSafetensors(path, state, metadata);
  } catch (cause) {
    throw new FewtuneError('OUTPUT_UNWRITABLE', `the checkpoint cannot be written to ${path}.`, { cause });
  }
}

/** @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE; OPTION_INVALID when it is of a run with other options */
export async function readCheckpoint(
  path: string,
  ours: Readonly<Record<string, unknown>>,
): Promise<{ progress: Progress; state: Named<HostTensor> }> {
  if (!existsSync(path)) throw new FewtuneError('FILE_NOT_FOUND', `there is no checkpoint at ${path}.`);
  const { tensors, metadata } = await readSafetensors(path).catch((cause: unknown) => {
    if (!(cause instanceof ModelError)) throw cause;
    throw new FewtuneError('FILE_UNREADABLE', `${path} is no checkpoint, or is damaged.`, { cause });
  });
  const theirs = parsed(metadata.configuration);
  const progress = parsed(metadata.progress);
  if (!theirs || !progress) {
    throw new FewtuneError('FILE_UNREADABLE', `${path} holds tensors, but is no checkpoint of meta-training.`);
  }
  const other = Object.keys(ours).filter((key) => JSON.stringify(ours[key]) !== JSON.stringify(theirs[key]));
  if (other.length > 0) {
    const each = other.map((key) =>
      ['weights', 'params', 'frozen', 'data'].includes(key)
        ? `other ${key}${key === 'data' ? '' : ' of the model'}`
        : `${key} ${JSON.stringify(theirs[key])}, not ${JSON.stringify(ours[key])}`,
    );
    throw new FewtuneError(
      'OPTION_INVALID',
      `${path} is of a run with ${each.join('; ')}. Use the options it was begun with, or start anew.`,
    );
  }
  return { progress: progress as unknown as Progress, state: tensors };
}

/** The object that a text is the JSON of; undefined when it is none. */
function parsed(text: string | undefined): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text ?? 'null');
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
