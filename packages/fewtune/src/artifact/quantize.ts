import {
  type HostTensor,
  hostTensor,
  type OnnxModelProto,
  type OnnxNode,
  type OnnxTensor,
  readOnnx,
  writeOnnx,
} from '@fewtune/engine';

/** TensorProto.DataType */
const float32 = 1;
const int8 = 3;

/** Matrices with fewer elements stay float32: they save nothing. */
const smallest = 4096;

/**
 * The same model with its large matrices as int8 and one float32 scale an output channel (or table row): about a
 * quarter of the size. Weights only: activations stay float32, so answers move by about as much as the weights were
 * rounded. Written with standard operators:
 *
 * - a table read by `Gather` on axis 0 becomes Gather(int8) → Cast → Mul(Gather(scales)), so only the rows that are
 *   needed are widened;
 * - every other use reads `DequantizeLinear(int8, scales)`.
 */
export function quantizeOnnx(bytes: Uint8Array): Uint8Array {
  const model = readOnnx(bytes);
  const { graph } = model;
  const consumers = consumersOf(model);
  const initializers: OnnxTensor[] = [];
  const widen: OnnxNode[] = [];
  const replaced = new Map<OnnxNode, OnnxNode[]>();
  for (const tensor of graph.initializer ?? []) {
    const users = consumers.get(tensor.name ?? '') ?? [];
    if (!isLargeMatrix(tensor) || users.length === 0) {
      initializers.push(tensor);
      continue;
    }
    const name = tensor.name!;
    const lookups = users.filter((node) => isRowLookup(node, name));
    const others = users.filter((node) => !isRowLookup(node, name));
    const axis = lookups.length > 0 ? 0 : channelAxis(others[0]!, name);
    const { values, scales } = quantizeAlong(axis, tensor);
    initializers.push(
      { name: `${name}_int8`, dims: [...values.shape], dataType: int8, rawData: rawOf(values) },
      { name: `${name}_scale`, dims: [...scales.shape], dataType: float32, rawData: rawOf(scales) },
    );
    if (others.length > 0) {
      widen.push(node('DequantizeLinear', [`${name}_int8`, `${name}_scale`], name, { axis }));
    }
    if (lookups.length > 0) {
      initializers.push({
        name: `${name}_scale_column`,
        dims: [scales.shape[0]!, 1],
        dataType: float32,
        rawData: rawOf(scales),
      });
    }
    for (const lookup of lookups) {
      replaced.set(lookup, rowLookup(lookup, name));
    }
  }
  const nodes = graph.node.flatMap((old) => replaced.get(old) ?? [old]);
  // `<table>_scale` is only read by DequantizeLinear.
  const read = new Set([...widen, ...nodes].flatMap((n) => n.input));
  return writeOnnx({
    ...model,
    graph: { ...graph, initializer: initializers.filter((t) => read.has(t.name ?? '')), node: [...widen, ...nodes] },
  });
}

/** Gather(int8 rows) → float32 → times Gather(scales [rows, 1]). */
function rowLookup(lookup: OnnxNode, name: string): OnnxNode[] {
  const ids = lookup.input[1]!;
  const out = lookup.output[0]!;
  return [
    node('Gather', [`${name}_int8`, ids], `${out}_int8`, { axis: 0 }),
    node('Cast', [`${out}_int8`], `${out}_float`, { to: float32 }),
    node('Gather', [`${name}_scale_column`, ids], `${out}_scale`, { axis: 0 }),
    node('Mul', [`${out}_float`, `${out}_scale`], out, {}),
  ];
}

function node(opType: string, input: string[], output: string, attributes: Record<string, number>): OnnxNode {
  const attribute = Object.entries(attributes).map(([name, i]) => ({ name, type: 2, i }));
  return { opType, name: `${opType}_${output}`, input, output: [output], attribute };
}

function consumersOf({ graph }: OnnxModelProto): Map<string, OnnxNode[]> {
  const consumers = new Map<string, OnnxNode[]>();
  for (const user of graph.node) {
    for (const name of new Set(user.input)) {
      const users = consumers.get(name);
      if (users === undefined) {
        consumers.set(name, [user]);
      } else {
        users.push(user);
      }
    }
  }
  return consumers;
}

function isLargeMatrix({ dims, dataType, rawData }: OnnxTensor): boolean {
  return dims?.length === 2 && dataType === float32 && rawData !== undefined && dims[0]! * dims[1]! >= smallest;
}

function isRowLookup(user: OnnxNode, name: string): boolean {
  return user.opType === 'Gather' && user.input[0] === name && attributeOf(user, 'axis', 0) === 0;
}

/** The axis of output channels: columns of x W, rows of x Wᵀ. */
function channelAxis(user: OnnxNode, name: string): 0 | 1 {
  const right = user.input[1] === name;
  if (user.opType === 'MatMul') {
    return right ? 1 : 0;
  }
  if (user.opType === 'Gemm') {
    const transposed = attributeOf(user, right ? 'transB' : 'transA', 0) === 1;
    return right === transposed ? 0 : 1;
  }
  return user.opType === 'Transpose' ? 0 : 1; // a transposed weight is [out, in]
}

function attributeOf(user: OnnxNode, name: string, fallback: number): number {
  return user.attribute?.find((attribute) => attribute.name === name)?.i ?? fallback;
}

/**
 * Symmetric int8 per channel: w ≈ scale · q with scale = max |w| / 127, so that a matrix that once was int8 keeps its values.
 *
 * @returns values int8 [rows, cols], scales float32 [channels]
 */
function quantizeAlong(axis: 0 | 1, { dims, rawData }: OnnxTensor): { values: HostTensor; scales: HostTensor } {
  const [rows, cols] = dims as [number, number];
  const data = new Float32Array(rawData!.slice().buffer);
  const scales = new Float32Array(axis === 0 ? rows : cols);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++, i++) {
      const channel = axis === 0 ? r : c;
      scales[channel] = Math.max(scales[channel]!, Math.abs(data[i]!));
    }
  }
  for (let channel = 0; channel < scales.length; channel++) {
    scales[channel] = scales[channel] === 0 ? 1 : scales[channel]! / 127;
  }
  const values = new Int8Array(data.length);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++, i++) {
      const steps = data[i]! / scales[axis === 0 ? r : c]!;
      values[i] = Math.max(-127, Math.min(127, Math.round(steps)));
    }
  }
  return {
    values: hostTensor('int8', [rows, cols], values),
    scales: hostTensor('float32', [scales.length], scales),
  };
}

function rawOf({ data }: HostTensor): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
