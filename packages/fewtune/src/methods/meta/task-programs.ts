import {
  compile,
  constant,
  exportOnnx,
  type HostTensor,
  hostTensor,
  type Named,
  type Program,
  softmax,
  type Tensor,
  valueAndGrad,
} from '@fewtune/engine';
import { LazyPrograms } from '../lazy-programs.js';
import {
  type AnyExamples,
  type AnyMetaModel,
  byName,
  fromNames,
  inputSpec,
  type ModelInput,
  rowSpec,
  rowsOf,
} from './meta-model.js';
import { byRunning } from './step-norms.js';
import { type BilevelOptions, hasStepNorms, innerLoss, isAdapted, lossOn } from './task-loss.js';

/** The programs that adapt a model to a task and ask it, compiled on first use, each once for any number of rows. */
export class TaskPrograms {
  private readonly programs = new LazyPrograms<Opened>();

  constructor(
    private readonly model: AnyMetaModel,
    private readonly options: BilevelOptions,
    private readonly threads?: number,
  ) {}

  /** Inner loss on a support set and its gradient with respect to the adapted weights, averaged over parts by rows. */
  async gradientAt(
    given: {
      readonly start: Named<HostTensor>;
      readonly weights: Named<HostTensor>;
      readonly norms: Named<HostTensor>;
    },
    parts: readonly AnyExamples[],
  ): Promise<{ loss: number; gradient: Record<string, HostTensor> }> {
    const adapted = isAdapted(this.options.variant, this.model.headNames);
    const { start, weights, norms } = given;
    const own = Object.fromEntries(Object.entries(weights).filter(([key]) => adapted(key)));
    const rest = Object.fromEntries(Object.entries(weights).filter(([key]) => !adapted(key)));
    const begun = this.options.variant === 'imaml' ? start : {};
    const sums = new WeightedMean();
    for (const { x, y } of parts) {
      const inputs: Given = { own, rest: { ...rest, ...norms }, begun, x, y };
      const found = await this.run('gradient', inputs, ({ own, rest, begun, x, y }) => {
        const fixed = { ...this.frozen(), ...rest };
        const loss = (fast: Named<Tensor>) => innerLoss(this.model, begun, fast, { x, y: y! }, this.options, { fixed });
        const { value, gradient } = valueAndGrad(loss)(own);
        return { 'loss ': value, ...gradient };
      });
      sums.add(found, rowsOf(x));
    }
    const { 'loss ': loss, ...gradient } = sums.mean();
    return { loss: Number(loss!.data[0]), gradient };
  }

  /** Loss on a support set, normalised by its own statistics. */
  async lossAt(weights: Named<HostTensor>, parts: readonly AnyExamples[]): Promise<number> {
    const sums = new WeightedMean();
    for (const { x, y } of parts) {
      const inputs: Given = { own: weights, x, y };
      const found = await this.run('loss', inputs, ({ own, x, y }) => ({
        loss: lossOn(this.model, this.options.loss, { ...this.frozen(), ...own }, { x, y: y! }),
      }));
      sums.add(found, rowsOf(x));
    }
    return Number(sums.mean().loss!.data[0]);
  }

  /** The head that a support set makes; none where the model's head is meta-learned. */
  async headFrom(weights: Named<HostTensor>, parts: readonly AnyExamples[]): Promise<Record<string, HostTensor>> {
    const { headStart } = this.model;
    if (!headStart) return {};
    const shown: HostTensor[] = [];
    for (const { x } of parts) {
      const found = await this.run('features', { own: weights, x }, ({ own, x }) => ({
        features: headStart.features({ ...this.frozen(), ...own }, x),
      }));
      shown.push(found.features!);
    }
    const [x, y] = [joined(shown), joined(parts.map((part) => part.y))];
    return this.run('head', { own: {}, x, y }, ({ x, y }) => headStart.head(x as Tensor, y!));
  }

  /** Probabilities, or the values of a regression. */
  async predict(weights: Named<HostTensor>, x: ModelInput, support: ModelInput): Promise<HostTensor> {
    const inputs: Given = this.alone ? { own: weights, x } : { own: weights, x, reference: support };
    const found = await this.run('predict', inputs, ({ own, x, reference }) => ({
      output: this.output({ ...this.frozen(), ...own }, x, reference),
    }));
    return found.output!;
  }

  /** The same as a portable model: `x` (or `x/<name>` each) [rows, ...] → `output` [rows, outputs]. */
  toOnnx(weights: Named<HostTensor>, support: ModelInput): Uint8Array {
    const fixed = (tensors: Named<HostTensor>) =>
      Object.fromEntries(Object.entries(tensors).map(([name, value]) => [name, constant(value, name)]));
    return exportOnnx(
      (inputs) => {
        // The support set itself stands in the model where its statistics are asked for.
        const reference = this.alone ? undefined : fromNames('support', fixed(byName('support', support)));
        const all = fixed({ ...this.model.frozen, ...weights });
        return { output: this.output(all, fromNames('x', inputs), reference) };
      },
      byName('x', inputSpec(this.model, 'rows', support)),
    );
  }

  /** Whether a query is judged without the support set. */
  private get alone(): boolean {
    return this.model.rowsAlone === true || this.options.transductive || this.running;
  }

  private get running(): boolean {
    return hasStepNorms(this.model, this.options.variant) && !this.options.transductive;
  }

  private output(all: Named<Tensor>, x: ModelInput<Tensor>, reference?: ModelInput<Tensor>): Tensor {
    const output = this.model.forward(all, x, this.running ? byRunning(all) : reference);
    return this.options.loss === 'cross-entropy' ? softmax(output) : output;
  }

  dispose(): Promise<void> {
    return this.programs.dispose();
  }

  private frozen(): Named<Tensor> {
    const entries = Object.entries(this.model.frozen ?? {});
    return Object.fromEntries(entries.map(([name, value]) => [name, constant(value, name)]));
  }

  private async run(name: string, given: Given, trace: Trace): Promise<Record<string, HostTensor>> {
    const form = name === 'head' || this.model.inputs ? '' : (given.x as HostTensor).shape.slice(1).join();
    const key = `${name} ${form}`;
    const program = await this.programs.get(key, () => this.compile(name, given, trace));
    return { ...(await program.run(given)) };
  }

  private async compile(name: string, { own, rest, begun, x, y, reference }: Given, trace: Trace): Promise<Opened> {
    const specsOf = (tensors: Named<HostTensor>) =>
      Object.fromEntries(Object.entries(tensors).map(([key, { dtype, shape }]) => [key, { dtype, shape }]));
    const model = name === 'head' ? {} : this.model;
    const specs = {
      own: specsOf(own),
      ...(rest && { rest: specsOf(rest) }),
      ...(begun && { begun: specsOf(begun) }),
      x: inputSpec(model, 'rows', x),
      ...(y && { y: rowSpec('rows', y) }),
      ...(reference && { reference: inputSpec(model, 'others', reference) }),
    };
    const options = { name, threads: this.threads };
    const program = await compile(
      (inputs) => trace({ rest: {}, begun: {}, ...inputs } as unknown as Traced),
      specs,
      options,
    );
    return program as unknown as Opened; // the specs' type lists no names, the caller's does
  }
}

interface Given {
  readonly own: Named<HostTensor>;
  readonly rest?: Named<HostTensor>;
  readonly begun?: Named<HostTensor>;
  readonly x: ModelInput;
  readonly y?: HostTensor;
  readonly reference?: ModelInput;
}

interface Traced {
  readonly own: Named<Tensor>;
  readonly rest: Named<Tensor>;
  readonly begun: Named<Tensor>;
  readonly x: ModelInput<Tensor>;
  readonly y?: Tensor;
  readonly reference?: ModelInput<Tensor>;
}

type Trace = (inputs: Traced) => Named<Tensor>;
type Opened = Program<Given, Named<HostTensor>>;

/** Means of named tensors over parts of different weight, float32. */
class WeightedMean {
  private readonly sums = new Map<string, { shape: readonly number[]; data: Float64Array }>();
  private weight = 0;

  add(values: Named<HostTensor>, weight: number): void {
    this.weight += weight;
    for (const [name, { shape, data }] of Object.entries(values)) {
      const sum = this.sums.get(name) ?? { shape, data: new Float64Array(data.length) };
      this.sums.set(name, sum);
      for (let i = 0; i < data.length; i++) sum.data[i]! += weight * Number(data[i]);
    }
  }

  mean(): Record<string, HostTensor> {
    const means = [...this.sums].map(([name, { shape, data }]): [string, HostTensor] => [
      name,
      hostTensor(
        'float32',
        shape,
        Float32Array.from(data, (value) => value / this.weight),
      ),
    ]);
    return Object.fromEntries(means);
  }
}

/** Rows of several tensors of one dtype in one. */
function joined(parts: readonly HostTensor[]): HostTensor {
  if (parts.length === 1) return parts[0]!;
  const { dtype, shape } = parts[0]!;
  const rows = parts.reduce((sum, part) => sum + part.shape[0]!, 0);
  const values = parts.flatMap(({ data }) => [...(data as Float32Array)]);
  return hostTensor(dtype, [rows, ...shape.slice(1)], values);
}
