import { compile, hostTensor, linear, logSoftmax, mul, neg, sum, valueAndGrad } from '@fewtune/engine';
import { headLogits, type LinearHead } from '../../artifact/linear-head.js';
import { lbfgs } from '../optimise/lbfgs.js';

export { headLogits, type LinearHead };

/** Rows to learn from. */
export interface FeatureRows {
  /** [rows, hidden], row-major. */
  readonly features: Float32Array;
  readonly labels: Int32Array;
  /** Weight of each row; all 1 when absent. */
  readonly weights?: Float32Array;
}

export interface LogisticOptions {
  /** Inverse strength of the penalty, as scikit-learn's `C`. */
  C: number;
  /** Where to begin, e.g. the solution for a neighbouring C: weights [classes, hidden], then biases. */
  start?: Float64Array;
  /** Largest gradient entry of the mean loss at which to stop; scikit-learn's `tol`, with its default of 1e-4. */
  tolerance?: number;
  maxIterations?: number;
  signal?: AbortSignal;
}

export interface LogisticFit {
  /** Weights [classes, hidden], then biases [classes]. */
  readonly parameters: Float64Array;
  /** Penalised loss divided by Σ s_i. */
  readonly loss: number;
  readonly iterations: number;
  readonly converged: boolean;
}

/** Logistic regression of one size, compiled once: rows, C and weights may differ from fit to fit. */
export interface LogisticSolver {
  fit(rows: FeatureRows, options: LogisticOptions): Promise<LogisticFit>;
  dispose(): Promise<void>;
}

/**
 * Multinomial logistic regression by L-BFGS: minimises Σ_i s_i · crossEntropy_i + ‖W‖² / (2C), biases unpenalised, as
 * scikit-learn's `LogisticRegression(C)`. Everything is divided by Σ s_i, so that the tolerance means the same for any
 * number of rows.
 */
export async function createLogisticSolver(
  hidden: number,
  classes: number,
  options: { threads?: number } = {},
): Promise<LogisticSolver> {
  const size = classes * hidden;
  const program = await compile(
    ({ features, targets, weight, bias }) =>
      valueAndGrad((head: { weight: typeof weight; bias: typeof bias }) =>
        neg(sum(mul(targets, logSoftmax(linear(features, head.weight, head.bias))))),
      )({ weight, bias }),
    {
      features: { dtype: 'float32', shape: ['rows', hidden] },
      targets: { dtype: 'float32', shape: ['rows', classes] }, // s_i in the column of the row's label, else 0
      weight: { dtype: 'float32', shape: [classes, hidden] },
      bias: { dtype: 'float32', shape: [classes] },
    } as const,
    { ...options, name: 'logistic regression' },
  );

  async function fit({ features, labels, weights }: FeatureRows, fitOptions: LogisticOptions): Promise<LogisticFit> {
    const { C, start, tolerance = 1e-4, maxIterations = 200, signal } = fitOptions;
    const targets = new Float32Array(labels.length * classes);
    let mass = 0;
    labels.forEach((label, i) => {
      const weight = weights?.[i] ?? 1;
      targets[i * classes + label] = weight;
      mass += weight;
    });
    const rows = {
      features: hostTensor('float32', [labels.length, hidden], features),
      targets: hostTensor('float32', [labels.length, classes], targets),
    };
    const result = await lbfgs(
      async (x, gradient) => {
        const parameters = new Float32Array(x);
        const found = await program.run({
          ...rows,
          weight: hostTensor('float32', [classes, hidden], parameters.subarray(0, size)),
          bias: hostTensor('float32', [classes], parameters.subarray(size)),
        });
        const dWeight = found.gradient.weight.data as Float32Array;
        const dBias = found.gradient.bias.data as Float32Array;
        let squares = 0;
        for (let k = 0; k < size; k++) {
          squares += x[k]! * x[k]!;
          gradient[k] = (dWeight[k]! + x[k]! / C) / mass;
        }
        for (let c = 0; c < classes; c++) gradient[size + c] = dBias[c]! / mass;
        return ((found.value.data[0] as number) + squares / (2 * C)) / mass;
      },
      start ?? new Float64Array(size + classes),
      { gradientTolerance: tolerance, maxIterations, signal },
    );
    return { parameters: result.x, loss: result.value, iterations: result.iterations, converged: result.converged };
  }

  return { fit, dispose: () => program.dispose() };
}

/** The head that a fit's parameters describe. */
export function headOf(parameters: Float64Array, classes: number): LinearHead {
  const size = parameters.length - classes;
  return { weight: new Float32Array(parameters.subarray(0, size)), bias: new Float32Array(parameters.subarray(size)) };
}

/** Some of the rows, copied. */
export function selectRows(features: Float32Array, hidden: number, rows: Int32Array): Float32Array {
  const out = new Float32Array(rows.length * hidden);
  rows.forEach((row, i) => {
    out.set(features.subarray(row * hidden, (row + 1) * hidden), i * hidden);
  });
  return out;
}
