import { type HostTensor, hostTensor } from '@fewtune/engine';

export interface LayerSize {
  readonly inner: number;
  readonly outer: number;
}

/** A [r, in] and B [out, r] of one layer, and the factor of their product. */
export interface Factors {
  readonly a: HostTensor;
  readonly b: HostTensor;
  readonly scale: number;
}

/** A symbol of a traced size stands for 2 or more, so there are two slots and two ranks at least. */
const least = 2;

/**
 * The matrices of many adapters, layer by layer in one block each: A [slots, rank, in] and scaled Bᵀ [slots, rank, out].
 * Slot 0 is zero. A smaller rank than the largest is filled with zeros. When slots or ranks run out, blocks are made anew
 * and the old ones stay whole for whoever still reads them.
 */
export class AdapterStack {
  #capacity = least;
  #rank = least;
  #blocks: { down: Float32Array; up: Float32Array }[];

  constructor(private readonly layers: readonly LayerSize[]) {
    this.#blocks = this.#empty(least, least);
  }

  get bytes(): number {
    return this.#blocks.reduce((sum, { down, up }) => sum + down.byteLength + up.byteLength, 0);
  }

  /** Inputs `down<layer>` and `up<layer>` of a program; views, not copies. */
  inputs(): Record<string, HostTensor> {
    const tensors: Record<string, HostTensor> = {};
    for (const [i, { inner, outer }] of this.layers.entries()) {
      const { down, up } = this.#blocks[i]!;
      tensors[`down${i}`] = hostTensor('float32', [this.#capacity, this.#rank, inner], down);
      tensors[`up${i}`] = hostTensor('float32', [this.#capacity, this.#rank, outer], up);
    }
    return tensors;
  }

  /** @param parts one a layer; undefined leaves the layer as it is */
  fill(slot: number, parts: readonly (Factors | undefined)[]): void {
    const rank = Math.max(...parts.map((part) => part?.a.shape[0] ?? 0));
    this.#grow(slot + 1, rank);
    for (const [i, { inner, outer }] of this.layers.entries()) {
      const { down, up } = this.#blocks[i]!;
      const [downAt, upAt] = [slot * this.#rank * inner, slot * this.#rank * outer];
      down.fill(0, downAt, downAt + this.#rank * inner);
      up.fill(0, upAt, upAt + this.#rank * outer);
      const part = parts[i];
      if (!part) continue;
      const own = part.a.shape[0]!;
      down.set(part.a.data as Float32Array, downAt);
      const b = part.b.data as Float32Array;
      for (let o = 0; o < outer; o++) {
        for (let r = 0; r < own; r++) up[upAt + r * outer + o] = part.scale * b[o * own + r]!;
      }
    }
  }

  #grow(slots: number, rank: number): void {
    if (slots <= this.#capacity && rank <= this.#rank) return;
    const [oldCapacity, oldRank, old] = [this.#capacity, this.#rank, this.#blocks];
    // A quarter more than is needed: room to grow, little waste.
    if (slots > this.#capacity) this.#capacity = Math.max(slots, Math.ceil(this.#capacity * 1.25));
    this.#rank = Math.max(rank, this.#rank);
    this.#blocks = this.#empty(this.#capacity, this.#rank);
    for (const [i, { inner, outer }] of this.layers.entries()) {
      for (let slot = 0; slot < oldCapacity; slot++) {
        const copy = (from: Float32Array, to: Float32Array, width: number) =>
          to.set(from.subarray(slot * oldRank * width, (slot + 1) * oldRank * width), slot * this.#rank * width);
        copy(old[i]!.down, this.#blocks[i]!.down, inner);
        copy(old[i]!.up, this.#blocks[i]!.up, outer);
      }
    }
  }

  #empty(slots: number, rank: number): { down: Float32Array; up: Float32Array }[] {
    return this.layers.map(({ inner, outer }) => ({
      down: new Float32Array(slots * rank * inner),
      up: new Float32Array(slots * rank * outer),
    }));
  }
}
