import type { HostTensor, Named } from '@fewtune/engine';
import { prefixed, under } from '../named.js';
import { openCheckpoint, readCheckpoint, writeCheckpoint } from '../run-checkpoint.js';

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

/** In the configuration, so that a checkpoint tells what it is of. */
const run = 'text encoder';

/** @throws FewtuneError OUTPUT_UNWRITABLE */
export async function writeTextCheckpoint(
  path: string,
  identity: Readonly<Record<string, unknown>>,
  { step, kept: { params, ...kept }, snapshot }: TextCheckpoint,
): Promise<void> {
  const state = { ...prefixed('state', snapshot), ...prefixed('kept', params) };
  await writeCheckpoint(path, { run, ...identity }, { step, kept }, state);
}

/** @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE; OPTION_INVALID when it is of a run with other options */
export async function readTextCheckpoint(
  path: string,
  identity: Readonly<Record<string, unknown>>,
): Promise<TextCheckpoint> {
  type TextProgress = { step: number; kept: Omit<Kept, 'params'> };
  const { progress, state } = await readCheckpoint<TextProgress>(path, { run, ...identity });
  return {
    step: progress.step,
    kept: { ...progress.kept, params: under('kept', state) },
    snapshot: under('state', state),
  };
}

/** Whether a checkpoint is of a text encoder's contrastive run. @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE */
export async function isTextCheckpoint(path: string): Promise<boolean> {
  return (await openCheckpoint(path)).configuration.run === run;
}
