/** A run in progress: iterate over it for events, await `result`; either alone is fine. */
export interface Run<Event, Result> extends AsyncIterable<Event> {
  readonly result: Promise<Result>;
}

/** Starts `work` and keeps every event it emits for whoever iterates, from the first one, at any time. */
export function startRun<Event, Result>(work: (emit: (event: Event) => void) => Promise<Result>): Run<Event, Result> {
  const events: Event[] = [];
  let ended = false;
  let wake: () => void = () => {};
  let next = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const notify = () => {
    wake();
    next = new Promise<void>((resolve) => {
      wake = resolve;
    });
  };
  const result = work((event) => {
    events.push(event);
    notify();
  }).finally(() => {
    ended = true;
    notify();
  });
  result.catch(() => {}); // whoever iterates gets the error there; without this Node would call it unhandled
  async function* iterate(): AsyncGenerator<Event> {
    for (let at = 0; ; ) {
      while (at < events.length) yield events[at++]!;
      if (ended) break;
      await next;
    }
    await result; // throws what the work threw
  }
  return { result, [Symbol.asyncIterator]: iterate };
}
