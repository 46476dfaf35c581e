/** What a training step will need, before anything is opened or run: memory and floating-point operations. */
import { type Dim, factorsOf } from '../dims.js';
import { elementCount } from '../host-tensor.js';
import { startLossScale } from '../optim/loss-scale.js';
import type { Named } from '../optim/optimizer.js';
import type { Node, Tensor, TensorSpec } from '../tensor.js';
import { bytesOf } from './debug-nans.js';
import type { Emitted } from './emitter.js';
import { emitGraph, type TracedGraph, writtenNodes } from './graph.js';
import { planMemory } from './memory.js';
import { overwritable } from './overwriting.js';
import { largeBytes } from './state.js';
import type { StateTrace } from './state-program.js';
import type { TrainStepOptions } from './train-options.js';
import { tracePart, traceWhole } from './train-traces.js';
import { lossScaleOf, packsWeights, prefixed, startSums, storedWeights, traceSumsUpdate } from './update.js';
import type { Sizes } from './variants.js';

/** Bytes, each part beside the others: their sum is what the process grows by. */
export interface StepMemory {
  /** Trained weights, in both their buffers where there are two, and frozen ones with the copies that the runtime lays out for its kernels. */
  readonly weights: number;
  readonly gradients: number;
  /** What the optimiser remembers, likewise, and sums over micro-batches. */
  readonly moments: number;
  /** What else lies between the operators when most does. */
  readonly activations: number;
  /** The batch, the runtime itself, and what its allocator cannot fill. */
  readonly overhead: number;
  readonly total: number;
}

/** Floating-point operations; one of an element-wise operator is one an element. */
export interface StepFlops {
  readonly forward: number;
  readonly backward: number;
  /** Clipping and the optimiser, once a step. */
  readonly optimizer: number;
  /** Those of matrix products, of forward and backward. */
  readonly products: number;
}

/** A training step as a plan; of a micro-batch, if it accumulates. */
export interface StepPlan {
  /**
   * @param sizes numbers for the symbols of the batch
   * @throws EngineError ARGUMENT_INVALID when one is missing
   */
  memory(sizes: Readonly<Record<string, number>>): StepMemory;
  flops(sizes: Readonly<Record<string, number>>): StepFlops;
}

/**
 * Traces the step that `trainStep` would open with the same options.
 *
 * @throws EngineError SIZE_UNKNOWN where an operator needs a symbol as a number: give the batch with numbers
 */
export function planStep<B extends Named<TensorSpec>>(given: TrainStepOptions<B>): StepPlan {
  const frozen = storedWeights(given.frozen ?? {}, given.precision);
  const packFrozen = given.packFrozen ?? packsWeights(frozen, given.backend, given.precision);
  const options = { ...given, frozen, packFrozen, shadow: given.shadow ?? false };
  const scaling = lossScaleOf(options);
  const moments = prefixed<TensorSpec>(options.optimizer.init(given.params), 'optimizer');
  const sums = options.accumulate ? startSums(given.params) : {};
  const start: Named<TensorSpec> = {
    ...(scaling && startLossScale(scaling)),
    step: { dtype: 'int64', shape: [] },
    ...prefixed<TensorSpec>(given.params, 'param'),
    ...moments,
    ...sums,
  };
  const graphs = options.accumulate
    ? [graphOf('micro-batch', tracePart(options, start)), graphOf('update', traceSumsUpdate(start, options))]
    : [graphOf('training step', traceWhole(options, start))];
  const bytes = (specs: Named<TensorSpec>) =>
    Object.values(specs).reduce((sum, spec) => sum + bytesOf(spec, new Map()), 0);
  const emitted = graphs.map(emitGraph);
  const nodes = emitted.flatMap(writtenNodes);
  // What a run may be told to give up is not written over what it reads.
  const refusable = Boolean(options.shadow) || scaling !== undefined || given.debugNans;
  const over = new Set(refusable ? [] : emitted.flatMap(({ model }) => overwritable(model.graph.node, large(start))));
  const twice = (specs: Named<TensorSpec>, word = '') =>
    Object.entries(specs).reduce(
      (sum, [name, spec]) => sum + (over.has(word + name) ? 1 : 2) * bytesOf(spec, new Map()),
      0,
    );
  const resident = {
    weights: twice(given.params, 'param/') + (packFrozen ? Math.max(...emitted.map(constantBytes)) : bytes(frozen)),
    moments: twice(moments) + twice(sums),
  };
  return {
    memory: (sizes) => {
      const known = new Map(Object.entries(sizes));
      const plans = graphs.map((graph) => planMemory(graph, known));
      const peak = plans.reduce((most, plan) => (plan.activations > most.activations ? plan : most));
      const trained = bytes(given.params);
      const gradients = Math.min(trained, peak.activations);
      const batch = Object.values<TensorSpec>(given.batch).reduce((sum, spec) => sum + bytesOf(spec, known), 0);
      const parts = {
        ...resident,
        gradients,
        activations: peak.activations - gradients,
        overhead: batch + peak.overhead,
      };
      return { ...parts, total: Object.values(parts).reduce((sum, part) => sum + part, 0) };
    },
    flops: (sizes) => flopsOf(nodes, new Map(Object.entries(sizes))),
  };
}

const large = (state: Named<TensorSpec>) =>
  new Map(
    Object.entries(state)
      .filter(([, spec]) => bytesOf(spec, new Map()) >= largeBytes)
      .map(([name]) => [name, { input: name, output: `new/${name}` }]),
  );

const products = new Set(['MatMul', 'Gemm', 'FusedMatMul']);

/**
 * Constants stand in the written model, and in the session: a matrix once for each product that reads it as its second
 * factor, as that product's kernel reads it. Measured on MiniLM with ONNX Runtime 1.30.
 */
function constantBytes({ model: { graph } }: Emitted): number {
  const uses = new Map<string, number>();
  for (const { opType, input } of graph.node) {
    if (products.has(opType)) uses.set(input[1]!, (uses.get(input[1]!) ?? 0) + 1);
  }
  const copies = (name: string) => 1 + Math.max(1, uses.get(name) ?? 0);
  return (graph.initializer ?? []).reduce((sum, { name, rawData }) => sum + copies(name!) * (rawData?.length ?? 0), 0);
}

const graphOf = (name: string, { reads, given, writes, results }: StateTrace): TracedGraph => ({
  name,
  inputs: { ...reads, ...given },
  outputs: { ...prefixed<Tensor>(writes, 'new'), ...prefixed<Tensor>(results, 'result') },
});

const updates = new Set(['clipping', 'loss scale', 'step count', 'schedule', 'optimizer']);
/** Values are moved, not computed. */
const moves = new Set(
  'Reshape Transpose Identity StopGradient StartAfter ViewAfter Slice Concat Split Gather MoveRows Expand Shape Range Constant Cast'.split(
    ' ',
  ),
);

function flopsOf(nodes: readonly Node[], sizes: Sizes): StepFlops {
  const flops = { forward: 0, backward: 0, optimizer: 0, products: 0 };
  for (const node of nodes) {
    const { source, derived, op } = node;
    const part = updates.has(source.isName ? (source.text ?? '') : '') ? 'optimizer' : derived ? 'backward' : 'forward';
    const product = productFlops(node, sizes);
    if (product !== undefined) {
      flops[part] += product;
      flops.products += product;
    } else if (!moves.has(op.name)) {
      // A reduction reads more than it makes.
      const sizeOf = (tensors: readonly Tensor[]) =>
        Math.max(0, ...tensors.map((tensor) => count(tensor.shape, sizes)));
      flops[part] += Math.max(sizeOf(node.outputs), sizeOf(node.inputs));
    }
  }
  return flops;
}

/** Of a matrix product: two for each element of the result and of the sum behind it. */
function productFlops({ op, inputs, outputs, attributes }: Node, sizes: Sizes): number | undefined {
  if (op.name !== 'MatMul' && op.name !== 'Gemm' && op.name !== 'MatMulNBits') return undefined;
  const inner = inputs[0]!.shape.at(attributes.transposeA ? -2 : -1)!;
  return 2 * count(outputs[0]!.shape, sizes) * count([inner], sizes);
}

function count(shape: readonly Dim[], sizes: Sizes): number {
  return elementCount(
    shape.map((dim) => {
      const { factor, symbols } = factorsOf(dim);
      return symbols.reduce((size, symbol) => size * (sizes.get(symbol) ?? 1), factor);
    }),
  );
}
