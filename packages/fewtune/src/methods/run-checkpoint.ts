import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
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
  /** The run came to its end before its last epoch. */
  readonly ended?: boolean;
  /** Of what is kept beside the state. */
  readonly notes?: unknown;
}

/** One text for the names and values of tensors that do not change in a run. */
export function digestOf(tensors: Named<HostTensor> = {}): string {
  const hash = createHash('sha256');
  for (const [name, { data }] of Object.entries(tensors)) {
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest('hex');
}

/**
 * Written beside and then renamed, so that a run that is killed leaves the checkpoint before.
 *
 * @throws FewtuneError OUTPUT_UNWRITABLE
 */
export async function writeCheckpoint<P extends object = Progress>(
  path: string,
  configuration: Readonly<Record<string, unknown>>,
  progress: P,
  state: Named<HostTensor>,
): Promise<void> {
  const metadata = { configuration: JSON.stringify(configuration), progress: JSON.stringify(progress) };
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeSafetensors(path, state, metadata);
  } catch (cause) {
    throw new FewtuneError('OUTPUT_UNWRITABLE', `the checkpoint cannot be written to ${path}.`, { cause });
  }
}

/** @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE; OPTION_INVALID when it is of a run with other options */
export async function readCheckpoint<P extends object = Progress>(
  path: string,
  ours: Readonly<Record<string, unknown>>,
): Promise<{ progress: P; state: Named<HostTensor> }> {
  const { configuration: theirs, progress, state } = await openCheckpoint(path);
  // An option that one of the two leaves out differs as well.
  const names = [...new Set([...Object.keys(ours), ...Object.keys(theirs)])];
  const other = names.filter((name) => JSON.stringify(ours[name]) !== JSON.stringify(theirs[name]));
  if (other.length > 0) {
    const shown = (value: unknown) => (value === undefined ? 'none' : JSON.stringify(value));
    const each = other.map((name) => {
      if (['weights', 'params', 'frozen'].includes(name)) return `other ${name} of the model`;
      return digests.includes(name) ? `other ${name}` : `${name} ${shown(theirs[name])}, not ${shown(ours[name])}`;
    });
    throw new FewtuneError(
      'OPTION_INVALID',
      `${path} is of a run with ${each.join('; ')}. Use the options it was begun with, or start anew.`,
    );
  }
  return { progress: progress as P, state };
}

/** Parts of a configuration whose values say nothing to a reader. */
const digests: readonly string[] = ['data', 'encoder', 'validation'];

/** A checkpoint of any run. @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE */
export async function openCheckpoint(
  path: string,
): Promise<{ configuration: Record<string, unknown>; progress: object; state: Named<HostTensor> }> {
  if (!existsSync(path)) throw new FewtuneError('FILE_NOT_FOUND', `there is no checkpoint at ${path}.`);
  const { tensors, metadata } = await readSafetensors(path).catch((cause: unknown) => {
    if (!(cause instanceof ModelError)) throw cause;
    throw new FewtuneError('FILE_UNREADABLE', `${path} is no checkpoint, or is damaged.`, { cause });
  });
  const configuration = parsed(metadata.configuration);
  const progress = parsed(metadata.progress);
  if (!configuration || !progress) {
    throw new FewtuneError('FILE_UNREADABLE', `${path} holds tensors, but is no checkpoint of a training.`);
  }
  return { configuration, progress, state: tensors };
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
