import {
  adamW,
  compile,
  constant,
  constantRate,
  crossEntropy,
  type HostTensor,
  hostTensor,
  linear,
  linearDecay,
  type Named,
  type OnnxFunction,
  type Program,
  type Tensor,
  type TensorSpec,
  traceToOnnx,
  trainStep,
  zeros,
} from '@fewtune/engine';
import { lengthBatches, padBatch, pool, type Tokenizer } from '@fewtune/models';
import type { TextGraph } from '../artifact/onnx-classifier.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { explained } from './onnx-text.js';

/** A text model with adapters and a head of its own, or its file's, as it is trained. */
export interface OnnxTrainable {
  readonly file: string;
  readonly tuned: OnnxFunction;
  readonly graph: TextGraph;
  readonly classes: number;
  /** A and B of each adapter, and `classifier.weight` [classes, hidden], `classifier.bias` where there is a new head. */
  readonly params: Named<HostTensor>;
  readonly frozen: Named<HostTensor>;
}

export const headWeight = 'classifier.weight';
export const headBias = 'classifier.bias';

type Batch = Record<string, HostTensor>;

/** What a batch of texts is fed as, by names of our own: `ids`, `mask`, `types`. */
function specsOf(graph: TextGraph): Record<string, TensorSpec> {
  const shape = ['batch', graph.length ?? 'seq'];
  return {
    ids: { dtype: graph.ids.dtype, shape },
    mask: { dtype: graph.mask?.dtype ?? 'int64', shape },
    ...(graph.types && { types: { dtype: graph.types.dtype, shape } }),
  };
}

/** Token ids, padded on the right to the longest row or to the length that the file has. */
export function feedTexts({ graph }: Pick<OnnxTrainable, 'graph'>, rows: readonly (readonly number[])[]): Batch {
  const { length, padId } = graph;
  const { inputIds, attentionMask } = padBatch(rows, padId);
  const [ids, mask] = [inputIds, attentionMask].map((tensor) => (length ? widened(tensor, length) : tensor));
  if (length) {
    for (const [r, row] of rows.entries())
      (ids!.data as BigInt64Array).fill(BigInt(padId), r * length + row.length, (r + 1) * length);
  }
  return {
    ids: asDtype(ids!, graph.ids.dtype),
    mask: asDtype(mask!, graph.mask?.dtype ?? 'int64'),
    ...(graph.types && { types: zeros(graph.types.dtype, ids!.shape) }),
  };
}

function widened({ shape, data }: HostTensor, length: number): HostTensor {
  const [rows, own] = shape as [number, number];
  const wide = new BigInt64Array(rows * length);
  for (let r = 0; r < rows; r++) wide.set((data as BigInt64Array).subarray(r * own, (r + 1) * own), r * length);
  return { dtype: 'int64', shape: [rows, length], data: wide };
}

function asDtype(tensor: HostTensor, dtype: 'int64' | 'int32'): HostTensor {
  if (dtype === 'int64') return tensor;
  return hostTensor('int32', tensor.shape, Int32Array.from(tensor.data as BigInt64Array, Number));
}

/** Logits [batch, classes] of a batch: the file's graph with its adapters, pooling, and the head. */
function logitsOf(model: OnnxTrainable, weights: Named<Tensor>, batch: Named<Tensor>): Tensor {
  const { graph, tuned } = model;
  const { [headWeight]: weight, [headBias]: bias, ...own } = weights;
  const read = outputOf(tuned, graph, own, batch);
  const features = graph.output.kind === 'states' ? pool(read, batch.mask!, graph.pooling) : read;
  return weight ? linear(features, weight, bias) : features;
}

function outputOf(tuned: OnnxFunction, graph: TextGraph, weights: Named<Tensor>, batch: Named<Tensor>): Tensor {
  const inputs = {
    [graph.ids.name]: batch.ids!,
    ...(graph.mask && { [graph.mask.name]: batch.mask! }),
    ...(graph.types && { [graph.types.name]: batch.types! }),
  };
  return tuned.apply({ weights, inputs })[graph.output.name]!;
}

/**
 * The sizes of what is read of a text model, found by tracing it once.
 *
 * @throws FewtuneError MODEL_UNSUPPORTED when it cannot be traced, or is not what a classifier could read
 */
export function outputWidth(file: string, model: OnnxFunction, graph: TextGraph): number {
  let shape: readonly unknown[] = [];
  const small = { batch: 2, seq: graph.length ?? 4 };
  const specs = Object.fromEntries(
    Object.entries(specsOf(graph)).map(([name, { dtype }]) => [name, { dtype, shape: [small.batch, small.seq] }]),
  );
  try {
    traceToOnnx((batch) => {
      const output = outputOf(model, graph, {}, batch);
      shape = output.shape;
      return { output };
    }, specs);
  } catch (cause) {
    throw explained(cause, file);
  }
  const rank = graph.output.kind === 'states' ? 3 : 2;
  const [width, rows] = [shape.at(-1), shape[0]];
  if (shape.length === rank && typeof width === 'number' && rows === small.batch) return width;
  throw new FewtuneError(
    'MODEL_UNSUPPORTED',
    `${file}: its output ${graph.output.name} is [${shape.join(', ')}] for ${small.batch} texts of ${small.seq} tokens; a classifier reads ` +
      `${rank === 3 ? '[batch, seq, hidden]' : '[batch, numbers]'}. Name another with --output.`,
  );
}

/** Logits of texts by weights that are inputs, so that training is looked at without compiling anew. */
export class OnnxLogits {
  private constructor(
    private readonly model: OnnxTrainable,
    private readonly program: Program<Batch, HostTensor>,
  ) {}

  static async open(model: OnnxTrainable, threads?: number): Promise<OnnxLogits> {
    const params = Object.entries(model.params).map(
      ([name, { dtype, shape }]) => [`param/${name}`, { dtype, shape }] as const,
    );
    const program = await compile(
      (inputs: Record<string, Tensor>) => {
        const weights: Record<string, Tensor> = Object.fromEntries(
          Object.entries(model.frozen).map(([name, value]) => [name, constant(value, name)]),
        );
        for (const name of Object.keys(model.params)) weights[name] = inputs[`param/${name}`]!;
        return logitsOf(model, weights, inputs);
      },
      { ...specsOf(model.graph), ...Object.fromEntries(params) } as Record<string, TensorSpec>,
      { threads, name: 'logits' },
    );
    return new OnnxLogits(model, program as unknown as Program<Batch, HostTensor>);
  }

  /** @returns [rows, classes], row-major @throws FewtuneError INTERRUPTED */
  async of(
    params: Named<HostTensor>,
    ids: readonly (readonly number[])[],
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const { classes } = this.model;
    const result = new Float32Array(ids.length * classes);
    const given = Object.fromEntries(Object.entries(params).map(([name, value]) => [`param/${name}`, value]));
    for (const batch of lengthBatches(ids, { tokensPerBatch: 768 })) {
      throwIfAborted(signal);
      const feeds = feedTexts(
        this.model,
        batch.map((row) => ids[row]!),
      );
      const { data } = await this.program.run({ ...feeds, ...given });
      for (const [i, row] of batch.entries()) {
        result.set((data as Float32Array).subarray(i * classes, (i + 1) * classes), row * classes);
      }
    }
    return result;
  }

  async dispose(): Promise<void> {
    await this.program.dispose();
  }
}

export interface OnnxStepOptions {
  readonly lr: number;
  readonly headLr: number | 'same';
  readonly schedule: 'linear' | 'constant';
  /** Share of the steps in which the rate rises. */
  readonly warmup: number;
  readonly steps: number;
  readonly weightDecay: number;
  readonly clipNorm: number;
  readonly threads?: number;
}

/** A compiled training step: cross-entropy of a batch's logits, AdamW on adapters and head. */
export function openOnnxStep(model: OnnxTrainable, options: OnnxStepOptions) {
  const { lr, headLr, steps, weightDecay, clipNorm, threads } = options;
  const isHead = (name: string) => name === headWeight || name === headBias;
  return trainStep<Record<string, TensorSpec>>({
    params: model.params,
    frozen: model.frozen,
    batch: { ...specsOf(model.graph), labels: { dtype: 'int64', shape: ['batch'] } },
    loss: (params, { frozen, batch }) => crossEntropy(logitsOf(model, { ...frozen, ...params }, batch), batch.labels!),
    optimizer: adamW({
      weightDecay,
      decays: (name) => !/bias$/.test(name),
      lrScale: (name) => (headLr !== 'same' && isHead(name) ? headLr / lr : 1),
    }),
    schedule:
      options.schedule === 'constant'
        ? constantRate(lr)
        : linearDecay({ lr, steps, warmup: Math.round(steps * options.warmup) }),
    clipNorm,
    threads,
  }).catch((cause: unknown) => {
    throw explained(cause, model.file);
  });
}

/** Token ids of texts. */
export const tokenise = (tokenizer: Tokenizer, texts: readonly string[]): number[][] =>
  texts.map((text) => tokenizer.encode(text));
