import type { Backend, DeviceTensor } from '#backend';
import { threadsEach, toDevice } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { hostTensor } from '../host-tensor.js';
import { ProgramState } from './state.js';
import { type SizedTrace, StateProgram, type StateProgramOptions } from './state-program.js';

type Given = Readonly<Record<string, DeviceTensor>>;

/** @throws EngineError ARGUMENT_INVALID for a number that is none, or what replicas do not go together with */
export function checkReplicas(
  count: number,
  { backend, shadow, rows }: { backend?: Backend; shadow?: unknown; rows?: unknown },
): void {
  const wrong = (message: string) => new EngineError('ARGUMENT_INVALID', `trainStep: ${message}`);
  if (!Number.isInteger(count) || count < 1) throw wrong(`replicas is ${count}; it must be a whole number above 0`);
  if (backend !== undefined && backend !== 'cpu') throw wrong(`replicas are on "cpu" only, not on "${backend}"`);
  if (rows) throw wrong('`replicas` and `rows` do not go together');
  if (shadow) throw wrong('`replicas` and `shadow` do not go together');
}

/** What a replica is given: a micro-batch, what it reads of the state, and which micro-batch of the step it is. */
export function replicaGiven(part: Given, state: ProgramState, number: number): Given {
  const reads = state.feeds(state.names.filter((name) => /^(step$|param\/|scale\/)/.test(name)));
  return { ...part, ...reads, 'sum/count': toDevice(hostTensor('int64', [], [number])) };
}

/** The program of a micro-batch, open in several threads. */
export class Replicas {
  private constructor(private readonly programs: readonly StateProgram[]) {}

  static async open(count: number, trace: SizedTrace, options: StateProgramOptions): Promise<Replicas> {
    const nothing = await ProgramState.create({});
    const threads = options.threads ?? threadsEach(count);
    const programs: StateProgram[] = [];
    const replicas = new Replicas(programs);
    try {
      for (let thread = 0; thread < count; thread++) {
        programs.push(await StateProgram.open('micro-batch', nothing, trace, { ...options, threads, thread }));
      }
    } catch (error) {
      await replicas.dispose();
      throw error;
    }
    return replicas;
  }

  /** One of the programs, which are all alike. */
  get program(): StateProgram {
    return this.programs[0]!;
  }

  /**
   * Works on all micro-batches, and adds what they make to the sums of the state in their order. When one fails, the
   * sums hold those before it.
   *
   * @param before micro-batches that are already in the sums
   * @returns the loss of each
   */
  async accumulate(parts: readonly Given[], state: ProgramState, before: number): Promise<number[]> {
    const losses: number[] = [];
    const early = new Map<number, Record<string, HostTensor>>();
    let next = 0;
    const work = async (program: StateProgram) => {
      while (next < parts.length) {
        const mine = next++;
        early.set(mine, await program.run(replicaGiven(parts[mine]!, state, before + mine)));
        for (let found = early.get(losses.length); found; found = early.get(losses.length)) {
          early.delete(losses.length);
          const { loss, ...sums } = found;
          state.add({ ...sums, 'sum/count': hostTensor('int64', [], [1]) });
          losses.push(Number(loss!.data[0]));
        }
      }
    };
    const ends = await Promise.allSettled(this.programs.map(work));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
    return losses;
  }

  async dispose(): Promise<void> {
    for (const program of this.programs) await program.dispose();
  }
}
