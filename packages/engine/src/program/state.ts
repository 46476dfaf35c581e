import type { DeviceTensor, SessionOptions } from '#backend';
import { download, residence, toDevice, upload } from '#backend';
import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { elementCount, zeros } from '../host-tensor.js';
import type { OnnxModelProto } from '../onnx/model.js';
import type { Named } from '../optim/optimizer.js';
import { overwritable } from './overwriting.js';

/**
 * Two buffers of one value: programs read the first and write the second, then they change places. The second is made
 * when a program first asks for it: one that may write over what it reads needs none. Where the runtime cannot write into
 * a given buffer there is no second one: what a run returns takes the place of what it read.
 */
interface Pair {
  current: DeviceTensor;
  spare: DeviceTensor | null | 'not yet';
}

/** Below this size a second buffer costs nothing. */
export const largeBytes = 1 << 16;

/**
 * Values that live from run to run (weights, moments, counters), each in two buffers where it must be. A run reads the
 * one and writes the other, so nothing is copied, and the values before a run that failed are still whole. Several
 * programs may work on one state: each names what it reads and what it writes.
 *
 * Reading and writing are asynchronous because the buffers may stand on a device.
 */
export class ProgramState {
  private constructor(
    private readonly pairs: ReadonlyMap<string, Pair>,
    private readonly options: SessionOptions,
  ) {}

  /** @param values start values; they become the state's own */
  static async create(values: Named<HostTensor>, options: SessionOptions = {}): Promise<ProgramState> {
    const pairs = new Map<string, Pair>();
    for (const [name, value] of Object.entries(values)) {
      const current = await upload(value, options);
      const spare = residence(options.backend, value.dtype) === 'preallocated' ? 'not yet' : null;
      pairs.set(name, { current, spare });
    }
    return new ProgramState(pairs, options);
  }

  /** Outputs that a session must leave in the device's memory, for it to work on this state. */
  resident(names: readonly string[] = this.names): string[] {
    const onDevice = ({ current }: Pair) => residence(this.options.backend, current.type as DType) === 'device';
    return names.filter((name) => onDevice(this.pair(name))).map((name) => `new/${name}`);
  }

  get names(): readonly string[] {
    return [...this.pairs.keys()];
  }

  /** Whether a run can write all of these where they shall stand. */
  hasPlaces(names: readonly string[]): boolean {
    return names.every((name) => this.pair(name).spare !== null);
  }

  /** Of what a program writes, large values that it may write over what it reads. */
  overwritable(names: readonly string[], { graph }: OnnxModelProto): string[] {
    const large = names.filter((name) => (this.pair(name).current.data as Float32Array).byteLength >= largeBytes);
    const pairs = new Map(large.map((name) => [name, { input: name, output: `new/${name}` }]));
    return overwritable(graph.node, pairs);
  }

  /** What a run reads, by name. */
  feeds(names: readonly string[] = this.names): Record<string, DeviceTensor> {
    return Object.fromEntries(names.map((name) => [name, this.pair(name).current]));
  }

  /**
   * Where a run writes, under `new/<name>`; null for a new buffer.
   *
   * @param over those that it writes over
   */
  fetches(names: readonly string[], over: ReadonlySet<string> = new Set()): Record<string, DeviceTensor | null> {
    const place = (name: string) => {
      const pair = this.pair(name);
      if (over.has(name)) return pair.current;
      const { type, dims } = pair.current;
      if (pair.spare === 'not yet') pair.spare = toDevice(zeros(type as DType, dims));
      return pair.spare;
    };
    return Object.fromEntries(names.map((name) => [`new/${name}`, place(name)]));
  }

  /** Places for what a run writes that are not part of the state; null for a new buffer. */
  scratch(names: readonly string[]): Record<string, DeviceTensor | null> {
    const place = ({ current: { type, dims }, spare }: Pair) => spare && toDevice(zeros(type as DType, dims));
    return Object.fromEntries(names.map((name) => [`new/${name}`, place(this.pair(name))]));
  }

  /**
   * Makes what a run has written the current values. Call it only after the run has succeeded, with its outputs; those
   * whose names are left out are given up.
   */
  swap(outputs: Readonly<Record<string, DeviceTensor>>, names: readonly string[] = this.names): void {
    const taken = new Set(names);
    for (const [name, pair] of this.pairs) {
      const output = outputs[`new/${name}`];
      if (!output || output === pair.current) continue;
      if (!taken.has(name)) {
        if (!pair.spare) free(output);
        continue;
      }
      const before = pair.current;
      pair.current = output;
      if (pair.spare) pair.spare = before;
      else free(before);
    }
  }

  /** Copies of the values as they are now. */
  async read(names: readonly string[] = this.names): Promise<Record<string, HostTensor>> {
    const values: Record<string, HostTensor> = {};
    for (const name of names) values[name] = await download(this.pair(name).current);
    return values;
  }

  /** Adds to values that stand in host memory. */
  add(values: Named<HostTensor>): void {
    for (const [name, { data }] of Object.entries(values)) {
      const [sums, added] = [this.pair(name).current.data, data] as unknown as [number[], number[]]; // or bigints
      for (let i = 0; i < sums.length; i++) sums[i]! += added[i]!;
    }
  }

  /** Sets values to zero. */
  async clear(names: readonly string[]): Promise<void> {
    for (const name of names) {
      const pair = this.pair(name);
      const { type, dims, location } = pair.current;
      if (location === 'gpu-buffer') {
        free(pair.current);
        pair.current = await upload(zeros(type as DType, dims), this.options);
      } else if (type === 'int64') (pair.current.data as BigInt64Array).fill(0n);
      else (pair.current.data as Float32Array).fill(0);
    }
  }

  /**
   * Replaces every value; those of `values` that are none of the state's are passed over.
   *
   * @throws EngineError INPUT_MISMATCH, with nothing changed, when one is missing or of another dtype or shape
   */
  async write(values: Named<HostTensor>): Promise<void> {
    for (const [name, { current }] of this.pairs) {
      const value = values[name];
      const fits = value?.dtype === current.type && value.data.length === elementCount(current.dims);
      if (!fits) {
        const found = value ? `${value.dtype} [${value.shape.join(', ')}]` : 'missing';
        throw new EngineError(
          'INPUT_MISMATCH',
          `the state holds "${name}" as ${current.type} [${current.dims.join(', ')}], but in what was given it is ${found}`,
        );
      }
    }
    for (const [name, pair] of this.pairs) {
      const { dtype, data } = values[name]!;
      const before = pair.current;
      pair.current = await upload({ dtype, shape: before.dims, data: data.slice() }, this.options);
      free(before);
    }
  }

  /** Frees what stands in a device's memory. */
  dispose(): void {
    for (const { current } of this.pairs.values()) free(current);
  }

  private pair(name: string): Pair {
    const pair = this.pairs.get(name);
    if (!pair) throw new EngineError('ARGUMENT_INVALID', `the state has no "${name}"`);
    return pair;
  }
}

function free(tensor: DeviceTensor): void {
  if (tensor.location === 'gpu-buffer') tensor.dispose();
}
