import { adamW, constantRate, type HostTensor, hostTensor, scalar, trainStep } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import { type Contender, timeEach } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { pythonRival } from '../../lib/peers.js';
import type { Row } from '../../lib/report.js';
import { normals } from '../../lib/statistics.js';
import { blocks, channels, mamlLoss } from './maml-loss.js';
import { type Convolution, forwardProduct, inputProduct, productsContender, weightProduct } from './matrix-products.js';
import type { Part, PartContext } from './part.js';

const ways = 5;
const shots = 1;
const queries = 15;
const innerSteps = 5;
const innerLr = 0.01;
const size = 28;

/** A second-order MAML step of Conv4, 5-way 1-shot, five inner steps, Adam outside: 1 task and 4 tasks. */
export const maml: Part = {
  name: 'maml',
  async run(context) {
    return [...(await mamlStep(1, context)), ...(context.quick ? [] : await mamlStep(4, context))];
  },
};

async function mamlStep(tasks: number, { quick, python, torch }: PartContext): Promise<Row[]> {
  const args = { tasks, ways, shots, queries, steps: innerSteps, channels };
  const peer = (name: string, kind: string) =>
    pythonRival(python, 'torch_maml.py', { name: `${torch} ${name}`, kind, target: '<= 0.9x peer', args });
  return contest({
    what: `MAML second order, Conv4, ${tasks} task${tasks > 1 ? 's' : ''}`,
    ours: await ourStep(tasks),
    products: { contender: await productsContender(products(tasks), { threads }), target: null },
    rivals: [peer('autograd', 'autograd'), peer('torch.func', 'func')],
    rounds: quick ? 2 : 6,
    runs: quick ? 2 : tasks > 1 ? 3 : 5,
  });
}

/**
 * One task: the whole step in one program. Several tasks: a micro-batch each, in as many threads as there are cores; five
 * images are too few for two cores to share an operator well, whose cost is worst when the cores share no cache.
 */
async function ourStep(tasks: number): Promise<Contender> {
  const support = ways * shots;
  const asked = ways * queries;
  const model = conv4({ ways, filters: channels });
  const step = await trainStep({
    params: model.weights,
    batch: {
      supportImages: { dtype: 'float32', shape: [support, 1, size, size] },
      supportLabels: { dtype: 'int64', shape: [support] },
      queryImages: { dtype: 'float32', shape: [asked, 1, size, size] },
      queryLabels: { dtype: 'int64', shape: [asked] },
    },
    loss: (params, { batch }) => mamlLoss(model, params, batch, { steps: innerSteps, lr: innerLr }),
    optimizer: adamW({ weightDecay: 0 }),
    schedule: constantRate(1e-3),
    planMemory: true,
    ...(tasks === 1 ? { threads } : { threads: 1, accumulate: { weight: () => scalar(1), replicas: threads } }),
  });
  const images = (rows: number, seed: number) =>
    hostTensor('float32', [rows, 1, size, size], normals(rows * size * size, seed));
  const labels = (rows: number): HostTensor =>
    hostTensor(
      'int64',
      [rows],
      Array.from({ length: rows }, (_, row) => row % ways),
    );
  const given = Array.from({ length: tasks }, (_, task) => ({
    supportImages: images(support, 2 * task + 1),
    supportLabels: labels(support),
    queryImages: images(asked, 2 * task + 2),
    queryLabels: labels(asked),
  }));
  const run = () => step.run(tasks === 1 ? given[0]! : given);
  return { name: 'Fewtune', time: (count) => timeEach(count, run), close: () => step.dispose() };
}

/**
 * The products that a step cannot do without. An inner step has three a layer, y, dx and dw; differentiating it again
 * takes two for each of them. The first layer has no dx, and its input no gradient. Then once forward and backward on
 * the queries.
 */
function products(tasks: number) {
  const layers = (batch: number) =>
    Array.from({ length: blocks }, (_, block): Convolution => {
      const side = Math.floor(size / 2 ** block);
      return { batch, from: block === 0 ? 1 : channels, to: channels, window: 9, places: side * side };
    });
  const inner = layers(ways * shots).flatMap((layer, block) => {
    const times = tasks * innerSteps;
    // y = W x: dx, dw. dx = Wᵀ dy: its cotangent gives dy and dw. dw = dy xᵀ: its cotangent gives x's and dy's.
    if (block === 0) return [forwardProduct(layer, 2 * times), weightProduct(layer, 2 * times)];
    return [forwardProduct(layer, 3 * times), inputProduct(layer, 3 * times), weightProduct(layer, 3 * times)];
  });
  const outer = layers(ways * queries).flatMap((layer, block) => [
    forwardProduct(layer, tasks),
    ...(block === 0 ? [] : [inputProduct(layer, tasks)]),
    weightProduct(layer, tasks),
  ]);
  return [...inner, ...outer];
}
