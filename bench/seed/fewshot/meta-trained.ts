import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Encoder } from '@fewtune/models';
import {
  adaptEncoder,
  type EpisodeSource,
  type MetaTextOptions,
  metaTextDefaults,
  metaTextRecipe,
  metaTrainText,
  readAdapter,
  writeAdapter,
} from 'fewtune';
import { say } from '../../lib/bench.js';

/**
 * The encoder that the recipe makes of a fold's training classes. Training takes minutes, so the adapter is
 * kept beside the features, under a key of settings, data, base and the recipe's version; without such a file it trains.
 */
export async function metaTrained(
  encoder: Encoder,
  train: EpisodeSource,
  validation: EpisodeSource | undefined,
  options: MetaTextOptions,
  name: string,
  cache: boolean,
): Promise<Encoder> {
  const settings = { ...metaTextDefaults, ...options };
  const key = createHash('sha256')
    .update(JSON.stringify({ settings, recipe: metaTextRecipe, base: encoder.fingerprint, train: digest(train) }))
    .update(JSON.stringify(validation ? digest(validation) : null))
    .digest('hex');
  const root =
    process.env.FEWTUNE_CACHE || path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'fewtune');
  const folder = path.join(root, 'bench', 'meta-trained', key.slice(0, 32));
  if (cache && existsSync(folder)) return adaptEncoder(encoder, await readAdapter(folder));
  const run = metaTrainText(encoder, train, { ...options, ...(validation && { validation }) });
  for await (const { step, steps, loss, validation: accuracy, elapsedMs } of run) {
    if (step % 50 !== 0 && step !== steps) continue;
    const seen = accuracy === undefined ? '' : `, validation ${(100 * accuracy).toFixed(2)} %`;
    say(`${name}: step ${step} of ${steps}, loss ${loss.toFixed(3)}${seen}, ${(elapsedMs / 1000).toFixed(0)} s`);
  }
  const { encoder: tuned, adapter } = await run.result;
  if (cache) {
    await mkdir(path.dirname(folder), { recursive: true });
    await writeAdapter(folder, adapter);
  }
  return tuned;
}

const digest = ({ texts, labels, classes }: EpisodeSource) =>
  createHash('sha256')
    .update(JSON.stringify([texts, [...labels], classes]))
    .digest('hex');
