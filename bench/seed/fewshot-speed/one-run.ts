import type { Run } from 'fewtune';
import type { Contender } from '../../lib/contender.js';

type Start<Batch> = (batches: () => AsyncIterable<Batch>, onStep: () => void) => Pick<Run<unknown, unknown>, 'result'>;

/**
 * The steps of one meta-training run as a contender: a batch is handed to the run when a step is to be timed, so that
 * everything a user's step does counts, and compiling it only the first time.
 */
export function stepsOfOneRun<Batch>(
  name: string,
  batch: Batch,
  start: Start<Batch>,
  close: () => Promise<void>,
): Contender {
  let ask: (go: boolean) => void = () => {};
  let asked = new Promise<boolean>((resolve) => {
    ask = resolve;
  });
  let stepped: () => void = () => {};
  async function* batches() {
    while (await asked) {
      asked = new Promise<boolean>((resolve) => {
        ask = resolve;
      });
      yield batch;
    }
  }
  const run = start(batches, () => stepped());
  const ended = run.result.then(
    () => {},
    (error: unknown) => error,
  );
  const step = async () => {
    const done = new Promise<void>((resolve) => {
      stepped = resolve;
    });
    const began = performance.now();
    ask(true);
    const failure = await Promise.race([done, ended]);
    if (failure !== undefined) throw failure;
    return performance.now() - began;
  };
  return {
    name,
    async time(count) {
      const milliseconds: number[] = [];
      while (milliseconds.length < count) milliseconds.push(await step());
      return milliseconds;
    },
    async close() {
      ask(false);
      await ended;
      await close();
    },
  };
}
