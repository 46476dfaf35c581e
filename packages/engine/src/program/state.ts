import type { DeviceTensor } from '../backends/node.js';
import { toDevice, toHost } from '../backends/node.js';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { elementCount, hostTensor, zeros } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';

/** Two buffers of one value: programs read the first and write the second, then they change places. */
interface Pair {
  current: DeviceTensor;
  spare: DeviceTensor;
}

/**
 * Values that live from run to run (weights, moments, counters), each in two buffers. A run reads the one and writes the
 * other, so nothing is copied, and the values before a run that failed are still whole. Several programs may work on one
 * state: each names what it reads and what it writes.
 *
 * Reading and writing are asynchronous because the buffers may stand on a device.
 */
export class ProgramState {
  private constructor(private readonly pairs: ReadonlyMap<string, Pair>) {}

  /** @param values start values; copied */
  static async create(values: Named<HostTensor>): Promise<ProgramState> {
    const pairs = new Map<string, Pair>();
    for (const [name, { dtype, shape, data }] of Object.entries(values)) {
      const current = toDevice({ dtype, shape, data: data.slice() });
      pairs.set(name, { current, spare: toDevice(zeros(dtype, shape)) });
    }
    return new ProgramState(pairs);
  }

  get names(): readonly string[] {
    return [...this.pairs.keys()];
  }

  /** What a run reads, by name. */
  feeds(names: readonly string[] = this.names): Record<string, DeviceTensor> {
    return Object.fromEntries(names.map((name) => [name, this.pair(name).current]));
  }

  /** Where a run writes, under `new/<name>`. */
  fetches(names: readonly string[] = this.names): Record<string, DeviceTensor> {
    return Object.fromEntries(names.map((name) => [`new/${name}`, this.pair(name).spare]));
  }

  /** Makes what a run has written the current values. Call it only after the run has succeeded. */
  swap(names: readonly string[] = this.names): void {
    for (const name of names) {
      const pair = this.pair(name);
      [pair.current, pair.spare] = [pair.spare, pair.current];
    }
  }

  /** Copies of the values as they are now. */
  async read(names: readonly string[] = this.names): Promise<Record<string, HostTensor>> {
    return Object.fromEntries(names.map((name) => [name, copy(this.pair(name).current)]));
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
    for (const [name, { current }] of this.pairs)
      (current.data as Float32Array).set(values[name]!.data as Float32Array);
  }

  private pair(name: string): Pair {
    const pair = this.pairs.get(name);
    if (!pair) throw new EngineError('ARGUMENT_INVALID', `the state has no "${name}"`);
    return pair;
  }
}

function copy(tensor: DeviceTensor): HostTensor {
  const { dtype, shape, data } = toHost(tensor);
  return hostTensor(dtype, shape, data.slice());
}
