import {
  type BatchStatistics,
  batchNorm,
  type HostTensor,
  hostTensor,
  type Named,
  reshape,
  slice,
  type Tensor,
} from '@fewtune/engine';
import type { Normalise } from '@fewtune/models';
import type { AnyMetaModel } from './meta-model.js';

/*
 * MAML++ keeps batch normalisation for every inner step: scale and bias, meta-learned and not adapted, and running
 * statistics (Antoniou et al. 2019, section 4, BNWB and BNRS, arXiv:1810.09502). Weights after step i are judged with the
 * set of step i, as the authors' code does, github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch. Deviation from it: at
 * test it still normalises queries by their own statistics; here by the running ones, as the paper says, so that a
 * query's result does not depend on other queries. The support set has its own statistics in training and test.
 */

/** Per-step tensors stand among the meta-learned ones under this prefix, [steps, channels] each. */
const prefix = 'step/';
const parts = ['weight', 'bias', 'mean', 'variance'] as const;

export const isStepNorm = (name: string): boolean => name.startsWith(prefix);

/** Running statistics, which are averaged and not descended. */
export const isRunning = (name: string): boolean => isStepNorm(name) && /\.(mean|variance)$/.test(name);

/** The per-step tensors in place of the model's scales and biases; statistics start at 0 and 1. */
export function startStepNorms({ weights, normNames = [] }: AnyMetaModel, steps: number): Record<string, HostTensor> {
  const params: Record<string, HostTensor> = { ...weights };
  for (const norm of normNames) {
    const channels = weights[`${norm}.bias`]!.shape[0]!;
    for (const part of parts) {
      const own = weights[`${norm}.${part}`]?.data as Float32Array | undefined;
      const row = own ?? new Float32Array(channels).fill(part === 'variance' ? 1 : 0);
      const values = Float32Array.from({ length: steps * channels }, (_, i) => row[i % channels]!);
      params[`${prefix}${norm}.${part}`] = hostTensor('float32', [steps, channels], values);
    }
    delete params[`${norm}.weight`];
    delete params[`${norm}.bias`];
  }
  return params;
}

/** The tensors of one step under the model's own names, e.g. `norm0.mean`; the last step's beyond it. */
export function normsAt(params: Named<Tensor>, step: number): Record<string, Tensor> {
  return pick(params, (tensor) => {
    const [steps, channels] = tensor.shape as [number, number];
    const at = Math.min(step, steps - 1);
    return reshape(slice(tensor, 0, at, at + 1), [channels]);
  });
}

/** As {@link normsAt}, of host tensors. */
export function hostNormsAt(params: Named<HostTensor>, step: number): Record<string, HostTensor> {
  return pick(params, ({ shape, data }) => {
    const [steps, channels] = shape as [number, number];
    const at = Math.min(step, steps - 1) * channels;
    return hostTensor('float32', [channels], (data as Float32Array).slice(at, at + channels));
  });
}

function pick<T>(params: Named<T>, at: (tensor: T) => T): Record<string, T> {
  const own = Object.entries(params).filter(([name]) => isStepNorm(name));
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), at(tensor)]));
}

/** Normalises by the running statistics among some weights. */
export const byRunning =
  (weights: Named<Tensor>): Normalise =>
  (name, x, scale, bias) => {
    const statistics = { mean: weights[`${name}.mean`]!, variance: weights[`${name}.variance`]! };
    return batchNorm(x, scale, bias, { statistics }).y;
  };

/** Normalises by the batch's own statistics, and tells them. */
export const byBatch =
  (tell: (name: string, statistics: BatchStatistics) => void): Normalise =>
  (name, x, scale, bias) => {
    const { y, statistics } = batchNorm(x, scale, bias);
    tell(name, statistics);
    return y;
  };

/** The statistics that a task's passes met, by step. */
export class MetStatistics {
  private readonly found = new Map<string, Tensor[]>();

  /** For a pass with the weights of a step. */
  at(step: number): Normalise {
    return byBatch((norm, { mean, variance }) => {
      this.add(`${norm}.mean`, step, mean);
      this.add(`${norm}.variance`, step, variance);
    });
  }

  /** What was met in the place of a running statistic, row by row; a step that no pass had is undefined. */
  of(name: string, steps: number): (readonly Tensor[] | undefined)[] {
    return Array.from({ length: steps }, (_, step) => this.found.get(`${name.slice(prefix.length)} ${step}`));
  }

  private add(name: string, step: number, value: Tensor): void {
    const key = `${name} ${step}`;
    this.found.set(key, [...(this.found.get(key) ?? []), value]);
  }
}
