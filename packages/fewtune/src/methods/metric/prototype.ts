import { z } from 'zod';
import { rowsByClass, stratifiedFolds } from '../../data/split.js';
import { throwIfAborted } from '../../errors.js';
import { fitTemperature } from '../../evaluation/calibration.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headGraph } from '../head.js';
import { headLogits, type LinearHead, selectRows } from '../linear/logistic.js';
import type { Method } from '../method.js';
import { embedSupport, type Support, withNames } from '../support.js';
import { attended, spreadHead } from './attention-prototype.js';
import { classMeans } from './class-means.js';
import { choleskySolveRows, shrunkCholesky, withinClassCovariance } from './covariance.js';
import { prototypeRow } from './prototype-row.js';

const schema = z.strictObject({
  /**
   * `cosine`: plain cosine. `lda`: cosine in the space where classes spread equally in all directions; wrong labels spoil
   * the measure of that, unless `attention` leaves them out of it.
   */
  metric: z.enum(['cosine', 'lda']).default('lda'),
  /** Share of the identity in the covariance of `lda`; 1 is plain cosine. `auto` chooses by cross-validation. */
  shrinkage: z.union([z.number().min(0).max(1), z.literal('auto')]).default('auto'),
  /** The label's own words as one example more of its class; `auto` where they agree with the examples. */
  labelNames: z.union([z.boolean(), z.literal('auto')]).default('auto'),
  /** Whether an example that looks mislabelled loses weight (`margin`) or moves to the class it looks like (`reassign`). */
  attention: z.enum(['none', 'margin', 'reassign']).default('none'),
});

export type PrototypeOptions = z.infer<typeof schema>;

/** Shrinkages that cross-validation chooses from. */
const SHRINKAGES = [0.2, 0.5, 0.8, 1];
/** Rows from which one held-out fold decides instead of all of them. */
const MANY_ROWS = 2000;

/**
 * Nearest class mean by cosine under a metric M: score_c(x) = xᵀ M m_c / √(m_cᵀ M m_c). M is the identity, or the
 * inverse of the within-class covariance shrunk towards the identity (linear discriminant analysis). The length of x
 * is left out: it is the same for every class. Linear in x, so it is a head [classes, hidden] without bias.
 *
 * Prototypes: Snell et al. 2017, arXiv:1703.05175. Covariance shrinkage: Friedman 1989.
 */
export function prototypeHead(support: Support, shrinkage: number, covariance?: Float64Array): LinearHead {
  const { hidden, classes } = support;
  const shown = withNames(support, support.names);
  const means = classMeans({ hidden, classes, ...shown }, shrinkage === 1);
  const bias = new Float32Array(classes);
  if (shrinkage === 1) return { weight: means, bias };
  // The spread is that of the examples: names stand off their classes in their own way.
  const lower = shrunkCholesky(covariance ?? withinClassCovariance(support), hidden, shrinkage);
  const solved = choleskySolveRows(lower, means, hidden);
  const weight = new Float32Array(classes * hidden);
  for (let c = 0; c < classes; c++) {
    let squared = 0;
    for (let j = c * hidden; j < (c + 1) * hidden; j++) squared += means[j]! * solved[j]!;
    const scale = 1 / Math.sqrt(Math.max(squared, 1e-12));
    for (let j = c * hidden; j < (c + 1) * hidden; j++) weight[j] = solved[j]! * scale;
  }
  return { weight, bias };
}

/** A head for each shrinkage, on the same support. */
function headsOf(
  support: Support,
  shrinkages: readonly number[],
  attention: PrototypeOptions['attention'],
): LinearHead[] {
  if (attention !== 'none') {
    const looked = attended(support, { attention, centre: false });
    return shrinkages.map((shrinkage) => spreadHead(looked, shrinkage));
  }
  const covariance = shrinkages.some((s) => s < 1) ? withinClassCovariance(support) : undefined;
  return shrinkages.map((shrinkage) => prototypeHead(support, shrinkage, covariance));
}

interface Choice {
  readonly shrinkage: number;
  /** The temperature under which softmax of the scores is most likely right. */
  readonly temperature: number;
}

/** Shrinkage by held-out accuracy (on a draw, the less sharp), and the temperature that goes with it. */
async function choose(
  support: Support,
  shrinkages: readonly number[],
  attention: PrototypeOptions['attention'],
  seed: number,
  signal?: AbortSignal,
): Promise<Choice> {
  const { hidden, classes, features, labels, names } = support;
  const smallest = Math.min(...rowsByClass(labels).flatMap((rows) => (rows.length > 0 ? [rows.length] : [])));
  const foldCount = Math.min(5, smallest);
  if (foldCount < 2) return { shrinkage: shrinkages.at(-1)!, temperature: 0.05 };
  const folds = stratifiedFolds(labels, foldCount, seed);
  const rows = Int32Array.from(labels.keys());
  const found = shrinkages.map(() => ({ logits: [] as Float32Array[], labels: [] as number[] }));
  for (let fold = 0; fold < (labels.length > MANY_ROWS ? 1 : foldCount); fold++) {
    // Between folds the event loop turns, so that an interrupt is heard.
    await new Promise(setImmediate);
    throwIfAborted(signal);
    const part = (test: boolean) => {
      const chosen = rows.filter((row) => (folds[row] === fold) === test);
      return { features: selectRows(features, hidden, chosen), labels: chosen.map((row) => labels[row]!) };
    };
    const train: Support = { hidden, classes, names, ...part(false) };
    const test = part(true);
    headsOf(train, shrinkages, attention).forEach((head, s) => {
      found[s]!.logits.push(headLogits(head, test.features));
      found[s]!.labels.push(...test.labels);
    });
  }
  const scored = found.map((entry, s) => {
    const logits = joined(entry.logits);
    return {
      shrinkage: shrinkages[s]!,
      logits,
      labels: entry.labels,
      score: accuracy(argmaxRows(logits, classes), entry.labels),
    };
  });
  const best = scored.reduce((a, b) => (b.score >= a.score ? b : a));
  return { shrinkage: best.shrinkage, temperature: fitTemperature(best.logits, best.labels, classes) };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Nearest class mean on frozen features: nothing is trained, so it is the fastest method. */
export const prototype: Method<PrototypeOptions> = {
  name: 'prototype',
  schema,
  defaults: schema.parse({}),
  classRow: prototypeRow,
  async fit(data, { metric, shrinkage, labelNames, attention }, context) {
    const support = await embedSupport(data, labelNames, context);
    const candidates = metric === 'cosine' ? [1] : shrinkage === 'auto' ? SHRINKAGES : [shrinkage];
    const choice = await choose(support, candidates, attention, context.seed, context.signal);
    const { weight, bias } = headsOf(support, [choice.shrinkage], attention)[0]!;
    const head: LinearHead = { weight: weight.map((w) => w / choice.temperature), bias };
    context.onProgress?.(1, {});
    return {
      async logits(texts, signal) {
        const source = await context.features();
        return headLogits(head, await source.features(texts, { signal }));
      },
      graph: async () => headGraph(await context.encoder(), head),
      support,
      details: {
        metric: choice.shrinkage === 1 ? 'cosine' : 'lda',
        shrinkage: choice.shrinkage,
        labelNames: support.names !== undefined,
        ...(support.nameAgreement === undefined ? {} : { labelNameAgreement: support.nameAgreement }),
        temperature: choice.temperature,
        ...(attention === 'none' ? {} : { attention }),
      },
    };
  },
};
