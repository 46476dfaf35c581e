/**
 * Recurrent layers, written out step by step: the number of steps must be known, and each adds a few nodes to the graph.
 * The products with the input are one for all steps.
 */
import { isSymbolic } from '../../dims.js';
import { add, expand, mul, sub } from '../../ops/arithmetic.js';
import { relu, sigmoid, tanh } from '../../ops/elementwise.js';
import { concat, slice, split } from '../../ops/indexing.js';
import { matMul } from '../../ops/matmul.js';
import { reshape } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { scalar } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';

/** Longer series would make a graph of more nodes than a runtime opens in reasonable time. */
const mostSteps = 512;

interface Weights {
  /** [hidden, gates · hidden] after the swap that matMul folds in. */
  readonly recurrent: Tensor;
  /** [gates · hidden], or none. */
  readonly recurrentBias: Tensor | undefined;
}

/** One step: the input's part of all gates [batch, gates · hidden] and the state [h, …] -> the next state. */
type Step = (input: Tensor, state: readonly Tensor[], weights: Weights) => Tensor[];

const recurrentPart = (h: Tensor, { recurrent, recurrentBias }: Weights) => {
  const y = matMul(h, recurrent, { transposeB: true });
  return recurrentBias ? add(y, recurrentBias) : y;
};

const gatesOf = (x: Tensor, count: number) => {
  const width = (x.shape.at(-1) as number) / count;
  return split(x, Array<number>(count).fill(width));
};

/** Hochreiter & Schmidhuber 1997; ONNX's order of gates is input, output, forget, cell. */
const lstmStep: Step = (input, [h, c], weights) => {
  const [i, o, f, g] = gatesOf(add(input, recurrentPart(h!, weights)), 4) as [Tensor, Tensor, Tensor, Tensor];
  const next = add(mul(sigmoid(f), c!), mul(sigmoid(i), tanh(g)));
  return [mul(sigmoid(o), tanh(next)), next];
};

/** Cho et al. 2014, arXiv:1406.1078; ONNX's order of gates is update, reset, hidden. */
const gruStep =
  (linearBeforeReset: boolean): Step =>
  (input, [h], weights) => {
    const [xz, xr, xh] = gatesOf(input, 3) as [Tensor, Tensor, Tensor];
    const [z, candidate] = linearBeforeReset ? afterProduct() : beforeProduct();
    return [add(mul(sub(1, z), candidate), mul(z, h!))];

    function afterProduct(): [Tensor, Tensor] {
      const [hz, hr, hh] = gatesOf(recurrentPart(h!, weights), 3) as [Tensor, Tensor, Tensor];
      const reset = sigmoid(add(xr, hr));
      return [sigmoid(add(xz, hz)), tanh(add(xh, mul(reset, hh)))];
    }

    function beforeProduct(): [Tensor, Tensor] {
      const width = (weights.recurrent.shape[0] as number) / 3;
      const rows = split(weights.recurrent, [width, width, width], 0);
      const biases = weights.recurrentBias ? split(weights.recurrentBias, [width, width, width], 0) : [];
      const part = (x: Tensor, gate: number) =>
        recurrentPart(x, { recurrent: rows[gate]!, recurrentBias: biases[gate] });
      const reset = sigmoid(add(xr, part(h!, 1)));
      return [sigmoid(add(xz, part(h!, 0))), tanh(add(xh, part(mul(reset, h!), 2)))];
    }
  };

const rnnStep =
  (activation: (x: Tensor) => Tensor): Step =>
  (input, [h], weights) => [activation(add(input, recurrentPart(h!, weights)))];

function recurrence(n: NodeContext, gates: number, states: number, step: Step, usual: readonly string[]): Tensor[] {
  const x = n.in(0); // [seq, batch, input]
  const hidden = n.int('hidden_size');
  const direction = n.string('direction', 'forward');
  const directions = direction === 'bidirectional' ? 2 : 1;
  if (n.int('layout', 0) !== 0) throw n.unsupported('layout 1');
  if (n.has(4)) throw n.unsupported('lengths of its own for each series');
  if (n.has(7)) throw n.unsupported('peepholes');
  if (n.hasAttribute('clip') || n.int('input_forget', 0) !== 0) throw n.unsupported('clip or input_forget');
  const activations = n.strings('activations');
  if (activations?.some((name, i) => name !== usual[i % usual.length]))
    throw n.unsupported(`activations ${activations}`);
  const [steps, batch] = x.shape;
  if (x.rank !== 3 || steps === undefined || batch === undefined)
    throw n.error('SHAPE_MISMATCH', `an input [${x.shape}]`);
  if (isSymbolic(steps)) {
    throw n.error('SIZE_UNKNOWN', `its number of steps is the symbolic size ${steps}; ${n.advice(steps)}`);
  }
  if (steps > mostSteps) throw n.unsupported(`a series of ${steps} steps (at most ${mostSteps})`);

  const pick = (i: number, d: number) => {
    const whole = n.in(i);
    if (whole.shape[0] !== directions)
      throw n.error('SHAPE_MISMATCH', `input ${i} [${whole.shape}] for ${directions} directions`);
    return reshape(slice(whole, 0, d, d + 1), whole.shape.slice(1));
  };
  const outputs: Tensor[][] = []; // by direction: h of each step in time's order
  const last: Tensor[][] = [];
  for (let d = 0; d < directions; d++) {
    const biases = n.has(3) ? split(pick(3, d), [gates * hidden, gates * hidden]) : [];
    const projected = matMul(x, pick(1, d), { transposeB: true });
    const input = biases[0] ? add(projected, biases[0]) : projected;
    const weights = { recurrent: pick(2, d), recurrentBias: biases[1] };
    const zero = expand(scalar(0, x.dtype), [batch, hidden]);
    let state = Array.from({ length: states }, (_, i) => (n.has(5 + i) ? pick(5 + i, d) : zero));
    const backwards = direction === 'reverse' || d === 1;
    const own: Tensor[] = [];
    for (let i = 0; i < steps; i++) {
      const t = backwards ? steps - 1 - i : i;
      state = step(reshape(slice(input, 0, t, t + 1), [batch, gates * hidden]), state, weights);
      own[t] = state[0]!;
    }
    outputs.push(own);
    last.push(state);
  }
  const y = Array.from({ length: steps }, (_, t) =>
    concat(
      outputs.map((own) => reshape(own[t]!, [1, 1, batch, hidden])),
      1,
    ),
  );
  const final = Array.from({ length: states }, (_, i) =>
    concat(
      last.map((state) => reshape(state[i]!, [1, batch, hidden])),
      0,
    ),
  );
  return [concat(y, 0), ...final];
}

const note = `at most ${mostSteps} steps, written out; usual activations`;
const rule = (trace: OperatorRule['trace']): OperatorRule => ({ trace, note });

export const recurrentOperators: OperatorTable = {
  LSTM: rule((n) => recurrence(n, 4, 2, lstmStep, ['Sigmoid', 'Tanh', 'Tanh'])),
  GRU: rule((n) => recurrence(n, 3, 1, gruStep(n.int('linear_before_reset', 0) !== 0), ['Sigmoid', 'Tanh'])),
  RNN: rule((n) => {
    const relus = n.strings('activations')?.[0] === 'Relu';
    return recurrence(n, 1, 1, rnnStep(relus ? relu : tanh), [relus ? 'Relu' : 'Tanh']);
  }),
};
