import { type Encoder, SentenceEmbedder } from '@fewtune/models';
import { episodeSampler, wayLabels } from '../../data/episodes.js';
import type { EpisodeSource } from '../../data/meta-dataset.js';
import { rowsByClass } from '../../data/split.js';
import { FewtuneError } from '../../errors.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits, selectRows } from '../linear/logistic.js';
import { prototypeHead } from './prototype.js';

/** Sentences of a class that are looked at: more cost time and narrow the estimate little. */
const PER_CLASS = 15;
const [SHOTS, QUERIES, EPISODES, SEED] = [5, 5, 40, 1];

/**
 * Mean accuracy of plain prototypes on 40 episodes of all classes (5 shots, 5 queries; fewer of both where a class is
 * smaller), the same ones at every call.
 *
 * @throws FewtuneError INTERRUPTED; CLASS_TOO_SMALL when a class has one example, OPTION_INVALID with fewer than two classes
 */
export async function episodeAccuracy(
  encoder: Encoder,
  source: EpisodeSource,
  { threads, signal }: { threads?: number; signal?: AbortSignal } = {},
): Promise<number> {
  const rows = rowsByClass(source.labels).flatMap((of) => [...of].slice(0, PER_CLASS));
  const labels = Int32Array.from(rows, (row) => source.labels[row]!);
  const { classes, hidden } = { classes: source.classes.length, hidden: encoder.hidden };
  const smallest = Math.min(...source.classes.map((_, c) => labels.filter((label) => label === c).length));
  const shots = Math.max(1, Math.min(SHOTS, Math.floor(smallest / 2)));
  const queries = Math.max(1, Math.min(QUERIES, smallest - shots));
  if (classes < 2) throw new FewtuneError('OPTION_INVALID', `validation needs two classes; there are ${classes}.`);
  const shape = { ways: classes, shots, queries };
  const sampler = episodeSampler({ labels, classNames: source.classes, shape, seed: SEED });
  await using embedder = await SentenceEmbedder.create(encoder, { threads });
  const features = await embedder
    .embed(
      rows.map((row) => source.texts[row]!),
      { signal },
    )
    .catch((error: unknown) => {
      if (!signal?.aborted) throw error;
      throw new FewtuneError('INTERRUPTED', 'interrupted while encoding sentences', { cause: error });
    });
  const support = { hidden, classes, labels: wayLabels(classes, shots) };
  const answers = wayLabels(classes, queries);
  let total = 0;
  for (const episode of sampler.episodes(EPISODES)) {
    const head = prototypeHead({ ...support, features: selectRows(features, hidden, episode.support) }, 1);
    total += accuracy(argmaxRows(headLogits(head, selectRows(features, hidden, episode.query)), classes), answers);
  }
  return total / EPISODES;
}
