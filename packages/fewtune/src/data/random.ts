/** A seeded source of random numbers: the same seed gives the same numbers on every machine. */
export interface Random {
  /** Uniform in [0, 1), 32 bits. */
  next(): number;
  /** Uniform integer in [0, below). */
  int(below: number): number;
  /** Standard normal. */
  gaussian(): number;
  /** Shuffles in place (Fisher and Yates) and returns its argument. */
  shuffle<T extends { length: number; [index: number]: number } | unknown[]>(values: T): T;
}

/** splitmix32, used only to spread a seed over the generator's state. */
function spreadSeed(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z ^= z >>> 15;
    z = Math.imul(z, 0x735a2d97);
    return z ^ (z >>> 15);
  };
}

const rotateLeft = (x: number, k: number): number => (x << k) | (x >>> (32 - k));

/** xoshiro128**. Blackman and Vigna 2018, prng.di.unimi.it. */
export function createRandom(seed: number): Random {
  const word = spreadSeed(seed ^ Math.floor(seed / 2 ** 32));
  let [a, b, c, d] = [word(), word(), word(), word()];
  let spare: number | undefined;

  const next = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9);
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotateLeft(d, 11);
    return (result >>> 0) / 2 ** 32;
  };
  const int = (below: number): number => Math.floor(next() * below);
  const gaussian = (): number => {
    // Box and Muller; 1 - next() keeps the logarithm finite.
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - next()));
    const angle = 2 * Math.PI * next();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  return {
    next,
    int,
    gaussian,
    shuffle(values) {
      const array = values as unknown[];
      for (let i = array.length - 1; i > 0; i--) {
        const j = int(i + 1);
        const held = array[i];
        array[i] = array[j];
        array[j] = held;
      }
      return values;
    },
  };
}
