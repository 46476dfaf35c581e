import { hostTensor } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import { imageEmbedding, Maml, MetricLearner, wayLabels } from 'fewtune';
import type { Benchmark } from '../lib/bench.js';
import { contest } from '../lib/contest.js';
import { threads } from '../lib/machine.js';
import { peersPython, pythonRival } from '../lib/peers.js';
import type { Row } from '../lib/report.js';
import { normals } from '../lib/statistics.js';
import { stepsOfOneRun } from './fewshot-speed/one-run.js';

const size = 28;
const channels = 64;
const target = '<= 1x peer';

interface Shape {
  readonly ways: number;
  readonly shots: number;
  readonly queries: number;
}

/** Milliseconds of a training step of the few-shot learners on images, as their users take it, beside their peers. */
export const fewshotSpeed: Benchmark = {
  name: 'fewshot-speed',
  about: 'a ProtoNet episode against easyfsl, a second-order MAML step against learn2learn, on Conv4',
  async run({ quick, peers }) {
    const python = peers ? peersPython() : undefined;
    const rows: Row[] = [];
    rows.push(...(await protoNet({ ways: 5, shots: 1, queries: 15 }, quick, python)));
    if (!quick) rows.push(...(await protoNet({ ways: 20, shots: 5, queries: 15 }, quick, python)));
    rows.push(...(await maml(1, quick, python)));
    if (!quick) rows.push(...(await maml(4, quick, python)));
    return { rows, seeds: [1] };
  },
};

const images = (rows: number, seed: number) =>
  hostTensor('float32', [rows, 1, size, size], normals(rows * size * size, seed));

async function protoNet({ ways, shots, queries }: Shape, quick: boolean, python?: string): Promise<Row[]> {
  const learner = new MetricLearner({ model: imageEmbedding(conv4({ filters: channels })), threads });
  const task = {
    x: { images: images(ways * (shots + queries), 1) },
    support: wayLabels(ways, shots),
    query: wayLabels(ways, queries),
  };
  const ours = stepsOfOneRun(
    'Fewtune',
    [task],
    (batches, onProgress) => learner.metaTrain(batches, { onProgress }),
    () => learner.dispose(),
  );
  const rival = (name: string, kind: string) =>
    pythonRival(python, 'torch_protonet.py', { name, kind, target, args: { ways, shots, queries, channels } });
  return contest({
    what: `ProtoNet episode, Conv4, ${ways}-way ${shots}-shot, ${queries} queries a way`,
    ours,
    rivals: [rival('easyfsl', 'easyfsl'), rival('PyTorch', 'torch')],
    rounds: quick ? 2 : 6,
    runs: quick ? 2 : ways > 5 ? 3 : 8,
  });
}

/**
 * Five inner steps on a support set of one image a way. Several tasks: as many at once as there are cores, in a thread each;
 * five images are too few for cores to share an operator well.
 */
async function maml(tasks: number, quick: boolean, python?: string): Promise<Row[]> {
  const shape = { ways: 5, shots: 1, queries: 15, steps: 5 };
  const { ways, shots, queries, steps } = shape;
  const where = tasks === 1 ? { threads } : { threads: 1, replicas: threads };
  const model = conv4({ ways, filters: channels });
  const learner = new Maml({ model, innerLr: 0.01, innerSteps: steps, ...where });
  const examples = (each: number, seed: number) => ({
    x: images(ways * each, seed),
    y: hostTensor('int64', [ways * each], [...wayLabels(ways, each)]),
  });
  const batch = Array.from({ length: tasks }, (_, task) => ({
    support: examples(shots, 2 * task + 1),
    query: examples(queries, 2 * task + 2),
  }));
  const ours = stepsOfOneRun(
    'Fewtune',
    batch,
    (batches, onProgress) => learner.metaTrain(batches, { onProgress }),
    () => learner.dispose(),
  );
  const args = { tasks, ...shape, channels };
  return contest({
    what: `MAML second order, Conv4, ${ways}-way ${shots}-shot, ${steps} inner steps, ${tasks} task${tasks > 1 ? 's' : ''}`,
    ours,
    rivals: [
      pythonRival(python, 'learn2learn_maml.py', { name: 'learn2learn', kind: 'learn2learn', target, args }),
      pythonRival(python, 'torch_maml.py', { name: 'PyTorch autograd', kind: 'autograd', target: null, args }),
    ],
    rounds: quick ? 2 : 6,
    runs: quick ? 2 : tasks > 1 ? 3 : 5,
  });
}
