import { duration, oneLine, printable } from '../text.js';

export interface ProgressState {
  readonly stage: string;
  /** Of the whole run, 0..1. */
  readonly fraction: number;
  readonly elapsedMs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
}

/**
 * Shows a run's progress on stderr: one line that redraws itself with a bar and the time left on a terminal; elsewhere
 * one plain line a stage and method, and one for every look at validation data.
 */
export class Progress {
  private readonly stream: NodeJS.WriteStream;
  private stage = '';
  private drawnAt = 0;

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.stream = stream;
  }

  show(state: ProgressState): void {
    const { warning, note } = state.metrics;
    if (warning !== undefined || note !== undefined) {
      this.done();
      this.stream.write(`${printable(warning === undefined ? String(note) : `warning: ${warning}`)}\n`);
      return;
    }
    const detail = Object.entries(state.metrics)
      .map(([name, value]) => `${name} ${typeof value === 'number' ? shortNumber(value) : value}`)
      .join(', ');
    if (!this.stream.isTTY) {
      const step = `${state.stage} ${state.metrics.method ?? ''}`;
      if (step !== this.stage || state.metrics.validation !== undefined) {
        this.stream.write(`${state.stage}${detail === '' ? '' : `: ${detail}`} (${duration(state.elapsedMs)})\n`);
      }
      this.stage = step;
      return;
    }
    const now = performance.now();
    if (state.stage === this.stage && now - this.drawnAt < 100) {
      return;
    }
    this.stage = state.stage;
    this.drawnAt = now;
    const filled = Math.round(state.fraction * 20);
    const line = `${state.stage.padEnd(8)} ${'█'.repeat(filled)}${'░'.repeat(20 - filled)} ${timeLeft(state)} ${detail}`;
    this.stream.write(`\r${oneLine(line, (this.stream.columns ?? 80) - 1)}\u001b[K`);
  }

  done(): void {
    if (this.stream.isTTY && this.stage !== '') {
      this.stream.write('\r\u001b[K');
    }
  }
}

function timeLeft({ fraction, elapsedMs }: ProgressState): string {
  if (fraction < 0.02 || elapsedMs < 1000) {
    return '';
  }
  return `about ${duration((elapsedMs * (1 - fraction)) / fraction)} left`;
}

function shortNumber(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}
