import { z } from 'zod';
import { rowsByClass, stratifiedFolds } from '../../data/split.js';
import { negativeLogLikelihood } from '../../evaluation/calibration.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headGraph } from '../head.js';
import type { Method } from '../method.js';
import { embedSupport, type Support, withNames } from '../support.js';
import { createLogisticSolver, headLogits, headOf, type LogisticSolver, selectRows } from './logistic.js';
import { logisticRow } from './logistic-row.js';

const schema = z.strictObject({
  /** Inverse strength of the L2 penalty, as scikit-learn's; `auto` chooses by cross-validation. */
  C: z.union([z.number().positive(), z.literal('auto')]).default('auto'),
  /** The label's own words as one example more of its class; `auto` where they agree with the examples. */
  labelNames: z.union([z.boolean(), z.literal('auto')]).default('auto'),
});

export type LinearOptions = z.infer<typeof schema>;

/** Values of C that cross-validation chooses from, ascending: each fit starts where the last ended. */
const GRID = [1, 3, 10, 30, 100];
/** Taken where a class has a single example, so that nothing can be held out. */
const FALLBACK_C = 10;
const SELECTION_FOLDS = 3;
/** Looser than the last fit's: which C is best shows long before the last digit. */
const SELECTION_TOLERANCE = 1e-3;
/** Rows from which one held-out fold decides instead of all of them. */
const MANY_ROWS = 2000;

interface Scored {
  readonly C: number;
  right: number;
  loss: number;
}

/** C by held-out accuracy; on a draw the one whose held-out labels are likelier. */
async function chooseC(
  support: Support,
  solver: LogisticSolver,
  seed: number,
  options: { signal?: AbortSignal; onProgress?: (fraction: number) => void },
): Promise<number> {
  const { hidden, classes, features, labels, names } = support;
  const smallest = Math.min(...rowsByClass(labels).flatMap((rows) => (rows.length > 0 ? [rows.length] : [])));
  const foldCount = Math.min(SELECTION_FOLDS, smallest);
  if (foldCount < 2) return FALLBACK_C;
  const folds = stratifiedFolds(labels, foldCount, seed);
  const rows = Int32Array.from(labels.keys());
  const scored: Scored[] = GRID.map((C) => ({ C, right: 0, loss: 0 }));
  const folded = labels.length > MANY_ROWS ? 1 : foldCount;
  for (let fold = 0; fold < folded; fold++) {
    const part = (test: boolean) => {
      const chosen = rows.filter((row) => (folds[row] === fold) === test);
      return { features: selectRows(features, hidden, chosen), labels: chosen.map((row) => labels[row]!) };
    };
    const train = withNames(part(false), names);
    const test = part(true);
    let start: Float64Array | undefined;
    for (const [g, score] of scored.entries()) {
      const { C } = score;
      const fit = await solver.fit(train, { C, start, tolerance: SELECTION_TOLERANCE, signal: options.signal });
      start = fit.parameters;
      const logits = headLogits(headOf(fit.parameters, classes), test.features);
      score.right += Math.round(accuracy(argmaxRows(logits, classes), test.labels) * test.labels.length);
      score.loss += negativeLogLikelihood(logits, test.labels, classes) * test.labels.length;
      options.onProgress?.((fold * GRID.length + g + 1) / (folded * GRID.length));
    }
  }
  return scored.reduce((a, b) => (b.right > a.right || (b.right === a.right && b.loss < a.loss) ? b : a)).C;
}

/** Multinomial logistic regression on frozen, L2-normalised sentence features. */
export const linear: Method<LinearOptions> = {
  name: 'linear',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  async fit(data, options, context) {
    const { signal, threads } = context;
    const support = await embedSupport(data, options.labelNames, context);
    const { hidden, classes } = support;
    const solver = await createLogisticSolver(hidden, classes, { threads });
    try {
      const C =
        options.C === 'auto'
          ? await chooseC(support, solver, context.seed, {
              signal,
              onProgress: (fraction) => context.onProgress?.(0.5 + 0.4 * fraction, {}),
            })
          : options.C;
      const fit = await solver.fit(withNames(support, support.names), { C, signal });
      const head = headOf(fit.parameters, classes);
      context.onProgress?.(1, { loss: fit.loss });
      return {
        async logits(texts, logitsSignal) {
          const source = await context.features();
          return headLogits(head, await source.features(texts, { signal: logitsSignal }));
        },
        graph: async () => headGraph(await context.encoder(), head),
        support,
        details: {
          C,
          labelNames: support.names !== undefined,
          ...(support.nameAgreement === undefined ? {} : { labelNameAgreement: support.nameAgreement }),
          iterations: fit.iterations,
          converged: fit.converged,
        },
      };
    } finally {
      await solver.dispose();
    }
  },
};
