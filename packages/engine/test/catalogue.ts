/**
 * The catalogue of operators: every public operator with shapes, a function, and the same in PyTorch. It knows no test
 * runner and no Node.js, so that a browser page runs the very same cases on another backend:
 *
 *     for (const c of catalogue) {
 *       const inputs = inputsOf(c, forwardSizes, forwardSeed);    // host tensors, the same on every machine
 *       compile((xs) => c.fn(xs, forwardSizes), inputs)           // the value: compare with another backend's
 *       compile(lossOf(c, forwardSizes, forwardSeed, 1), inputs)  // { value, gradient }; 2: of the gradient
 *     }
 *
 * Inputs of float64 become float32 where a backend has no float64: `as32(c)`.
 *
 * **Recording.** Each column of docs/engine/operators.md comes from one file `test/results/<column>.json`, an object
 * `{ "<nameOf(case)>": "<outcome>" }`: `yes`, or in a few words what else (`no: why`, `float32`, `falls back: Erf`).
 * At the end of a run call `record('<column>', outcomes)` of `record.ts` (a page sends its outcomes to the test that
 * opened it). With `RECORD=1` it writes the file; else it throws if an outcome differs from the committed one. The table
 * itself is written, or compared, by table.test.ts. Columns: forward, gradient, second-order, vmap, symbolic, cpu, webgpu.
 */
import type { OperatorCase } from './catalogue/case.js';
import { compositeCases } from './catalogue/composite.js';
import { elementwiseCases } from './catalogue/elementwise.js';
import { matMulCases } from './catalogue/matmul.js';
import { reduceCases } from './catalogue/reduce.js';
import { shapeCases } from './catalogue/shape.js';
import { visionCases } from './catalogue/vision.js';

export {
  gradientError,
  gradientTolerance,
  inputsOf,
  isFloatInput,
  lossOf,
  nameOf,
  type OperatorCase,
  type Sizes,
  shapeOf,
  uniform,
} from './catalogue/case.js';

export const catalogue: readonly OperatorCase[] = [
  ...elementwiseCases,
  ...shapeCases,
  ...reduceCases,
  ...matMulCases,
  ...visionCases,
  ...compositeCases,
];

/** The sizes and the seed at which fixtures/operator-references.json was computed. */
export const forwardSizes = { m: 3, n: 4, k: 2 } as const;
export const forwardSeed = 11;

/** The same case in float32, for backends without float64. */
export const as32 = (c: OperatorCase): OperatorCase => ({ ...c, dtype: 'float32' });
