import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Encoder } from '@fewtune/models';
import {
  adaptEncoder,
  asLora,
  type EpisodeSource,
  episodeSampler,
  type LoraAdapter,
  type MetaTextOptions,
  MetricLearner,
  metaMamlDefaults,
  metaTextDefaults,
  metaTextRecipe,
  metaTrainMaml,
  metaTrainText,
  readAdapter,
  textEmbedding,
  writeAdapter,
} from 'fewtune';
import { say } from '../../lib/bench.js';

/** The encoder that `metaTrainText` makes of a fold's training classes. */
export async function metaTrained(...given: Parameters<typeof metaTrainedAdapter>): Promise<Encoder> {
  return adaptEncoder(given[0], await metaTrainedAdapter(...given));
}

/** The update of that encoder. */
export async function metaTrainedAdapter(
  encoder: Encoder,
  train: EpisodeSource,
  validation: EpisodeSource | undefined,
  options: MetaTextOptions,
  name: string,
  cache: boolean,
): Promise<LoraAdapter> {
  const settings = { ...metaTextDefaults, ...options };
  const key = { settings, recipe: metaTextRecipe, train: digest(train), validation: validation && digest(validation) };
  return kept(encoder, key, cache, async () => {
    const run = metaTrainText(encoder, train, { ...options, ...(validation && { validation }) });
    for await (const { step, steps, loss, validation: accuracy, elapsedMs } of run) {
      if (step % 20 !== 0 && step !== steps) continue;
      const seen = accuracy === undefined ? '' : `, validation ${(100 * accuracy).toFixed(2)} %`;
      say(`${name}: step ${step} of ${steps}, loss ${loss.toFixed(3)}${seen}, ${(elapsedMs / 1000).toFixed(0)} s`);
    }
    const { adapter, validation: looks, keptShare } = await run.result;
    const list = looks.map(({ share, accuracy }) => `${share}: ${(100 * accuracy).toFixed(2)}`).join(', ');
    say(`${name}: validation by share ${list}; kept ${keptShare}`);
    return adapter;
  });
}

/** Rows of an episode are as many as those of a batch of the recipe, and so are the steps. */
const plainEpisodes = { ways: 12, shots: 3, queries: 3, steps: 120, lr: 4e-4, seed: 7 };

/** The encoder after plain prototypical meta-training: episodes, Euclidean distances, none of the recipe's additions. */
export async function prototypical(
  encoder: Encoder,
  train: EpisodeSource,
  name: string,
  cache: boolean,
): Promise<Encoder> {
  const { steps, lr, seed, ...shape } = plainEpisodes;
  const key = { plainEpisodes, version: 1, train: digest(train) };
  return adaptEncoder(
    encoder,
    await kept(encoder, key, cache, async () => {
      const model = textEmbedding({ encoder });
      const sampler = episodeSampler({ labels: train.labels, classNames: train.classes, shape, seed });
      await using learner = new MetricLearner({ model, lr, decaySteps: steps, clipNorm: 1, seed });
      const batches = () => sampled();
      function* sampled() {
        for (const episode of sampler.episodes(steps)) yield [model.taskOf(train, episode)];
      }
      const run = learner.metaTrain(batches);
      for await (const { step, loss, elapsedMs } of run) {
        if (step % 20 === 0)
          say(`${name}: episode ${step}, loss ${loss.toFixed(3)}, ${(elapsedMs / 1000).toFixed(0)} s`);
      }
      await run.result;
      return model.adapterOf(learner.weights);
    }),
  );
}

/** The LoRA weights after MAML on the same classes, from the adapter above. */
export async function mamlAdapter(
  encoder: Encoder,
  train: EpisodeSource,
  validation: EpisodeSource,
  name: string,
): Promise<LoraAdapter> {
  const { steps } = metaMamlDefaults;
  const key = {
    maml: 1,
    settings: metaMamlDefaults,
    recipe: metaTextRecipe,
    train: digest(train),
    validation: digest(validation),
  };
  return kept(encoder, key, true, async () => {
    const start = await metaTrainedAdapter(encoder, train, validation, {}, name, true);
    const run = metaTrainMaml(encoder, train, { start });
    for await (const { step, loss, elapsedMs } of run) {
      if (step % 5 === 0)
        say(`${name}: MAML step ${step} of ${steps}, loss ${loss.toFixed(3)}, ${(elapsedMs / 1000).toFixed(0)} s`);
    }
    return (await run.result).adapter;
  });
}

/**
 * Training takes minutes, so what was learned is kept beside the features, under a key of settings, data, base and the
 * recipe's version; without it `train` is run.
 */
async function kept(
  encoder: Encoder,
  key: object,
  cache: boolean,
  train: () => Promise<LoraAdapter>,
): Promise<LoraAdapter> {
  if (!cache) return train();
  const root =
    process.env.FEWTUNE_CACHE || path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'fewtune');
  const name = createHash('sha256')
    .update(JSON.stringify({ ...key, base: encoder.fingerprint }))
    .digest('hex');
  const folder = path.join(root, 'bench', 'meta-trained', name.slice(0, 32));
  if (existsSync(folder)) return asLora(await readAdapter(folder), folder);
  const adapter = await train();
  await mkdir(path.dirname(folder), { recursive: true });
  await writeAdapter(folder, adapter);
  return adapter;
}

const digest = ({ texts, labels, classes }: EpisodeSource) =>
  createHash('sha256')
    .update(JSON.stringify([texts, [...labels], classes]))
    .digest('hex');
