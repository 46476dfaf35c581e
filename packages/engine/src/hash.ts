/**
 * A fast hash for keys of caches, not for trust: MurmurHash3_x86_128 (Appleby 2011, public domain), whose 128 bits make a
 * chance collision between programs as good as impossible. Node's crypto is not in browsers, theirs is asynchronous.
 */
export function hash128(bytes: Uint8Array): string {
  const constants = [0x239b961b, 0xab0e9789, 0x38b34ae5, 0xa1e38b93] as const;
  const offsets = [0x561ccd1b, 0x0bcaa747, 0x96cd1c35, 0x32ac3b17] as const;
  const turnsK = [15, 16, 17, 18] as const;
  const turnsH = [19, 17, 15, 13] as const;
  // The tail is padded with zeros, and the length goes into the end: texts that differ in trailing zeros differ.
  const padded = new Uint8Array(Math.ceil(bytes.length / 16) * 16);
  padded.set(bytes);
  const words = new Uint32Array(padded.buffer);
  const h = new Uint32Array(4);
  for (let at = 0; at < words.length; at += 4) {
    for (let lane = 0; lane < 4; lane++) {
      let k = Math.imul(words[at + lane]!, constants[lane]!);
      k = Math.imul(rotate(k, turnsK[lane]!), constants[(lane + 1) % 4]!);
      h[lane] = Math.imul(rotate(h[lane]! ^ k, turnsH[lane]!) + h[(lane + 1) % 4]!, 5) + offsets[lane]!;
    }
  }
  for (let lane = 0; lane < 4; lane++) h[lane]! ^= bytes.length;
  mixLanes(h);
  for (let lane = 0; lane < 4; lane++) h[lane] = finish(h[lane]!);
  mixLanes(h);
  return Array.from(h, (word) => word.toString(16).padStart(8, '0')).join('');
}

const rotate = (x: number, by: number) => (x << by) | (x >>> (32 - by));

function mixLanes(h: Uint32Array): void {
  h[0]! += h[1]! + h[2]! + h[3]!;
  for (let lane = 1; lane < 4; lane++) h[lane]! += h[0]!;
}

function finish(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}
