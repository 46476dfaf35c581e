/**
 * Metric learning in a few seconds: made-up characters of three strokes, each written by an unsteady hand. The network
 * learns from 60 characters and is asked about 20 others, of which it is shown one example each.
 * `node examples/dist/metric-learning.js`
 */
import { hostTensor, normals } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import {
  classDistances,
  type EpisodeOptions,
  episodeSampler,
  imageEmbedding,
  MetricLearner,
  shapeOf,
  takeRows,
  wayLabels,
} from 'fewtune';

const size = 16;
const perClass = 12;
const normal = normals(5);

/** Images [characters · 12, 1, 16, 16], and which character each is. */
function characters(count: number) {
  const pixels: number[] = [];
  const labels: number[] = [];
  for (let character = 0; character < count; character++) {
    const strokes = Array.from({ length: 3 }, () => Array.from({ length: 4 }, () => size / 2 + 4 * normal()));
    for (let example = 0; example < perClass; example++) {
      labels.push(character);
      const written = strokes.map((ends) => ends.map((end) => end + 0.9 * normal()));
      for (let at = 0; at < size * size; at++) pixels.push(inkAt(at % size, Math.floor(at / size), written));
    }
  }
  return { images: hostTensor('float32', [labels.length, 1, size, size], pixels), labels: Int32Array.from(labels) };
}

/** 1 on a stroke from (x0, y0) to (x1, y1), falling to 0 within a pixel and a half. */
function inkAt(x: number, y: number, strokes: number[][]): number {
  const distances = strokes.map(([x0, y0, x1, y1]) => {
    const [dx, dy] = [x1! - x0!, y1! - y0!];
    const along = Math.min(1, Math.max(0, ((x - x0!) * dx + (y - y0!) * dy) / (dx * dx + dy * dy)));
    return Math.hypot(x - x0! - along * dx, y - y0! - along * dy);
  });
  return Math.max(0, 1 - Math.min(...distances) / 1.5);
}

type Characters = ReturnType<typeof characters>;

const episodesOf = ({ labels }: Characters, shape: EpisodeOptions['shape']) =>
  episodeSampler({ labels, shape, seed: 1 });
const taskOf = ({ images }: Characters, episode: ReturnType<ReturnType<typeof episodesOf>['episode']>) => {
  const { ways, shots, queries } = shapeOf(episode);
  return {
    x: { images: takeRows(images, [...episode.support, ...episode.query]) },
    support: wayLabels(ways, shots),
    query: wayLabels(ways, queries),
  };
};

const [seen, unseen] = [characters(60), characters(20)];
const model = imageEmbedding(conv4({ size, filters: 24 }), { size });
await using learner = new MetricLearner({ model });

/** Accuracy on 50 episodes of all 20 unseen characters with one example each, and how the embeddings lie. */
async function report(when: string) {
  let right = 0;
  let all = 0;
  for (const episode of episodesOf(unseen, { ways: 20, shots: 1, queries: 5 }).episodes(50)) {
    const { x, support, query } = taskOf(unseen, episode);
    const { data } = await learner.classify({ x, support, queries: query.length }); // [100, 20]
    for (const [row, way] of query.entries()) {
      const scores = (data as Float32Array).subarray(20 * row, 20 * row + 20);
      if (scores.indexOf(Math.max(...scores)) === way) right++;
      all++;
    }
  }
  const { data } = await learner.embed({ images: unseen.images });
  const rows = { hidden: model.dim, classes: 20, features: data as Float32Array, labels: unseen.labels };
  const { intra, inter, ratio, silhouette } = classDistances(rows);
  const figures = Object.entries({ intra, inter, ratio, silhouette }).map(([name, x]) => `${name} ${x.toFixed(2)}`);
  console.log(`${when}: ${((100 * right) / all).toFixed(1)} % right of 20 characters; ${figures.join(', ')}`);
}

await report('before');
const batches = Array.from(episodesOf(seen, { ways: 20, shots: 2, queries: 4 }).batches(1, 120), (episodes) =>
  episodes.map((episode) => taskOf(seen, episode)),
);
for await (const { step, loss } of learner.metaTrain(batches)) {
  if (step % 40 === 0) console.log(`step ${step}: loss ${loss.toFixed(3)}`);
}
await report('after');
