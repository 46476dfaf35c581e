import { reshape, type Tensor } from '@fewtune/engine';
import { type Encoder, encodeWith, pool } from '@fewtune/models';
import type { TaskGraph } from '../artifact/task-pack.js';
import { readsTypes } from '../methods/tune/examples.js';
import type { Tuned } from '../methods/tune/tuned.js';

/** A tuned encoder with its head as one graph over padded batches. */
export function taskGraph({ task, head }: Pick<Tuned, 'task' | 'head'>, encoder: Encoder, pairs: boolean): TaskGraph {
  const { config, pooling, weights, tokenizer, hidden } = encoder;
  return {
    kind: task.kind,
    outputs: task.outputs,
    tokenizer: { files: tokenizer.files },
    config,
    weights: { ...weights, ...head },
    typed: pairs && readsTypes(encoder),
    forward(weights, inputs): Tensor {
      const states = encodeWith(encoder, weights, inputs); // [batch, seq, hidden]
      if (task.reads === 'sentence') return task.logits(pool(states, inputs.attentionMask, pooling), weights);
      const [batch, seq] = states.shape;
      return reshape(task.logits(reshape(states, [-1, hidden]), weights), [batch!, seq!, task.outputs.length]);
    },
  };
}
