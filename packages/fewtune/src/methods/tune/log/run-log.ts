import { closeSync, existsSync, mkdirSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { FewtuneError } from '../../../errors.js';
import { boardEvent, boardVersion, tfRecord } from './tensorboard.js';

/** What is written of a step. */
export interface LoggedStep {
  readonly step: number;
  /** From 1. */
  readonly epoch: number;
  readonly loss: number;
  readonly lr: number;
  readonly gradientNorm?: number;
  readonly warning?: string;
  readonly look?: { readonly loss: number; readonly score: { readonly name: string; readonly value: number } };
}

/**
 * A folder with `metrics.jsonl`, one line a step, and a TensorBoard event file. Each step is written through before the
 * next begins, so that a killed process leaves all of its steps but perhaps half of the last line.
 */
export class RunLog {
  private files: { readonly lines: number; readonly board: number } | undefined;

  /** @param resumed whether the run goes on from another, whose later lines are dropped */
  constructor(
    private readonly folder: string,
    private readonly resumed: boolean,
  ) {}

  /** @throws FewtuneError OUTPUT_UNWRITABLE */
  add(found: LoggedStep): void {
    const { step, epoch, loss, lr, gradientNorm, warning, look } = found;
    const seconds = Date.now() / 1000;
    this.attempt(() => {
      this.files ??= this.open(step, seconds);
      const heldOut = look && { heldOut: { loss: look.loss, [look.score.name]: look.score.value } };
      const line = { step, epoch, loss, lr, ...(gradientNorm !== undefined && { gradientNorm }), ...heldOut };
      const text = JSON.stringify({ ...line, ...(warning !== undefined && { warning }), seconds });
      writeSync(this.files.lines, `${text}\n`);
      const scalars = {
        'train/loss': loss,
        'train/lr': lr,
        'train/epoch': epoch,
        ...(gradientNorm !== undefined && { 'train/gradient_norm': gradientNorm }),
        ...(look && { 'held_out/loss': look.loss, [`held_out/${look.score.name}`]: look.score.value }),
      };
      writeSync(this.files.board, tfRecord(boardEvent({ seconds, step, scalars })));
    });
  }

  close(): void {
    if (!this.files) return;
    closeSync(this.files.lines);
    closeSync(this.files.board);
    this.files = undefined;
  }

  private open(step: number, seconds: number) {
    mkdirSync(this.folder, { recursive: true });
    const path = join(this.folder, 'metrics.jsonl');
    if (existsSync(path)) truncateSync(path, keptBytes(readFileSync(path), this.resumed ? step : undefined));
    const name = `events.out.tfevents.${Math.floor(seconds)}.${hostname()}.${process.pid}.${step}`;
    const board = openSync(join(this.folder, name), 'a');
    writeSync(board, tfRecord(boardEvent({ seconds, fileVersion: boardVersion })));
    if (this.resumed) writeSync(board, tfRecord(boardEvent({ seconds, step, restart: true })));
    return { lines: openSync(path, 'a'), board };
  }

  private attempt(write: () => void): void {
    try {
      write();
    } catch (cause) {
      throw new FewtuneError('OUTPUT_UNWRITABLE', `the log cannot be written to ${this.folder}.`, { cause });
    }
  }
}

/**
 * How much of a log's lines stay: not half a line at the end, which a killed process left, nor the last lines of steps that
 * are taken again.
 */
function keptBytes(bytes: Buffer, from: number | undefined): number {
  let end = bytes.lastIndexOf(10) + 1;
  while (from !== undefined && end > 0) {
    const start = bytes.lastIndexOf(10, end - 2) + 1;
    const step = stepOf(bytes.toString('utf8', start, end));
    if (step === undefined || step < from) break;
    end = start;
  }
  return end;
}

function stepOf(line: string): number | undefined {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return typeof step === 'number' ? step : undefined;
  } catch {
    return undefined;
  }
}
