/** What a guard remembers from step to step. */
export interface GuardState {
  readonly halvings: number;
  /** Of the first step, and a running mean of all good ones. */
  readonly first: number;
  readonly usual: number;
  /** The step whose weights are gone back to. */
  readonly goodStep: number;
}

/** A loss so many times what is usual is an explosion, the first loss counted in. */
const exploded = 10;

/** Tells a diverging run by its losses, and counts how often its rate was halved for it. */
export class RateGuard {
  private now: GuardState;

  constructor(
    private readonly most: number,
    from: GuardState = { halvings: 0, first: 0, usual: 0, goodStep: -1 },
  ) {
    this.now = from;
  }

  get halvings(): number {
    return this.now.halvings;
  }

  get goodStep(): number {
    return this.now.goodStep;
  }

  state(): GuardState {
    return this.now;
  }

  /**
   * @param harmless a loss up to here is no explosion: where tasks are easy, losses are near 0 and one may be far above
   *   all others
   * @returns what is wrong with a step; undefined when nothing is
   */
  judge(loss: number, skipped = false, harmless = 0): string | undefined {
    if (!Number.isFinite(loss)) return `the loss became ${loss}`;
    if (skipped) return 'its gradient is not finite';
    const { first, usual, goodStep } = this.now;
    const fresh = goodStep < 0;
    if (!fresh && loss > Math.max(harmless, exploded * (first + usual))) {
      return `the loss rose to ${loss.toPrecision(3)} from about ${usual.toPrecision(3)}`;
    }
    this.now = fresh
      ? { ...this.now, first: loss, usual: loss, goodStep: 0 }
      : { ...this.now, usual: 0.9 * usual + 0.1 * loss };
    return undefined;
  }

  /** The weights before a step were found good, and are kept. */
  keptAt(step: number): void {
    this.now = { ...this.now, goodStep: step };
  }

  /** @returns false when the rate is not to blame, as no step was good yet, or was halved often enough */
  lower(): boolean {
    if (this.now.goodStep < 0 || this.now.halvings >= this.most) return false;
    this.now = { ...this.now, halvings: this.now.halvings + 1 };
    return true;
  }
}
