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

/** Makes events of what each stage reports. */
export class StageLog {
  private readonly started = performance.now();
  private last: TrainEvent | undefined;
  private fraction = 0;

  constructor(private readonly show: (event: TrainEvent) => void) {}

  emit(stage: TrainStage, within: number, metrics: TrainEvent['metrics'] = {}): void {
    const elapsedMs = performance.now() - this.started;
    const urgent = within >= 1 || 'warning' in metrics;
    if (this.last?.stage === stage && !urgent && elapsedMs - this.last.elapsedMs < quietMs) return;
    const [begin, end] = spans[stage];
    this.fraction = Math.max(this.fraction, begin + (end - begin) * Math.min(1, Math.max(0, within)));
    this.last = { stage, fraction: this.fraction, elapsedMs, metrics };
    this.show(this.last);
  }
}
