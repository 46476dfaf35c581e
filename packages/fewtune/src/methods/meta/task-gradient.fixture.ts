import { compile, type HostTensor, hostTensor, type Named, type Tensor, valueAndGrad } from '@fewtune/engine';
import type { AnyMetaModel, AnyMetaTask } from './meta-model.js';
import { type BilevelOptions, type Phase, type TracedExamples, taskLoss } from './task-loss.js';

/** Of plain MAML with second-order gradients. */
export const plainOptions = {
  variant: 'maml',
  loss: 'cross-entropy',
  proximal: 1,
  transductive: false,
  firstOrder: false,
  multiStep: false,
} as const;

/** Outer loss of a task, and its gradient by name, as a function of the meta-learned tensors; of one form of these. */
export async function taskGradient(
  model: AnyMetaModel,
  params: Named<HostTensor>,
  { support, query }: AnyMetaTask,
  options: BilevelOptions & Phase,
) {
  const { frozen = {} } = model;
  const trace = ({ params, frozen, ...task }: Traced): Named<Tensor> => {
    const lossOf = (own: Named<Tensor>) => taskLoss(model, own, frozen, task, options);
    const { value, gradient } = valueAndGrad(lossOf)(params);
    return { ...gradient, 'loss ': value };
  };
  const given = { frozen, support, query };
  const program = await compile(trace, { ...given, params } as never);
  return {
    async at(params: Named<HostTensor>): Promise<{ loss: number; gradient: Named<HostTensor> }> {
      const found = (await program.run({ ...given, params } as never)) as Named<HostTensor>;
      const { 'loss ': loss, ...gradient } = found;
      return { loss: Number(loss!.data[0]), gradient };
    },
    [Symbol.asyncDispose]: () => program.dispose(),
  };
}

interface Traced {
  readonly params: Named<Tensor>;
  readonly frozen: Named<Tensor>;
  readonly support: TracedExamples;
  readonly query: TracedExamples;
}

/** Float32 tensors of the same names and shapes, every element changed. */
export function changed(tensors: Named<HostTensor>, change: (value: number) => number): Record<string, HostTensor> {
  const entries = Object.entries(tensors).map(([name, { shape, data }]): [string, HostTensor] => {
    const values = Float32Array.from(data as Float32Array, change);
    return [name, hostTensor('float32', shape, values)];
  });
  return Object.fromEntries(entries);
}
