import type { DeviceTensor, SessionOptions } from '#backend';
import { runInto, runSession, stoppingBeforeCopies, toDevice, toHost } from '#backend';
import type { HostTensor } from '../host-tensor.js';
import { zeros } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { allFinite, findNan } from './debug-nans.js';
import { emitGraph, type TracedGraph } from './graph.js';
import { type MemoryPlan, planMemory } from './memory.js';
import { printGraph } from './print.js';
import type { ProfiledProgram } from './profile.js';
import type { SharedSession } from './session-cache.js';
import { shareSession } from './session-cache.js';
import type { ProgramState } from './state.js';
import { type Sizes, sizesOf, symbolsOf, Variants, withSizes } from './variants.js';

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

/** A trace that may be made anew with numbers for symbols. */
export interface SizedTrace {
  /** Of what each run is given, where its sizes are symbols. */
  readonly specs: Named<TensorSpec>;
  trace(sizes: Sizes): StateTrace;
}

export interface StateProgramOptions extends SessionOptions {
  /** Looks at everything that a run makes; where it is not finite, the error names the operator and its line. */
  readonly debugNans?: boolean;
  /** Sessions stand in a thread of their own, by this number: several programs then work at once. */
  readonly thread?: number;
  /** `run` may be told not to accept what was written: it must not be written over the values before. */
  readonly refusable?: boolean;
}

const session = ({ debugNans: _, thread: __, refusable: ___, ...options }: StateProgramOptions): SessionOptions =>
  options;

/** A program open for some sizes. */
interface Opened {
  readonly graph: TracedGraph;
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly results: readonly string[];
  /** Everything that a run makes is written where it shall stand, */
  readonly inPlace: boolean;
  /** and these values over those that it reads. */
  readonly over: ReadonlySet<string>;
  readonly shared: SharedSession;
}

type Given = Readonly<Record<string, DeviceTensor>>;

async function runOpened(
  { graph, inPlace, shared }: Opened,
  feeds: Given,
  fetches: Record<string, DeviceTensor | null>,
) {
  if (!inPlace) return runSession(shared.session, feeds, fetches);
  const dims = new Map(Object.entries(feeds).map(([name, { dims }]) => [name, { shape: dims }]));
  const sizes = sizesOf(new Map(Object.entries(graph.inputs)), dims);
  const places = Object.entries(fetches).map(([name, tensor]): [string, DeviceTensor] => {
    const { dtype, shape } = withSizes(graph.outputs[name]!, sizes);
    return [name, tensor ?? toDevice(zeros(dtype, shape as number[]))];
  });
  const outputs = Object.fromEntries(places);
  await runInto(shared.session, feeds, outputs);
  return outputs;
}

/** A program that reads and writes values which stay where they are. */
export class StateProgram {
  private constructor(
    private readonly state: ProgramState,
    private readonly specs: ReadonlyMap<string, TensorSpec>,
    private readonly variants: Variants<Opened>,
    private readonly options: StateProgramOptions,
  ) {}

  static async open(
    name: string,
    state: ProgramState,
    made: StateTrace | SizedTrace,
    options: StateProgramOptions,
  ): Promise<StateProgram> {
    const sized = 'trace' in made ? made : { specs: {}, trace: () => made };
    const open = async (sizes: Sizes): Promise<Opened> => {
      const trace = sized.trace(sizes);
      const outputs = { ...prefixed(trace.writes, 'new'), ...prefixed(trace.results, 'result') };
      const graph = { name, backend: options.backend, inputs: { ...trace.reads, ...trace.given }, outputs };
      const { model } = emitGraph(graph);
      const written = Object.keys(trace.writes);
      const resident = state.resident(written);
      const inPlace = written.length > 0 && state.hasPlaces(written);
      const over = new Set(
        inPlace && !options.refusable && !options.debugNans ? state.overwritable(written, model) : [],
      );
      const whole = inPlace ? stoppingBeforeCopies(model) : model;
      const shared = await shareSession(whole, { ...session(options), thread: options.thread, resident });
      const [reads, writes, results] = [trace.reads, trace.writes, trace.results].map(Object.keys);
      return { graph, reads: reads!, writes: writes!, results: results!, inPlace, over, shared };
    };
    const specs = new Map(Object.entries(sized.specs));
    const symbols = symbolsOf(specs.values());
    return new StateProgram(
      state,
      specs,
      await Variants.open(name, symbols, open, ({ shared }) => shared.release()),
      options,
    );
  }

  /**
   * Runs once. The state changes only when the run succeeds, and of what was written only the names that `accept`
   * returns (all of them when left out, or when the program is not `refusable`) become the state: the rest is as if it had
   * not been computed. Runs on one state must not overlap.
   */
  run(
    given: Given,
    accept?: (results: Named<HostTensor>, writes: readonly string[]) => readonly string[],
  ): Promise<Record<string, HostTensor>> {
    const sizes = this.sizes(given);
    return this.variants.use(sizes, async (opened) => {
      const { graph, reads, writes, results: names, over } = opened;
      const feeds = { ...given, ...this.state.feeds(reads) };
      const fetches: Record<string, DeviceTensor | null> = this.state.fetches(writes, over);
      for (const name of names) fetches[`result/${name}`] = null;
      const outputs = await runOpened(opened, feeds, fetches);
      const results = Object.fromEntries(names.map((name) => [name, toHost(outputs[`result/${name}`]!)]));
      const accepted = accept ? accept(results, writes) : writes;
      // What is not accepted was meant to be thrown away: an overflow of scaled gradients, for example.
      if (this.options.debugNans && accepted.length === writes.length) {
        const wrong = Object.values(outputs).some((tensor) => tensor.location === 'cpu' && !allFinite(toHost(tensor)));
        if (wrong) return findNan(graph, feeds, sizes, session(this.options));
      }
      this.state.swap(outputs, accepted);
      return results;
    });
  }

  print(): string {
    return this.variants.describe(({ graph }) => printGraph(graph));
  }

  /** The program with what a run would read; for profiles. */
  profiled(given: Given): Promise<ProfiledProgram> {
    return this.variants.use(this.sizes(given), async ({ graph, reads, writes }) => ({
      graph,
      feeds: { ...given, ...this.state.feeds(reads) },
      scratch: this.state.scratch(writes),
    }));
  }

  memory(sizes: Sizes): Promise<MemoryPlan> {
    return this.variants.use(sizes, async ({ graph, over }) => planMemory(graph, sizes, over));
  }

  dispose(): Promise<void> {
    return this.variants.close();
  }

  private sizes(given: Given): Sizes {
    return sizesOf(this.specs, new Map(Object.entries(given).map(([name, { dims }]) => [name, { shape: dims }])));
  }
}

const prefixed = (values: Named<Tensor>, prefix: string) =>
  Object.fromEntries(Object.entries(values).map(([key, tensor]) => [`${prefix}/${key}`, tensor]));
