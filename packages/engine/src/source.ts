/**
 * Which line of user code made a value. The stack is captured while tracing (a few microseconds) and read only when
 * somebody asks: an error, a printed program, a profile.
 */

interface Captured {
  stack?: string;
}

const tracedDepth = 10;
const errorDepth = 60;

/** The folder of this package as stack frames name it; undefined in a bundle, where every file is one. */
const ownFolder = ((): string | undefined => {
  const here = /^(.*\/)(?:src|dist)\/source\.[jt]s/.exec(import.meta.url);
  return here?.[1];
})();

/** A line of user code, or what stands for one. */
export class Source {
  private found: string | undefined;

  private constructor(
    private captured: Captured | undefined,
    /** Not a line but a name. */
    readonly isName: boolean = false,
  ) {}

  /** Nothing is known. */
  static readonly none = new Source(undefined);

  /** The line that is running now, outside this package. */
  static here(): Source {
    return new Source(capture(tracedDepth));
  }

  /** Work that no line of user code asks for by itself, under a name. */
  static named(name: string): Source {
    const source = new Source(undefined, true);
    source.found = name;
    return source;
  }

  /** `model.ts:12:5`, relative to the working directory where it lies inside; undefined when nothing is known. */
  get text(): string | undefined {
    if (this.captured) {
      this.found = userFrame(this.captured.stack ?? '');
      this.captured = undefined;
    }
    return this.found;
  }
}

let origin: Source | undefined;
let originDerived = false;

/**
 * Runs `fn`; what it traces is on account of `source`, as a gradient is of the line whose gradient it is.
 *
 * @param derived whether it is made by a rule; a copy of what somebody called is not
 */
export function withSource<T>(source: Source | undefined, fn: () => T, derived = true): T {
  const outer = [origin, originDerived] as const;
  if (source) [origin, originDerived] = [source, derived || originDerived];
  try {
    return fn();
  } finally {
    [origin, originDerived] = outer;
  }
}

/** The source of a value that is traced now. */
export function currentSource(): Source {
  return origin ?? Source.here();
}

/** Whether what is traced now is on another line's account. */
export function isDerived(): boolean {
  return originDerived;
}

/** Where a mistake is, for the end of a message; empty when nothing is known. */
export function whereNow(): string {
  const line = userFrame(capture(errorDepth).stack ?? '');
  const of = origin?.text;
  if (of && of !== line) {
    const owner = origin!.isName ? of : `the line at ${of}`;
    return line ? `, at ${line} for ${owner}` : `, for ${owner}`;
  }
  return line ? `, at ${line}` : '';
}

function capture(depth: number): Captured {
  const holder: Captured = {};
  const { captureStackTrace, stackTraceLimit } = Error;
  if (captureStackTrace) {
    Error.stackTraceLimit = depth;
    captureStackTrace.call(Error, holder, capture);
    Error.stackTraceLimit = stackTraceLimit;
    return holder;
  }
  return new Error();
}

/** The innermost frame that is neither ours nor the runtime's. */
function userFrame(stack: string): string | undefined {
  if (ownFolder === undefined) return undefined;
  for (const line of stack.split('\n')) {
    const place = /(?:\(|@|at (?:async )?)?((?:file:\/\/|https?:\/\/|\/|[A-Za-z]:[\\/])[^()]*:\d+:\d+)\)?$/.exec(
      line,
    )?.[1];
    if (place === undefined) continue; // node:internal, <anonymous>, native
    const url = asUrl(place);
    const own = url.startsWith(`${ownFolder}src/`) || url.startsWith(`${ownFolder}dist/`);
    // The tests beside our files are users of them.
    if (own && !/\.test\.[jt]s(\?|:)/.test(url)) continue;
    return readable(url);
  }
  return undefined;
}

function asUrl(place: string): string {
  if (place.startsWith('/')) return `file://${place}`;
  return /^[A-Za-z]:/.test(place) ? `file:///${place.replaceAll('\\', '/')}` : place;
}

function readable(url: string): string {
  if (!url.startsWith('file://')) return url;
  const path = decodeURIComponent(url.slice('file://'.length));
  const base = typeof process === 'object' && typeof process.cwd === 'function' ? `${process.cwd()}/` : undefined;
  return base && path.startsWith(base) ? path.slice(base.length) : path;
}
