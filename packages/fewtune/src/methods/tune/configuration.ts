import { createHash } from 'node:crypto';
import type { HostTensor, Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { digestOf } from '../run-checkpoint.js';
import type { Rows } from './held-out.js';
import type { Validation } from './options.js';
import type { Trained } from './tune-program.js';

/** Everything beside the examples that must be the same for a resumed run to be the run it goes on from. */
export function configurationOf(
  { adaptation, task, head, settings, steps }: Trained,
  encoder: Pick<Encoder, 'fingerprint'>,
  seed: number,
  { on, ...validation }: Partial<Validation> = {},
): Record<string, unknown> {
  // How weights are used shows in their adapter and their rates.
  const { weights: _, saved: __, ...adapter } = adaptation.adapter?.(adaptation.params) ?? {};
  const rates = Object.keys(adaptation.params).map((name) => adaptation.lrScale?.(name) ?? 1);
  return {
    ...settings,
    seed,
    steps,
    task: [task.kind, ...task.outputs],
    encoder: encoder.fingerprint,
    params: digestOf({ ...adaptation.params, ...head }),
    adapter,
    rates: [...new Set(rates)],
    looks: on === undefined ? null : validation,
  };
}

/** One text for examples and their targets. */
export function digestOfRows(parts: readonly Rows[]): string {
  const hash = createHash('sha256');
  for (const { task, rows, ids, types } of parts) {
    const targets: Named<HostTensor> = task.targets(rows);
    hash.update(JSON.stringify(types ? [ids, types] : ids)).update(digestOf(targets));
  }
  return hash.digest('hex');
}
