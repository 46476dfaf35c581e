import type { HostTensor, Named } from '@fewtune/engine';
import type { Kept } from '../epochs.js';
import type { Validation } from './options.js';
import type { HeldOut } from './validator.js';

/** A look at held-out examples, and after how many steps. */
export interface Look extends HeldOut {
  readonly step: number;
  readonly epoch: number;
}

/** The step of a run, as its history has it. */
export interface TunedStep {
  readonly step: number;
  /** From 1. */
  readonly epoch: number;
  readonly loss: number;
  readonly lr: number;
  readonly gradientNorm?: number;
}

interface Notes {
  readonly steps: readonly TunedStep[];
  readonly looks: readonly Look[];
  readonly bestAt: number;
}

/** What a run has found so far: its losses, its looks at held-out examples, and the weights that did best there. */
export class BestWeights implements Kept {
  readonly steps: TunedStep[] = [];
  readonly looks: Look[] = [];
  private bestAt = -1;
  private weights: Named<HostTensor> = {};

  constructor(private readonly validation: Pick<Validation, 'keep' | 'patience'> = {}) {}

  /** @returns whether the run should end */
  add(look: Look, weights: Named<HostTensor>): boolean {
    const { keep = 'loss', patience = Number.POSITIVE_INFINITY } = this.validation;
    this.looks.push(look);
    const quality = ({ loss, score }: Look) => {
      const value = keep === 'score' ? score.value : -loss;
      return Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
    };
    const best = this.looks[this.bestAt];
    if (!best || quality(look) > quality(best)) {
      this.bestAt = this.looks.length - 1;
      if (keep !== 'last') this.weights = weights;
    }
    return this.looks.length - 1 - this.bestAt >= patience;
  }

  get best(): { readonly look: Look; readonly weights: Named<HostTensor> } | undefined {
    const look = this.looks[this.bestAt];
    return look && Object.keys(this.weights).length > 0 ? { look, weights: this.weights } : undefined;
  }

  tensors(): Named<HostTensor> {
    return this.weights;
  }

  notes(): Notes {
    return { steps: this.steps, looks: this.looks, bestAt: this.bestAt };
  }

  restore(tensors: Named<HostTensor>, notes: unknown): void {
    const { steps, looks, bestAt } = notes as Notes;
    this.steps.push(...steps);
    this.looks.push(...looks.map((look) => ({ ...look, loss: look.loss ?? Number.NaN }))); // JSON has null for NaN
    this.bestAt = bestAt;
    this.weights = tensors;
  }
}
