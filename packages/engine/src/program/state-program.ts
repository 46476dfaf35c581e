import type { DeviceTensor, SessionOptions } from '#backend';
import { runSession, toHost } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor } from '../tensor.js';
import { emitGraph, type TracedGraph } from './graph.js';
import type { ProfiledProgram } from './profile.js';
import type { SharedSession } from './session-cache.js';
import { shareSession } from './session-cache.js';
import type { ProgramState } from './state.js';

/** What a traced program over a state is made of. */
export interface StateTrace {
  /** Placeholders of the values it reads, by their names in the state. */
  readonly reads: Named<Tensor>;
  /** Placeholders of what each run is given besides. */
  readonly given: Named<Tensor>;
  /** New values of the state, by name. */
  readonly writes: Named<Tensor>;
  /** What a run returns. */
  readonly results: Named<Tensor>;
}

/** A program that reads and writes values which stay where they are. */
export class StateProgram {
  private constructor(
    readonly name: string,
    private readonly state: ProgramState,
    private readonly reads: readonly string[],
    readonly writes: readonly string[],
    private readonly results: readonly string[],
    readonly graph: TracedGraph,
    private shared: SharedSession | undefined,
  ) {}

  static async open(
    name: string,
    state: ProgramState,
    trace: StateTrace,
    options: SessionOptions,
  ): Promise<StateProgram> {
    const prefixed = (values: Named<Tensor>, prefix: string) =>
      Object.fromEntries(Object.entries(values).map(([key, tensor]) => [`${prefix}/${key}`, tensor]));
    const outputs = { ...prefixed(trace.writes, 'new'), ...prefixed(trace.results, 'result') };
    const graph = { name, backend: options.backend, inputs: { ...trace.reads, ...trace.given }, outputs };
    const { model } = emitGraph(graph);
    const resident = state.resident(Object.keys(trace.writes));
    const shared = await shareSession(model, { ...options, resident });
    const [reads, writes, results] = [trace.reads, trace.writes, trace.results].map(Object.keys);
    return new StateProgram(name, state, reads!, writes!, results!, graph, shared);
  }

  /**
   * Runs once. The state changes only when the run succeeds, and of what was written only the names that `accept`
   * returns (all of them when left out) become the state: the rest is as if it had not been computed.
   */
  async run(
    given: Readonly<Record<string, DeviceTensor>>,
    accept: (results: Named<HostTensor>) => readonly string[] = () => this.writes,
  ): Promise<Record<string, HostTensor>> {
    if (!this.shared) throw new EngineError('DISPOSED', `the ${this.name} was disposed`);
    const feeds = { ...given, ...this.state.feeds(this.reads) };
    const fetches: Record<string, DeviceTensor | null> = this.state.fetches(this.writes);
    for (const result of this.results) fetches[`result/${result}`] = null;
    const outputs = await runSession(this.shared.session, feeds, fetches);
    const results = Object.fromEntries(this.results.map((name) => [name, toHost(outputs[`result/${name}`]!)]));
    this.state.swap(outputs, accept(results));
    return results;
  }

  /** The program with what a run would read; for profiles. */
  profiled(given: Readonly<Record<string, DeviceTensor>>): ProfiledProgram {
    if (!this.shared) throw new EngineError('DISPOSED', `the ${this.name} was disposed`);
    return { graph: this.graph, feeds: { ...given, ...this.state.feeds(this.reads) } };
  }

  async dispose(): Promise<void> {
    const shared = this.shared;
    this.shared = undefined;
    await shared?.release();
  }
}
