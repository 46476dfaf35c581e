import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../errors.js';
import { type Run, startRun } from '../run.js';
import type { EpochOptions, EpochResult, EpochsEnded } from './epochs.js';

/** What a learner has learned; one run at a time changes it. */
export class Learned {
  private training = false;

  /** @param now names and values at the start */
  constructor(private now: Named<HostTensor>) {}

  get params(): Named<HostTensor> {
    return this.now;
  }

  /**
   * @param train is given what was learned before, and what to call with each event
   * @returns a run that fails with what stopped it, and keeps what it had learned all the same
   */
  run<Event>(
    { onProgress }: Pick<EpochOptions<Event>, 'onProgress'>,
    train: (params: Named<HostTensor>, onStep: (event: Event) => void) => Promise<EpochsEnded>,
  ): Run<Event, EpochResult> {
    return startRun(async (emit) => {
      if (this.training) {
        throw new FewtuneError('OPTION_INVALID', 'this learner is being trained; await that run first.');
      }
      this.training = true;
      try {
        const ended = await train(this.now, (event) => {
          onProgress?.(event);
          emit(event);
        });
        this.now = ended.params;
        if (!ended.result) throw ended.error;
        return ended.result;
      } finally {
        this.training = false;
      }
    });
  }
}
