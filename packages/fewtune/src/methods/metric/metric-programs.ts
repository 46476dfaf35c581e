import {
  compile,
  constant,
  exp,
  gather,
  type HostTensor,
  type Named,
  type Program,
  softmax,
  type Tensor,
  type TensorSpec,
} from '@fewtune/engine';
import { LazyPrograms } from '../lazy-programs.js';
import { mapValues } from '../named.js';
import type { EmbeddingModel } from './embedding-model.js';
import { type MetricLossOptions, queryScores } from './metric-loss.js';
import { freedFrom } from './metric-step.js';
import { episodeSpecs } from './metric-task.js';

/** What a program is run on; traced, the same with tensors. */
interface Given<T = HostTensor> {
  readonly params: Named<T>;
  readonly x: Named<T>;
  readonly reference?: Named<T>;
  readonly episode?: Named<T>;
}

type Opened = Program<Given, Named<HostTensor>>;

/** The programs that embed and classify, compiled on first use, each once for any number of rows. */
export class MetricPrograms {
  private readonly programs = new LazyPrograms<Opened>();

  constructor(
    private readonly model: EmbeddingModel,
    private readonly options: MetricLossOptions,
    private readonly threads?: number,
  ) {}

  /** [rows, dim] */
  async embed(params: Named<HostTensor>, x: Named<HostTensor>, reference?: Named<HostTensor>): Promise<HostTensor> {
    const given = { params, x, ...(reference && { reference }) };
    const { z } = await this.run(`embed${reference ? ' by reference' : ''}`, given, ({ params, x, reference }) => ({
      z: this.model.embed({ ...this.frozen(), ...params }, x, reference),
    }));
    return z!;
  }

  /** Probabilities, or relation scores, [queries, ways]. */
  async classify(
    params: Named<HostTensor>,
    x: Named<HostTensor>,
    episode: Named<HostTensor>,
    transductive: boolean,
  ): Promise<HostTensor> {
    const given = { params, x, episode };
    const { scores } = await this.run(`classify ${transductive}`, given, ({ params, x, episode }) => {
      const weights = { ...this.frozen(), ...params };
      const { supportRows, queryRows, members } = episode as Record<string, Tensor>;
      const shown = transductive || !this.byRow ? undefined : mapValues(x, (rows) => gather(rows, supportRows!));
      const z = this.model.embed(weights, x, shown);
      const set = { z: gather(z, supportRows!), members: members! };
      const scores = queryScores(this.options, weights, set, gather(z, queryRows!));
      return { scores: probabilitiesOf(this.options.head, scores) };
    });
    return scores!;
  }

  dispose(): Promise<void> {
    return this.programs.dispose();
  }

  /** Inputs of one row each (images) can be taken apart; packed tokens cannot, and have no batch statistics. */
  private get byRow(): boolean {
    return Object.values(this.model.inputs).every(({ shape }) => shape[0] === 'rows');
  }

  private frozen(): Named<Tensor> {
    return mapValues(this.model.frozen ?? {}, constant);
  }

  private async run(name: string, given: Given, trace: (inputs: Given<Tensor>) => Named<Tensor>) {
    const program = await this.programs.get(name, () => this.compile(name, given, trace));
    return program.run(given);
  }

  private async compile(name: string, { params, reference, episode }: Given, trace: (inputs: Given<Tensor>) => object) {
    const { inputs } = this.model;
    const specs = {
      params: mapValues(params, ({ dtype, shape }): TensorSpec => ({ dtype, shape })),
      x: inputs,
      ...(reference && { reference: freedFrom(inputs, 'reference') }),
      ...(episode && { episode: episodeSpecs }),
    };
    const program = await compile((traced) => trace(traced as unknown as Given<Tensor>) as Named<Tensor>, specs, {
      name,
      threads: this.threads,
    });
    return program as unknown as Opened; // the specs' type lists no names, the caller's does
  }
}

function probabilitiesOf(head: MetricLossOptions['head'], scores: Tensor): Tensor {
  if (head === 'prototype') return softmax(scores);
  return head === 'matching' ? exp(scores) : scores;
}
