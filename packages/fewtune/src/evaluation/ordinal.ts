/** How near predicted grades come to the true ones; grades are counted 0, 1, 2, … from the lowest. */
export interface OrdinalScores {
  readonly accuracy: number;
  /** Mean distance in grades. */
  readonly mae: number;
  /** Cohen's kappa with quadratic weights (Cohen 1968): 1 is agreement, 0 what chance gives. */
  readonly quadraticKappa: number;
}

export function ordinalScores(predicted: ArrayLike<number>, truth: ArrayLike<number>, classes: number): OrdinalScores {
  const rows = truth.length;
  let [right, distance] = [0, 0];
  for (let i = 0; i < rows; i++) {
    if (predicted[i] === truth[i]) right++;
    distance += Math.abs(predicted[i]! - truth[i]!);
  }
  return {
    accuracy: rows === 0 ? 0 : right / rows,
    mae: rows === 0 ? 0 : distance / rows,
    quadraticKappa: quadraticKappa(predicted, truth, classes),
  };
}

/** 1 − Σ w·observed / Σ w·expected with w = (i − j)²; 0 where nothing is expected to differ. */
function quadraticKappa(predicted: ArrayLike<number>, truth: ArrayLike<number>, classes: number): number {
  const [ofPredicted, ofTruth] = [new Float64Array(classes), new Float64Array(classes)];
  let observed = 0;
  for (let i = 0; i < truth.length; i++) {
    ofPredicted[predicted[i]!]!++;
    ofTruth[truth[i]!]!++;
    observed += (predicted[i]! - truth[i]!) ** 2;
  }
  let expected = 0;
  for (let i = 0; i < classes; i++) {
    for (let j = 0; j < classes; j++) expected += ((i - j) ** 2 * ofPredicted[i]! * ofTruth[j]!) / truth.length;
  }
  return expected > 0 ? 1 - observed / expected : 0;
}
