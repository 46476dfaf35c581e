import type { MamlVariant, MetricLearnerOptions } from 'fewtune';

/** Settings of a gradient-based arm; both sides read them. */
export interface MamlArm {
  readonly kind: 'maml';
  readonly name: string;
  readonly variant: MamlVariant;
  readonly innerLr: number;
  readonly innerSteps: number;
  /** Steps of adaptation in the test. */
  readonly testSteps: number;
  readonly metaLr: number;
  /** The name of what stands beside it; MAML++ has nobody there and stands beside their MAML. */
  readonly peer: string;
  /** Published 5-way 1-shot figure, on other splits of the whole set. */
  readonly published: string;
}

export interface MetricArm {
  readonly kind: 'metric';
  readonly name: string;
  readonly head: 'prototype' | 'matching' | 'relation';
  readonly lr: number;
  /** What is not a default of `MetricLearner`. */
  readonly learner?: Pick<MetricLearnerOptions, 'metric' | 'scale' | 'learnScale'>;
  readonly peer: string;
  readonly published: string;
}

export type Arm = MamlArm | MetricArm;

const maml = { kind: 'maml', innerLr: 0.4, innerSteps: 1, testSteps: 3, metaLr: 2e-3 } as const;
const metric = { kind: 'metric', lr: 2e-3 } as const;

/** Rates: Finn et al. 2017 for Omniglot 5-way 1-shot; where other methods have their own, these. */
export const arms: readonly Arm[] = [
  { ...maml, name: 'MAML', variant: 'maml', peer: 'learn2learn MAML', published: '98.7' },
  { ...maml, name: 'FOMAML', variant: 'fomaml', peer: 'learn2learn FOMAML', published: '98.3' },
  {
    ...maml,
    name: 'ANIL',
    variant: 'anil',
    innerLr: 0.1,
    innerSteps: 3,
    testSteps: 3,
    peer: 'learn2learn ANIL',
    published: 'none',
  },
  {
    ...maml,
    name: 'Meta-SGD',
    variant: 'meta-sgd',
    innerLr: 0.1,
    testSteps: 1,
    peer: 'learn2learn Meta-SGD',
    published: '99.5',
  },
  {
    ...maml,
    name: 'Reptile',
    variant: 'reptile',
    innerLr: 0.1,
    innerSteps: 5,
    testSteps: 10,
    metaLr: 0.5,
    peer: 'Reptile on learn2learn',
    published: '97.7',
  },
  {
    ...maml,
    name: 'MAML++',
    variant: 'maml++',
    innerLr: 0.1,
    innerSteps: 3,
    peer: 'learn2learn MAML',
    published: '99.5',
  },
  {
    ...metric,
    name: 'ProtoNet',
    head: 'prototype',
    learner: { scale: 1 / 256 }, // squares are averaged over the 256 numbers; their sum makes too sharp a softmax
    peer: 'easyfsl ProtoNet',
    published: '98.8',
  },
  { ...metric, name: 'Matching', head: 'matching', peer: 'easyfsl Matching', published: '98.1' },
  { ...metric, name: 'Relation', head: 'relation', lr: 1e-3, peer: 'easyfsl Relation', published: '99.6' },
];
