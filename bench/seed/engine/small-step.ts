import { constantRate, sgd, trainStep } from '@fewtune/engine';
import { type Contender, timeEach } from '../../lib/contender.js';
import { batchSpecs, type SmallModel, smallLr } from './small-models.js';

/** A contender that remembers its losses. */
export interface Recorded extends Contender {
  readonly losses: readonly number[];
}

/** Our step of a small model, as a contender. */
export async function smallStep(
  model: SmallModel,
  session: { threads: number; backend?: 'wasm' },
  name = 'Fewtune',
): Promise<Recorded> {
  const step = await trainStep({
    params: model.weights,
    batch: batchSpecs(model),
    loss: (params, { batch }) => model.loss(params, { batch }),
    optimizer: sgd(),
    schedule: constantRate(smallLr),
    ...session,
  });
  const losses: number[] = [];
  return {
    name,
    losses,
    time: (count) => timeEach(count, async () => losses.push((await step.run(model.batch)).loss)),
    close: () => step.dispose(),
  };
}
