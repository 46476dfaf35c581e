import type { Encoder } from '@fewtune/models';
import {
  adaptText,
  attentionPrototypeHead,
  CachedFeatures,
  type EpisodeSource,
  episodeSampler,
  headLogits,
  type LinearHead,
  labelText,
  type MetaDataset,
  metaTrainMaml,
  prototypeHead,
  type TextMamlStart,
  textMamlSettings,
  wayLabels,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { type Row, row } from '../../lib/report.js';
import { studentInterval } from '../../lib/statistics.js';
import { share } from './feature-tasks.js';
import { mamlAdapter, metaTrained } from './meta-trained.js';

const [SHOTS, QUERIES] = [5, 5];

/**
 * MAML on the LoRA weights of the encoder, beside prototypes of the metric-trained one, on the same episodes of unseen
 * classes. It is meta-trained from the metric-trained adapter. Adapting to an episode of all classes takes about half a
 * minute of one core, so there are few of these, and one fold.
 */
export async function textMamlRows(
  name: string,
  { train, validation, test }: MetaDataset,
  encoder: Encoder,
  quick: boolean,
): Promise<Row[]> {
  const start = await mamlStart(encoder, train, validation, name, quick);
  // In the quick look prototypes are those of the encoder as it is.
  const tuned = quick ? encoder : await metaTrained(encoder, train, validation, {}, name, true);
  await using features = new CachedFeatures(tuned, quick ? { cache: false } : {});
  const rows: Row[] = [];
  for (const [ways, episodes] of quick
    ? [[3, 2]]
    : [
        [test.classes.length, 8],
        [5, 40],
      ]) {
    const shape = { ways: ways!, shots: SHOTS, queries: QUERIES };
    const sampler = episodeSampler({ labels: test.labels, classNames: test.classes, shape, seed: 1 });
    const scores: { maml: number; plain: number; improved: number }[] = [];
    for (const { classes: drawn, support, query } of sampler.episodes(episodes)) {
      const shown = (of: Int32Array) => Array.from(of, (at) => test.texts[at]!);
      const labels = wayLabels(ways!, SHOTS);
      const classes = Array.from({ length: ways! }, (_, way) => String(way));
      const answers = wayLabels(ways!, QUERIES);
      const fitted = await adaptText(start, { texts: shown(support), labels, classes });
      const maml = share(await fitted.logits(shown(query)), { classes: ways!, answers });
      await fitted.dispose?.();
      const own = {
        hidden: features.hidden,
        classes: ways!,
        labels,
        features: await features.features(shown(support)),
      };
      const names = await features.features(Array.from(drawn, (c) => labelText(test.classes[c]!)));
      const asked = await features.features(shown(query));
      const of = (head: LinearHead) => share(headLogits(head, asked), { classes: ways!, answers });
      scores.push({ maml, plain: of(prototypeHead(own, 1)), improved: of(attentionPrototypeHead({ ...own, names })) });
    }
    const title = `${name} ${ways}-way ${SHOTS}-shot`;
    const figure = (values: readonly number[]) => {
      const { mean, low, high } = studentInterval(values);
      return { mean, high, note: `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${values.length} episodes` };
    };
    const maml = figure(scores.map((entry) => entry.maml));
    const [plain, improved] = (['plain', 'improved'] as const).map((of) => figure(scores.map((e) => e[of])));
    const lost = figure(scores.map((entry) => entry.improved - entry.maml));
    const what = `${title}: MAML on LoRA weights`;
    const others = { unit: '%', target: null } as const;
    rows.push(
      row({ what, ours: maml.mean, peer: plain!.mean, peerName: 'plain prototype', ...others, note: maml.note }),
      row({ what, ours: maml.mean, peer: improved!.mean, peerName: 'improved prototype', ...others, note: maml.note }),
      row({
        what: `${title}: improved prototype − MAML on LoRA weights, paired`,
        ours: lost.mean,
        unit: 'points',
        target: '<= 1',
        note: lost.note,
      }),
    );
    say(`${title}: MAML ${maml.mean.toFixed(2)}, prototypes ${plain!.mean.toFixed(2)}, ${improved!.mean.toFixed(2)}`);
  }
  return rows;
}

/** In the quick look a step of each kind, from nothing. */
async function mamlStart(
  encoder: Encoder,
  train: EpisodeSource,
  validation: EpisodeSource,
  name: string,
  quick: boolean,
): Promise<TextMamlStart> {
  if (quick) {
    const options = { steps: 1, ways: 3, shots: 1, queries: 1, warmUp: { steps: 1 } };
    return (await metaTrainMaml(encoder, train, options).result).start;
  }
  const { weights } = await mamlAdapter(encoder, train, validation, name);
  return { encoder, params: weights, settings: textMamlSettings };
}
