export type TrainStage = 'read' | 'features' | 'race' | 'fit' | 'evaluate';

/** What a run is doing. */
export interface TrainEvent {
  readonly stage: TrainStage;
  /** Of the whole run, 0..1, never falling; an estimate. */
  readonly fraction: number;
  readonly elapsedMs: number;
  /** Whatever there is to show at this point: method, fold, loss, accuracy … */
  readonly metrics: Readonly<Record<string, number | string>>;
}

/** Where each stage begins and ends within a run's fraction. */
const spans: Readonly<Record<TrainStage, readonly [number, number]>> = {
  read: [0, 0.01],
  features: [0.01, 0.1],
  race: [0.1, 0.7],
  fit: [0.7, 0.93],
  evaluate: [0.93, 1],
};

/** Events closer than this to the last one of their stage are not worth showing. */
const quietMs = 50;

/** Keeps every event for whoever iterates, from the first one, at any time. */
export class EventLog {
  private readonly events: TrainEvent[] = [];
  private readonly started = performance.now();
  private ended = false;
  private failure: { error: unknown } | undefined;
  private wake: PromiseWithResolvers<void> = withResolvers();
  private fraction = 0;

  emit(stage: TrainStage, within: number, metrics: TrainEvent['metrics'] = {}): void {
    const elapsedMs = performance.now() - this.started;
    const last = this.events.at(-1);
    const urgent = within >= 1 || 'warning' in metrics;
    if (last !== undefined && last.stage === stage && !urgent && elapsedMs - last.elapsedMs < quietMs) {
      return;
    }
    const [begin, end] = spans[stage];
    this.fraction = Math.max(this.fraction, begin + (end - begin) * Math.min(1, Math.max(0, within)));
    this.events.push({ stage, fraction: this.fraction, elapsedMs, metrics });
    this.notify();
  }

  close(failure?: { error: unknown }): void {
    this.ended = true;
    this.failure = failure;
    this.notify();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    for (let next = 0; ; ) {
      while (next < this.events.length) {
        yield this.events[next++]!;
      }
      if (this.ended) {
        if (this.failure !== undefined) {
          throw this.failure.error;
        }
        return;
      }
      await this.wake.promise;
    }
  }

  private notify(): void {
    this.wake.resolve();
    this.wake = withResolvers();
  }
}

interface PromiseWithResolvers<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
}

/** Promise.withResolvers, which Node 20 does not have. */
function withResolvers(): PromiseWithResolvers<void> {
  let resolve: () => void = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
