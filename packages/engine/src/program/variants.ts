/**
 * Programs for sizes that cannot be symbolic. Most operators take a symbol as it is; where one needs a number (the
 * sizes of an image that is convolved), the program is traced anew for each number it meets, and kept for the next time.
 */
import type { Dim } from '../dims.js';
import { factorsOf, isSymbolic, product } from '../dims.js';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import type { TensorSpec } from '../tensor.js';

/** Numbers for symbols. */
export type Sizes = ReadonlyMap<string, number>;

interface Entry<T> {
  readonly sizes: string;
  readonly value: Promise<T>;
  /** The value, once it is there. */
  opened?: T;
  users: number;
}

/** How many combinations of sizes stay open. */
const kept = 8;

export class Variants<T> {
  /** Serves every size, if there is such a one. */
  private general: T | undefined;
  /** Symbols that must be numbers. */
  private needed = new Set<string>();
  private reason = '';
  private readonly entries = new Map<string, Entry<T>>();
  private readonly running = new Set<Promise<unknown>>();
  private closed = false;

  private constructor(
    private readonly name: string,
    private readonly symbols: readonly string[],
    private readonly make: (sizes: Sizes) => Promise<T>,
    private readonly end: (value: T) => Promise<void>,
  ) {}

  /**
   * Tries with symbols first.
   *
   * @param symbols those of the inputs
   * @param make    traces and opens, with numbers for some of the symbols
   * @throws what `make` throws, but SIZE_UNKNOWN only where no symbol is to blame
   */
  static async open<T>(
    name: string,
    symbols: readonly string[],
    make: (sizes: Sizes) => Promise<T>,
    end: (value: T) => Promise<void>,
  ): Promise<Variants<T>> {
    const variants = new Variants(name, symbols, make, end);
    try {
      variants.general = await make(new Map());
    } catch (error) {
      if (!variants.specialize(error)) throw error;
    }
    return variants;
  }

  /** Works with the variant for these sizes. @throws EngineError DISPOSED */
  async use<R>(sizes: Sizes, work: (value: T) => Promise<R>): Promise<R> {
    if (this.closed) throw new EngineError('DISPOSED', `the ${this.name} was disposed`);
    const done = this.general !== undefined ? work(this.general) : this.useSized(sizes, work);
    this.running.add(done);
    try {
      return await done;
    } finally {
      this.running.delete(done);
    }
  }

  private async useSized<R>(sizes: Sizes, work: (value: T) => Promise<R>): Promise<R> {
    for (;;) {
      const own = new Map([...this.needed].sort().map((symbol) => [symbol, sizes.get(symbol)!]));
      const key = [...own].map(([symbol, size]) => `${symbol} = ${size}`).join(', ');
      let entry = this.entries.get(key);
      if (!entry) entry = { sizes: key, value: this.make(own), users: 0 };
      // Last used goes last, so that the front is the oldest.
      this.entries.delete(key);
      this.entries.set(key, entry);
      entry.users++;
      try {
        const value = await entry.value.catch((error) => {
          this.entries.delete(key);
          throw error;
        });
        entry.opened = value;
        return await work(value);
      } catch (error) {
        if (!this.specialize(error)) throw error;
      } finally {
        entry.users--;
        await this.evict();
      }
    }
  }

  /** Takes note of sizes that must be known; false when there is nothing (more) to be had from it. */
  private specialize(error: unknown): boolean {
    if (!(error instanceof EngineError) || error.code !== 'SIZE_UNKNOWN') return false;
    const before = this.needed.size;
    const named = error.symbols.filter((symbol) => this.symbols.includes(symbol));
    const fresh = named.filter((symbol) => !this.needed.has(symbol));
    this.needed = new Set([...this.needed, ...(fresh.length > 0 ? fresh : this.symbols)]);
    this.reason = error.message;
    return this.needed.size > before;
  }

  private async evict(): Promise<void> {
    const idle = [...this.entries].filter(([, { users }]) => users === 0);
    for (const [key, entry] of idle.slice(0, Math.max(0, this.entries.size - kept))) {
      this.entries.delete(key);
      await this.end(await entry.value);
    }
  }

  /** Every variant by `show`, or why there are none yet. */
  describe(show: (value: T) => string): string {
    if (this.general !== undefined) return show(this.general);
    const symbols = [...this.needed].sort().join(', ');
    const head = `${this.name}: traced anew for every ${symbols}, and kept for the last ${kept} of them, because\n  ${this.reason}`;
    const open = [...this.entries.values()].filter(({ opened }) => opened !== undefined);
    const parts = open.map(({ sizes, opened }) => `with ${sizes}\n${show(opened!)}`);
    return [head, ...(parts.length > 0 ? parts : ['nothing has been run yet'])].join('\n\n');
  }

  /** Lets what runs come to its end, then closes. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await Promise.allSettled(this.running);
    const open = this.general === undefined ? [...this.entries.values()].map(({ opened }) => opened) : [this.general];
    this.entries.clear();
    this.general = undefined;
    for (const value of open) if (value !== undefined) await this.end(value);
  }
}

/** All symbols of some specs. */
export function symbolsOf(specs: Iterable<TensorSpec>): string[] {
  return [...new Set([...specs].flatMap(({ shape }) => shape.flatMap((dim) => factorsOf(dim).symbols)))];
}

/** The same spec with numbers for the symbols that have one. */
export function withSizes({ dtype, shape }: TensorSpec, sizes: Sizes): TensorSpec {
  const known = (dim: Dim) => {
    const { factor, symbols } = factorsOf(dim);
    return product([factor, ...symbols.map((symbol) => sizes.get(symbol) ?? symbol)]);
  };
  return { dtype, shape: sizes.size === 0 ? shape : shape.map(known) };
}

/** The numbers that inputs give to symbols; they have been checked. */
export function sizesOf(
  specs: ReadonlyMap<string, TensorSpec>,
  given: ReadonlyMap<string, Pick<HostTensor, 'shape'>>,
): Sizes {
  const sizes = new Map<string, number>();
  for (const [path, { shape }] of specs) {
    for (const [axis, dim] of shape.entries()) if (isSymbolic(dim)) sizes.set(dim, given.get(path)!.shape[axis]!);
  }
  return sizes;
}
