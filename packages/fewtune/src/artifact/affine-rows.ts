/**
 * out[i, c] = Σ_j x[i, j] · w[c, j] + bias[c], row-major. Two rows by four classes at a time keep eight sums in
 * registers, which is what makes this some three times the plain loop.
 */
export function affineRows(
  x: Float32Array, // [rows, inner]
  weight: Float32Array, // [outer, inner]
  bias: Float32Array, // [outer]
  inner: number,
  out: Float32Array, // [rows, outer]
): void {
  const outer = bias.length;
  const rows = out.length / outer;
  const evenRows = rows & ~1;
  const fourOuter = outer & ~3;
  for (let i = 0; i < evenRows; i += 2) {
    const x0 = i * inner;
    const x1 = x0 + inner;
    for (let c = 0; c < fourOuter; c += 4) {
      const w0 = c * inner;
      const w1 = w0 + inner;
      const w2 = w1 + inner;
      const w3 = w2 + inner;
      let a0 = bias[c]!;
      let a1 = bias[c + 1]!;
      let a2 = bias[c + 2]!;
      let a3 = bias[c + 3]!;
      let b0 = a0;
      let b1 = a1;
      let b2 = a2;
      let b3 = a3;
      for (let j = 0; j < inner; j++) {
        const p = x[x0 + j]!;
        const q = x[x1 + j]!;
        const u0 = weight[w0 + j]!;
        const u1 = weight[w1 + j]!;
        const u2 = weight[w2 + j]!;
        const u3 = weight[w3 + j]!;
        a0 += p * u0;
        a1 += p * u1;
        a2 += p * u2;
        a3 += p * u3;
        b0 += q * u0;
        b1 += q * u1;
        b2 += q * u2;
        b3 += q * u3;
      }
      const o0 = i * outer + c;
      const o1 = o0 + outer;
      out[o0] = a0;
      out[o0 + 1] = a1;
      out[o0 + 2] = a2;
      out[o0 + 3] = a3;
      out[o1] = b0;
      out[o1 + 1] = b1;
      out[o1 + 2] = b2;
      out[o1 + 3] = b3;
    }
  }
  const single = (i: number, c: number) => {
    let sum = bias[c]!;
    for (let j = 0; j < inner; j++) sum += x[i * inner + j]! * weight[c * inner + j]!;
    out[i * outer + c] = sum;
  };
  for (let i = 0; i < evenRows; i++) {
    for (let c = fourOuter; c < outer; c++) single(i, c);
  }
  for (let i = evenRows; i < rows; i++) {
    for (let c = 0; c < outer; c++) single(i, c);
  }
}
