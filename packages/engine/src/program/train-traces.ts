/** The programs of a training step: the whole of it, a micro-batch, and both in float32. */
import { EngineError } from '../errors.js';
import { div, mul, sizeOf } from '../ops/arithmetic.js';
import { globalNorm } from '../optim/clip.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { placeholder, scalar } from '../tensor.js';
import { valueAndGrad } from '../transforms/grad.js';
import { withPrecision } from '../transforms/precision.js';
import type { StateTrace } from './state-program.js';
import type { TracedOptions } from './train-options.js';
import type { TracedBatch } from './update.js';
import { addGradients, addLoss, givenInputs, prefixed, seedOf, stateInputs, traceUpdate, under } from './update.js';

export function traceWhole<B extends Named<TensorSpec>>(
  options: TracedOptions<B>,
  start: Named<TensorSpec>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'optimizer', 'scale');
  const { given, ...inputs } = givenInputs(options.frozen ?? {}, options.batch, options.packFrozen);
  const params = under(reads, 'param');
  const { loss, gradient } = gradientOf(options, params, { ...inputs, step: reads.step! }, reads['scale/value']);
  const { writes, metrics } = traceUpdate(reads, gradient, 1, { ...options, wantsNorm: Boolean(options.shadow) });
  return { reads, given, writes, results: { loss, ...metrics } };
}

export function tracePart<B extends Named<TensorSpec>>(
  options: TracedOptions<B>,
  start: Named<TensorSpec>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'scale', 'sum');
  const { given, loss, gradient, weighted, weight } = partOf(options, reads);
  const scale = reads['scale/value'];
  const norm = () => div(globalNorm(Object.values(gradient)), scale ?? weight);
  return {
    reads,
    given,
    writes: { ...addGradients(reads, weighted), ...addLoss(reads, loss, weight) },
    results: { loss, ...(options.shadow && { gradientNorm: norm(), ...(scale && { lossScale: scale }) }) },
  };
}

/** A micro-batch that is given all it reads, and returns what is to be added to the sums: it may run anywhere. */
export function traceReplica<B extends Named<TensorSpec>>(
  options: TracedOptions<B>,
  start: Named<TensorSpec>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'scale');
  const count = placeholder('sum/count', { dtype: 'int64', shape: [] });
  const { given, loss, weighted, weight } = partOf(options, { ...reads, 'sum/count': count });
  return {
    reads: {},
    given: { ...given, ...reads, 'sum/count': count },
    writes: {},
    results: { loss, ...prefixed(weighted, 'sum/gradient'), 'sum/loss': mul(loss, weight), 'sum/weight': weight },
  };
}

/** Loss and gradient of a micro-batch; `weighted` is the gradient times what the loss is a mean over. */
function partOf<B extends Named<TensorSpec>>(options: TracedOptions<B>, reads: Named<Tensor>) {
  const { given, ...inputs } = givenInputs(options.frozen ?? {}, options.batch, options.packFrozen);
  const weight = weightOf(options, inputs.batch);
  const scale = reads['scale/value'];
  const step = seedOf(reads.step!, reads['sum/count']!);
  // The weight goes in where the backward pass begins, for one product; float16 has no room for it there.
  const { loss, gradient } = gradientOf(options, under(reads, 'param'), { ...inputs, step }, scale ?? weight);
  const weighted = scale
    ? Object.fromEntries(Object.entries(gradient).map(([name, g]) => [name, mul(g, weight)]))
    : gradient;
  return { given, loss, gradient, weighted, weight };
}

/** Loss and gradient norm in float32. */
export function traceShadow<B extends Named<TensorSpec>>(
  options: TracedOptions<B>,
  start: Named<TensorSpec>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param', ...(options.accumulate ? ['sum'] : []));
  const { given, ...inputs } = givenInputs(options.frozen ?? {}, options.batch, options.packFrozen);
  const step = options.accumulate ? seedOf(reads.step!, reads['sum/count']!) : reads.step!;
  const precision = options.precision && ({ ...options.precision, compute: 'float32' } as const);
  const { loss, gradient } = gradientOf({ ...options, precision }, under(reads, 'param'), { ...inputs, step });
  return { reads, given, writes: {}, results: { loss, gradientNorm: globalNorm(Object.values(gradient)) } };
}

/** The loss, and its gradient times `factor`, under the precision policy. */
function gradientOf<B extends Named<TensorSpec>>(
  { loss: fn, precision }: Pick<TracedOptions<B>, 'loss' | 'precision'>,
  params: Named<Tensor>,
  given: { frozen: Named<Tensor>; batch: TracedBatch<B>; step: Tensor },
  factor: Tensor = scalar(1),
): { loss: Tensor; gradient: Named<Tensor> } {
  const lossOf = precision ? withPrecision(fn, { ...precision, output: 'float32' }) : fn;
  let loss: Tensor | undefined;
  const { gradient } = valueAndGrad((params: Named<Tensor>) => {
    loss = lossOf(params, given);
    return mul(loss, factor);
  })(params);
  return { loss: loss!, gradient };
}

function weightOf<B extends Named<TensorSpec>>({ accumulate }: TracedOptions<B>, batch: TracedBatch<B>): Tensor {
  const weight = typeof accumulate === 'object' ? accumulate.weight?.(batch) : undefined;
  if (weight) {
    if (weight.rank === 0 && weight.dtype === 'float32') return weight;
    throw new EngineError(
      'ARGUMENT_INVALID',
      `the weight of a micro-batch is a float32 scalar, not ${weight.dtype} [${weight.shape.join(', ')}]`,
    );
  }
  const first = Object.values<Tensor>(batch).find(({ rank }) => rank > 0);
  return first ? sizeOf([first.shape[0]!]) : scalar(1);
}
