import { existsSync } from 'node:fs';
import type { HostTensor, Named } from '@fewtune/engine';
import { ModelError, readSafetensors, writeSafetensors } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';

/** Accuracy on the validation classes with some share of the update that a step had reached. */
export interface Look {
  readonly step: number;
  readonly share: number;
  readonly accuracy: number;
}

/** The best update so far and the share of it, and all looks until now. */
export interface Kept {
  readonly step: number;
  readonly share: number;
  readonly params: Named<HostTensor>;
  readonly looks: readonly Look[];
}

export interface TextCheckpoint {
  readonly step: number;
  readonly kept: Kept;
  /** Weights and moments of the training step. */
  readonly snapshot: Named<HostTensor>;
}

/**
 * Written beside and then renamed, so that a run that is killed leaves the checkpoint before.
 *
 * @throws FewtuneError OUTPUT_UNWRITABLE
 */
export async function writeTextCheckpoint(
  path: string,
  identity: Readonly<Record<string, unknown>>,
  { step, kept, snapshot }: TextCheckpoint,
): Promise<void> {
  const under = (prefix: string, tensors: Named<HostTensor>) =>
    Object.entries(tensors).map(([name, tensor]) => [`${prefix}/${name}`, tensor] as const);
  const tensors = Object.fromEntries([...under('state', snapshot), ...under('kept', kept.params)]);
  const progress = { step, kept: { step: kept.step, share: kept.share, looks: kept.looks } };
  try {
    await writeSafetensors(path, tensors, { metaText: JSON.stringify({ identity, progress }) });
  } catch (cause) {
    throw new FewtuneError('OUTPUT_UNWRITABLE', `the checkpoint cannot be written to ${path}.`, { cause });
  }
}

/** @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE; OPTION_INVALID when it is of a run with other options */
export async function readTextCheckpoint(
  path: string,
  identity: Readonly<Record<string, unknown>>,
): Promise<TextCheckpoint> {
  if (!existsSync(path)) throw new FewtuneError('FILE_NOT_FOUND', `there is no checkpoint at ${path}.`);
  const { tensors, metadata } = await readSafetensors(path).catch((cause: unknown) => {
    if (!(cause instanceof ModelError)) throw cause;
    throw new FewtuneError('FILE_UNREADABLE', `${path} is no checkpoint, or is damaged.`, { cause });
  });
  if (metadata.metaText === undefined) {
    throw new FewtuneError('FILE_UNREADABLE', `${path} holds tensors, but is no checkpoint of a text encoder's run.`);
  }
  const { identity: theirs, progress } = JSON.parse(metadata.metaText) as {
    identity: Record<string, unknown>;
    progress: { step: number; kept: Omit<Kept, 'params'> };
  };
  const ours = JSON.parse(JSON.stringify(identity)) as Record<string, unknown>;
  const names = [...new Set([...Object.keys(ours), ...Object.keys(theirs)])];
  const other = names.filter((name) => JSON.stringify(ours[name]) !== JSON.stringify(theirs[name]));
  if (other.length > 0) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${path} is of a run with other ${other.join(', ')}. Use what it was begun with, or start anew.`,
    );
  }
  const of = (prefix: string) =>
    Object.fromEntries(
      Object.entries(tensors).flatMap(([name, tensor]) =>
        name.startsWith(`${prefix}/`) ? [[name.slice(prefix.length + 1), tensor] as const] : [],
      ),
    );
  return { step: progress.step, kept: { ...progress.kept, params: of('kept') }, snapshot: of('state') };
}
