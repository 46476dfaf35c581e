/**
 * Mutated ONNX files: opening and tracing one gives a result or an EngineError, in bounded time and memory.
 * `FUZZ_MUTATIONS=10000` runs more; a failure prints the seed and fixture that repeat it.
 */
import { describe, expect, test } from 'vitest';
import * as e from '../src/index.js';
import { fixtureBytes, fixtureNames } from './onnx-fixtures.js';

const count = Number(process.env.FUZZ_MUTATIONS ?? 1000);
const firstSeed = Number(process.env.FUZZ_SEED ?? 1);

type Random = (below: number) => number;

/** xorshift32, Marsaglia 2003. */
function randomFrom(seed: number): Random {
  let state = (seed * 2654435761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

const pick = <T>(random: Random, list: readonly T[]): T => list[random(list.length)]!;
const huge = [0, -1, 1, 2, 3, 7, 64, 4097, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), 2 ** 40, 2 ** 53, -(2 ** 62)];

/** Places outside of raw weights, where a byte means structure. */
const structure = new Map<string, number[]>();
function placesOf(name: string, bytes: Uint8Array): number[] {
  let places = structure.get(name);
  if (!places) {
    const raw = (e.readOnnx(bytes).graph.initializer ?? []).flatMap(({ rawData }) => (rawData ? [rawData] : []));
    const inside = new Uint8Array(bytes.length);
    for (const part of raw)
      inside.fill(1, part.byteOffset - bytes.byteOffset, part.byteOffset - bytes.byteOffset + part.length);
    places = [...inside.keys()].filter((i) => inside[i] === 0);
    structure.set(name, places);
  }
  return places;
}

/** Changes to the bytes. */
const byteMutations: Record<string, (bytes: Uint8Array, random: Random, places: number[]) => Uint8Array> = {
  flip: (bytes, random, places) => {
    for (let i = 0; i <= random(4); i++) bytes[pick(random, places)]! ^= 1 << random(8);
    return bytes;
  },
  overwrite: (bytes, random, places) => {
    const at = pick(random, places);
    for (let i = 0; i <= random(8); i++) bytes[at + i] = random(256);
    return bytes;
  },
  // Lengths and counts are varints: long ones are made of bytes with the upper bit.
  length: (bytes, random, places) => {
    const at = pick(random, places);
    bytes.fill(0xff, at, at + random(9));
    return bytes;
  },
  cut: (bytes, random) => bytes.subarray(0, random(bytes.length)),
  remove: (bytes, random, places) => {
    const at = pick(random, places);
    const size = 1 + random(16);
    return Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + size)]);
  },
  repeat: (bytes, random, places) => {
    const at = pick(random, places);
    const size = 1 + random(64);
    return Uint8Array.from([...bytes.subarray(0, at + size), ...bytes.subarray(at)]);
  },
};

/** Changes to the model that leave it a message. */
const modelMutations: Record<string, (model: e.OnnxModelProto, random: Random) => void> = {
  dims: ({ graph }, random) => {
    const tensor = pick(random, graph.initializer!);
    tensor.dims = (tensor.dims ?? []).map((dim) => (random(2) ? pick(random, huge) : dim));
  },
  rank: ({ graph }, random) => {
    const tensor = pick(random, graph.initializer!);
    tensor.dims = random(2) ? [...(tensor.dims ?? []), 1] : (tensor.dims ?? []).slice(1);
  },
  dtype: ({ graph }, random) => {
    pick(random, graph.initializer!).dataType = random(26);
  },
  integers: ({ graph }, random) => {
    const whole = [
      ...graph.initializer!,
      ...graph.node.flatMap(({ attribute }) => (attribute ?? []).flatMap(({ t }) => (t ? [t] : []))),
    ];
    const tensors = whole.filter(({ dataType, rawData }) => dataType === 7 && rawData?.length);
    if (tensors.length === 0) return;
    const tensor = pick(random, tensors);
    const raw = new Uint8Array(tensor.rawData!);
    new DataView(raw.buffer).setBigInt64(8 * random(raw.length / 8), BigInt(pick(random, huge)), true);
    tensor.rawData = raw;
  },
  attribute: ({ graph }, random) => {
    const list = pick(
      random,
      graph.node.filter(({ attribute }) => attribute?.length),
    ).attribute!;
    const attribute = pick(random, list);
    if (attribute.ints) attribute.ints = attribute.ints.map((i) => (random(2) ? pick(random, huge) : i));
    else if (attribute.i !== undefined) attribute.i = pick(random, huge);
    else if (attribute.f !== undefined) attribute.f = pick(random, [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e30]);
    else list.splice(list.indexOf(attribute), 1);
  },
  wiring: ({ graph }, random) => {
    const names = graph.node
      .flatMap(({ output }) => output)
      .concat(
        graph.initializer!.map(({ name }) => name!),
        '',
        'nothing',
      );
    const node = pick(random, graph.node);
    const list = random(4) ? node.input : node.output;
    list[random(list.length + 1)] = pick(random, names);
  },
  operator: ({ graph }, random) => {
    pick(random, graph.node).opType = pick(random, graph.node).opType;
  },
  fewer: ({ graph }, random) => {
    const list = pick(random, [
      graph.node,
      graph.initializer!,
      graph.input,
      graph.output,
      pick(random, graph.node).input,
    ]) as unknown[];
    list.splice(random(list.length), 1);
  },
  order: ({ graph }, random) => {
    const [node] = graph.node.splice(random(graph.node.length), 1);
    graph.node.splice(random(graph.node.length), 0, node!);
  },
  inputs: ({ graph }, random) => {
    const { type } = pick(random, graph.input);
    const dims = type!.tensorType!.shape?.dim ?? [];
    const own = pick(random, [
      { dimValue: pick(random, huge) },
      { dimParam: pick(random, ['a*b', '1', '', '-1', 'NaN', '__proto__']) },
      {},
    ]);
    if (random(4) === 0) type!.tensorType!.elemType = random(26);
    else dims[random(dims.length + 1)] = own;
  },
  opset: (model, random) => {
    model.opsetImport[0]!.version = pick(random, [...huge, 9, 11, 12, 13, 18, 21, 23]);
  },
};

function mutate(seed: number): { label: string; bytes: Uint8Array } {
  const random = randomFrom(seed);
  for (let i = 0; i < 8; i++) random(2);
  const name = pick(random, fixtureNames);
  const bytes = fixtureBytes(name);
  const kinds = [...Object.keys(byteMutations), ...Object.keys(modelMutations)];
  const kind = pick(random, kinds);
  const label = `seed ${seed}: ${kind} of ${name}`;
  const ofBytes = byteMutations[kind];
  if (ofBytes) return { label, bytes: ofBytes(bytes, random, placesOf(name, bytes)) };
  const model = e.readOnnx(bytes);
  for (let i = 0; i <= random(3); i++) modelMutations[kind]!(model, random);
  return { label, bytes: e.writeOnnx(model) };
}

/** Gradients of the first output, where it has any. */
function traceGradients(model: e.OnnxFunction): void {
  const { params } = model.split();
  const name = Object.keys(model.outputs)[0]!;
  if (model.outputs[name]!.dtype !== 'float32' || Object.keys(params).length === 0) return;
  e.traceToOnnx(
    (inputs) =>
      e.grad((weights: Record<string, e.Tensor>) => e.sum(model.apply({ inputs, weights })[name]!))(
        Object.fromEntries(Object.entries(params).map(([key, value]) => [key, e.constant(value)])),
      ),
    model.inputs,
    { portable: false },
  );
}

describe('mutated ONNX files', () => {
  test(`${count} of them: a clear error or a traced graph, never a hang, crash or large allocation`, async () => {
    const outcomes = new Map<string, number>();
    const failures: string[] = [];
    let slowest = { ms: 0, label: '' };
    for (let seed = firstSeed; seed < firstSeed + count; seed++) {
      const { label, bytes } = mutate(seed);
      const [started, memory] = [process.cpuUsage(), process.memoryUsage.rss()];
      let outcome = 'traced';
      try {
        const model = await e.readOnnxModel(bytes);
        e.traceToOnnx((inputs) => model.apply({ inputs }), model.inputs, { portable: false });
        if (seed % 8 === 0) traceGradients(model);
      } catch (error) {
        outcome = error instanceof e.EngineError ? error.code : 'crash';
        if (outcome === 'crash') failures.push(`${label}: ${error instanceof Error ? error.stack : error}`);
        else if (String((error as Error).message).length > 4000)
          failures.push(`${label}: a message of ${(error as Error).message.length} characters`);
      }
      const { user, system } = process.cpuUsage(started);
      const ms = (user + system) / 1000;
      if (ms > slowest.ms) slowest = { ms, label };
      if (ms > 3000) failures.push(`${label}: took ${ms} ms`);
      const grown = process.memoryUsage.rss() - memory;
      if (grown > 2 ** 28) failures.push(`${label}: took ${grown} bytes`);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    if (process.env.FUZZ_MUTATIONS) console.log(Object.fromEntries(outcomes), slowest);
    expect(failures.slice(0, 5)).toEqual([]);
    expect(outcomes.get('ONNX_INVALID')).toBeGreaterThan(count / 20);
  }, 600_000);
});
