/** How near predicted values come to the true ones. */
export interface RegressionScores {
  /** 1 − squared error / squared distance from the mean; 0 is what the mean itself reaches. */
  readonly r2: number;
  /** Correlation of the values; 0 where one side does not vary. */
  readonly pearson: number;
  /** Correlation of the ranks, ties at their mean rank. */
  readonly spearman: number;
  readonly mse: number;
  readonly mae: number;
}

export function regressionScores(predicted: ArrayLike<number>, truth: ArrayLike<number>): RegressionScores {
  const n = truth.length;
  const mean = meanOf(truth);
  let [squares, distances, spread] = [0, 0, 0];
  for (let i = 0; i < n; i++) {
    squares += (predicted[i]! - truth[i]!) ** 2;
    distances += Math.abs(predicted[i]! - truth[i]!);
    spread += (truth[i]! - mean) ** 2;
  }
  return {
    r2: spread > 0 ? 1 - squares / spread : 0,
    pearson: correlation(predicted, truth),
    spearman: correlation(ranks(predicted), ranks(truth)),
    mse: n === 0 ? 0 : squares / n,
    mae: n === 0 ? 0 : distances / n,
  };
}

const meanOf = (values: ArrayLike<number>): number =>
  values.length === 0 ? 0 : Array.from(values).reduce((a, b) => a + b, 0) / values.length;

function correlation(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const [meanA, meanB] = [meanOf(a), meanOf(b)];
  let [both, ofA, ofB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i]! - meanA, b[i]! - meanB];
    both += x * y;
    ofA += x * x;
    ofB += y * y;
  }
  return ofA > 0 && ofB > 0 ? both / Math.sqrt(ofA * ofB) : 0;
}

/** Ranks from 1; equal values share the mean of theirs. */
function ranks(values: ArrayLike<number>): Float64Array {
  const order = Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const found = new Float64Array(values.length);
  for (let from = 0; from < order.length; ) {
    let to = from;
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++;
    for (let i = from; i < to; i++) found[order[i]!] = (from + 1 + to) / 2;
    from = to;
  }
  return found;
}
