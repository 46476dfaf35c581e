import type { Dim } from '../../dims.js';
import { isSymbolic, showShape } from '../../dims.js';
import { EngineError } from '../../errors.js';
import type { HostTensor } from '../../host-tensor.js';
import type { Named } from '../../optim/optimizer.js';
import type { TensorSpec } from '../../tensor.js';
import { Tensor } from '../../tensor.js';
import type { OnnxModelProto, OnnxNode, OnnxTensor, OnnxValueInfo } from '../model.js';
import { dtypeOf, readOnnx } from '../model.js';
import type { Adapter } from './adapter.js';
import { adapted } from './adapter.js';
import type { Functions } from './graph.js';
import { functionsOf, GraphTracer, neededNodes, opsetOf, refuseUnknown, sortNodes } from './graph.js';
import type { NamePattern } from './names.js';
import { namesMatching, near } from './names.js';
import { Value } from './value.js';
import type { ExternalReader, WeightInfo } from './weights.js';
import { initializersOf, isExternal, loadExternal, valueReader, weightsOf } from './weights.js';

export interface OnnxFunctionOptions {
  /**
   * Sizes for symbolic dimensions by their names in the file, where sizes must be known (`{ height: 64 }`), or another
   * symbol for one that means the same (`{ seq_1: 'seq' }`).
   */
  readonly sizes?: Readonly<Record<string, Dim>>;
  /** Where external data comes from, for a model that is not opened by its path. */
  readonly external?: ExternalReader;
}

export interface ApplyOptions {
  readonly inputs: Named<Tensor>;
  /** Weights to use instead of the file's own, which are constants otherwise. */
  readonly weights?: Named<Tensor | HostTensor>;
  /** Dropout drops and batch normalisation goes by the batch; `false` when left out. */
  readonly training?: boolean;
  /** For dropout: a number, or an int64 scalar such as `step`. */
  readonly seed?: Tensor | number;
}

/** What a model is made of; shared by a function and those with adapters made from it. */
export interface Parts {
  readonly bytes: Uint8Array;
  readonly model: OnnxModelProto;
  readonly functions: Functions;
  readonly nodes: readonly OnnxNode[];
  readonly opset: number;
  readonly initializers: ReadonlyMap<string, OnnxTensor>;
  readonly weights: ReadonlyMap<string, WeightInfo>;
  readonly value: (name: string) => HostTensor;
}

/** Opsets that the operator table was written for. */
const oldest = 9;
const newest = 25;

/** Weights with fewer elements stay in the graph as constants, where they can be computed with while tracing. */
const smallestFrozen = 64;

/**
 * An ONNX model as a function of its weights and inputs, on traced tensors: `grad`, `trainStep`, `compile` and `vmap`
 * work on it as on any other.
 *
 * @example
 * const model = await readOnnxModel('model.onnx');
 * const { params, frozen } = model.split({ trainable: 'encoder.layer.5.*' });
 * const step = await trainStep({
 *   params, frozen, batch: { ...model.inputs, target }, optimizer: adamW(), schedule: constantRate(1e-3),
 *   loss: (weights, { frozen, batch: { target, ...inputs } }) =>
 *     crossEntropy(model.apply({ weights: { ...frozen, ...weights }, inputs }).logits, target),
 * });
 */
export class OnnxFunction {
  private constructor(
    readonly parts: Parts,
    /** By name, with dtype and shape; symbolic sizes are the file's names for them. */
    readonly inputs: Named<TensorSpec>,
    readonly outputs: Named<TensorSpec>,
    readonly adapters: readonly Adapter[],
  ) {}

  /**
   * @throws EngineError ONNX_INVALID for bytes that are no sound ONNX model, NOT_DIFFERENTIABLE with every node that has
   *   no rule
   */
  static async fromBytes(bytes: Uint8Array, options: OnnxFunctionOptions = {}): Promise<OnnxFunction> {
    const model = readOnnx(bytes);
    const opset = opsetOf(model.opsetImport);
    if (!(opset >= oldest && opset <= newest)) {
      throw new EngineError('ONNX_INVALID', `the model is of opset ${opset}; supported are ${oldest} to ${newest}`);
    }
    const initializers = initializersOf(model.graph);
    const weights = weightsOf(model, initializers);
    const external = new Map<string, HostTensor>();
    for (const [name, tensor] of initializers) {
      if (isExternal(tensor)) external.set(name, await loadExternal(tensor, options.external));
    }
    const fed = model.graph.input.filter(({ name }) => !initializers.has(name));
    const given = new Set([...initializers.keys(), ...fed.map(({ name }) => name)]);
    if (given.size < initializers.size + fed.length) throw new EngineError('ONNX_INVALID', 'two inputs have one name');
    if (model.graph.output.length === 0) throw new EngineError('ONNX_INVALID', 'the graph has no outputs');
    const outputs = model.graph.output.map(({ name }) => name);
    const nodes = neededNodes(
      sortNodes(model.graph.node, (name) => given.has(name)),
      outputs,
    );
    const made = new Set([...given, ...nodes.flatMap(({ output }) => output)]);
    const lost = outputs.find((name) => !made.has(name));
    if (lost !== undefined) throw new EngineError('ONNX_INVALID', `nothing in the file makes its output "${lost}"`);
    const functions = functionsOf(model);
    refuseUnknown(nodes, functions);
    const value = valueReader(initializers, external);
    const parts = { bytes, model, functions, nodes, opset, initializers, weights, value };
    const sizes = new Map(Object.entries(options.sizes ?? {}));
    return new OnnxFunction(parts, specsOf(fed, sizes), specsOf(model.graph.output, sizes), []);
  }

  /** The same function with more adapters; see `insertLora`. */
  withAdapters(adapters: readonly Adapter[]): OnnxFunction {
    return new OnnxFunction(this.parts, this.inputs, this.outputs, [...this.adapters, ...adapters]);
  }

  /** Weights by name, those of adapters last. */
  get weights(): Named<WeightInfo> {
    const own = [...this.parts.weights];
    const added = this.adapters.flatMap(({ start }) =>
      Object.entries(start).map(([name, { dtype, shape }]) => [name, { dtype, shape, role: 'weight' }] as const),
    );
    return Object.fromEntries([...own, ...added]);
  }

  /** Values of weights as the file has them (of adapters: their start). @throws EngineError ARGUMENT_INVALID */
  values(names: NamePattern = '*'): Record<string, HostTensor> {
    const all = Object.keys(this.weights);
    const wanted = all.length === 0 ? new Set<string>() : namesMatching(names, all, 'weight');
    return Object.fromEntries([...wanted].map((name) => [name, this.valueOf(name)]));
  }

  private valueOf(name: string): HostTensor {
    for (const { start } of this.adapters) if (Object.hasOwn(start, name)) return start[name]!;
    return this.parts.value(name);
  }

  /**
   * Weights to train, and those to keep, each with its value: what a training step is given. All others are constants of
   * the graph. Without `trainable`, adapters are trained if there are any, else every weight.
   *
   * @param trainable names or patterns; a statistic, scalar or quantised weight only when named exactly
   * @throws EngineError ARGUMENT_INVALID when a pattern matches nothing (with near names), or a weight has no gradient
   */
  split({ trainable }: { trainable?: NamePattern } = {}): {
    params: Record<string, HostTensor>;
    frozen: Record<string, HostTensor>;
  } {
    const all = Object.entries(this.weights);
    const names = all.map(([name]) => name);
    const added = this.adapters.flatMap(({ start }) => Object.keys(start));
    const chosen = trainable ?? (added.length > 0 ? added : '*');
    const exact = new Set<unknown>(Array.isArray(chosen) ? chosen : [chosen]);
    const params: Record<string, HostTensor> = {};
    const frozen: Record<string, HostTensor> = {};
    const wanted = namesMatching(chosen, names, 'weight');
    for (const [name, info] of all) {
      const trained = wanted.has(name) && (info.role === 'weight' || exact.has(name));
      if (trained && info.role === 'quantized') {
        throw new EngineError(
          'ARGUMENT_INVALID',
          `"${name}" is ${info.dtype}: a quantised weight has no gradient; insert LoRA instead`,
        );
      }
      const value = this.valueOf(name);
      if (trained) params[name] = value;
      else if (value.data.length > smallestFrozen) frozen[name] = value;
    }
    return { params, frozen };
  }

  /**
   * Traces the model.
   *
   * @returns outputs by name
   * @throws EngineError INPUT_MISMATCH, SIZE_UNKNOWN, SHAPE_MISMATCH, NOT_DIFFERENTIABLE; the message names the node
   */
  apply({ inputs, weights = {}, training = false, seed = 0 }: ApplyOptions): Record<string, Tensor> {
    this.checkInputs(inputs);
    this.checkWeights(weights);
    const { initializers, nodes, functions, opset, value } = this.parts;
    const scope = new Map<string, Value>();
    const used = new Set([...nodes.flatMap(({ input }) => input), ...Object.keys(this.outputs)]);
    const subgraphs = nodes.some(({ attribute }) => attribute?.some(({ g }) => g));
    for (const name of initializers.keys()) {
      if (!used.has(name) && !subgraphs) continue;
      const own = Object.hasOwn(weights, name) ? weights[name]! : undefined;
      scope.set(name, own instanceof Tensor ? Value.traced(own) : Value.host(own ?? value(name), name));
    }
    for (const name of Object.keys(this.inputs)) scope.set(name, Value.traced(inputs[name]!));
    const dims = Object.values(inputs).flatMap(({ shape }) => shape.filter(isSymbolic));
    const symbols = [...new Set(dims)];
    const tracer = new GraphTracer(functions, { training, seed, symbols }, adapted(this.adapters, weights));
    tracer.run(nodes, scope, opset);
    return Object.fromEntries(
      Object.keys(this.outputs).map((name) => {
        const found = scope.get(name);
        if (!found) throw new EngineError('ONNX_INVALID', `nothing in the file makes its output "${name}"`);
        return [name, found.tensor];
      }),
    );
  }

  private checkInputs(inputs: Named<Tensor>): void {
    const sizes = new Map<string, Dim>();
    for (const [name, spec] of Object.entries(this.inputs)) {
      const tensor = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
      if (!tensor)
        throw new EngineError(
          'INPUT_MISMATCH',
          `the model's input "${name}" (${spec.dtype} ${showShape(spec.shape)}) is missing`,
        );
      const fits =
        tensor.dtype === spec.dtype &&
        tensor.rank === spec.shape.length &&
        spec.shape.every((dim, axis) => {
          const own = tensor.shape[axis]!;
          if (!isSymbolic(dim)) return own === dim;
          if (!sizes.has(dim)) sizes.set(dim, own);
          return sizes.get(dim) === own;
        });
      if (fits) continue;
      const bound = [...sizes].map(([symbol, size]) => `${symbol} = ${size}`).join(', ');
      throw new EngineError(
        'INPUT_MISMATCH',
        `the model's input "${name}" is ${spec.dtype} ${showShape(spec.shape)}${bound && ` (${bound})`}, but ${tensor.dtype} ${showShape(tensor.shape)} was given`,
      );
    }
    const unknown = Object.keys(inputs).find((name) => !Object.hasOwn(this.inputs, name));
    if (unknown !== undefined) {
      throw new EngineError(
        'INPUT_MISMATCH',
        `the model has no input "${unknown}"; it has ${Object.keys(this.inputs).join(', ')}`,
      );
    }
  }

  /**
   * Checks that weights have the names, dtypes and shapes of the file's.
   *
   * @param complete also that none is missing
   * @throws EngineError INPUT_MISMATCH
   */
  checkWeights(weights: Named<Tensor | HostTensor>, { complete = false } = {}): void {
    const own = this.weights;
    for (const [name, value] of Object.entries(weights)) {
      const info = Object.hasOwn(own, name) ? own[name]! : undefined;
      if (!info)
        throw new EngineError('INPUT_MISMATCH', `the model has no weight "${name}"${near(name, Object.keys(own))}`);
      const fits = value.dtype === info.dtype && showShape(value.shape) === showShape(info.shape);
      if (!fits) {
        throw new EngineError(
          'INPUT_MISMATCH',
          `weight "${name}" is ${info.dtype} ${showShape(info.shape)} in the model, but ${value.dtype} ${showShape(value.shape)} was given`,
        );
      }
    }
    const missing = complete && Object.keys(own).filter((name) => !Object.hasOwn(weights, name));
    if (missing && missing.length > 0) {
      throw new EngineError(
        'INPUT_MISMATCH',
        `${missing.length} weights are missing: ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ', …' : ''}`,
      );
    }
  }
}

/** Specs of inputs and outputs. Sizes without a number become symbols, called as in the file where that is a name. */
function specsOf(values: readonly OnnxValueInfo[], sizes: ReadonlyMap<string, Dim>): Record<string, TensorSpec> {
  return Object.fromEntries(
    values.map(({ name, type }) => {
      const tensor = type?.tensorType;
      const dtype = dtypeOf(tensor?.elemType);
      if (!tensor || !dtype)
        throw new EngineError(
          'ONNX_INVALID',
          `"${name}" is no tensor of a supported data type (${tensor?.elemType ?? 'none'})`,
        );
      const shape = (tensor.shape?.dim ?? []).map(({ dimValue, dimParam }, axis): Dim => {
        if (dimValue !== undefined && dimValue > 0 && Number.isSafeInteger(dimValue)) return dimValue;
        const symbol = dimParam ? symbolFor(dimParam) : symbolFor(`${name}_${axis}`);
        return sizes.get(dimParam ?? '') ?? sizes.get(symbol) ?? symbol;
      });
      return [name, { dtype, shape }];
    }),
  );
}

/** A symbol of the engine: no product, no number. */
function symbolFor(name: string): string {
  const plain = name.replace(/[^A-Za-z0-9_]/g, '_').slice(0, 100);
  return /^[A-Za-z_]/.test(plain) && Number.isNaN(Number(plain)) ? plain : `size_${plain}`;
}
