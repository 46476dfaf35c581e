import { writeFileSync } from 'node:fs';
import type { Encoder } from '@fewtune/models';
import { adaptationOf, classification, type FitContext, methods, tune } from 'fewtune';
import { timed } from '../../lib/bench.js';
import { MemoryFeatures } from '../../lib/features.js';
import { threads } from '../../lib/machine.js';
import type { PeerServer } from '../../lib/peers.js';
import type { Indexed } from './sets.js';

/** Settings that both sides share. The rate falls to 0 after a rise over a tenth of the steps. */
export const shared = { headLr: 1e-3, rank: 8, alpha: 16, maxLength: 256, grouped: true } as const;

export interface ArmTask {
  readonly classes: readonly string[];
  readonly train: Indexed;
  readonly test: Indexed;
  readonly batchSize: number;
  readonly epochs: number;
  readonly seed: number;
}

export interface ArmResult {
  readonly accuracy: number;
  /** Of training alone: not of loading, not of answering the test rows. */
  readonly seconds: number;
  /** Trained numbers in the encoder, the head not among them. */
  readonly trainable: number;
}

/** Supervised fine-tuning with a linear head trained along. */
export async function tuneArm(
  method: 'lora' | 'full',
  lr: number,
  task: ArmTask,
  encoder: Encoder,
): Promise<ArmResult> {
  const { classes, train, test, batchSize, epochs, seed } = task;
  const { rank, alpha, headLr } = shared;
  const adapt = method === 'lora' ? adaptationOf('lora', { rank, alpha }) : adaptationOf('full');
  const { result: tuned, seconds } = await timed(() =>
    tune(
      encoder,
      { texts: train.texts },
      classification(train.labels, classes),
      adapt,
      { epochs, batchSize, lr, headLr },
      { seed, threads },
    ),
  );
  try {
    const logits = await tuned.logits(test.texts);
    return { accuracy: share(logits, test.labels, classes.length), seconds, trainable: tuned.report.trainableBody };
  } finally {
    await tuned.dispose();
  }
}

/** The same in Python, with transformers and peft. */
export async function peerArm(
  method: 'lora' | 'full',
  lr: number,
  { classes, train, test, batchSize, epochs, seed }: ArmTask,
  server: PeerServer,
  file: string,
): Promise<ArmResult> {
  const plain = ({ texts, labels }: Indexed) => ({ texts, labels: [...labels] });
  writeFileSync(file, JSON.stringify({ classes, train: plain(train), test: plain(test) }));
  return server.ask<ArmResult>(JSON.stringify({ ...shared, file, method, lr, batchSize, epochs, seed }));
}

/** A method of `train` as it is: the floors, and the few-shot recipe. */
export async function methodArm(
  name: 'tfidf' | 'linear' | 'lora',
  { classes, train, test, seed }: ArmTask,
  encoder: Encoder,
): Promise<ArmResult> {
  const features = await MemoryFeatures.create(encoder);
  const context: FitContext = { encoder: async () => encoder, features: async () => features, seed, threads };
  const method = methods[name];
  const { result: fitted, seconds } = await timed(() =>
    method.fit({ ...train, classes }, method.defaults as never, context),
  );
  try {
    const logits = await fitted.logits(test.texts);
    return {
      accuracy: share(logits, test.labels, classes.length),
      seconds,
      trainable: Number(fitted.details.trainableParameters ?? 0),
    };
  } finally {
    await fitted.dispose?.();
    await features.dispose();
  }
}

function share(logits: Float32Array, labels: Int32Array, classes: number): number {
  const right = labels.filter((label, row) => {
    const scores = logits.subarray(row * classes, (row + 1) * classes);
    return scores.indexOf(Math.max(...scores)) === label;
  });
  return right.length / labels.length;
}
