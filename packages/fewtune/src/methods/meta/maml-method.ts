import { z } from 'zod';
import { createRandom } from '../../data/random.js';
import type { RowLearner } from '../class-row.js';
import { recorded } from '../class-row.js';
import type { FitContext, Method } from '../method.js';
import { classMeans } from '../metric/class-means.js';
import { estimatePasses } from '../peft/fine-tune.js';
import { initLora } from '../peft/lora-layer.js';
import { linearsMeant } from '../peft/targets.js';
import { adaptText } from './adapt-text.js';
import { textMamlSettings } from './text-maml.js';
import type { TextMamlStart } from './text-maml-start.js';

const schema = z.strictObject({
  /** Steps of gradient descent on all examples; `auto`: as many as were meta-trained, 3 without a meta-trained start. */
  innerSteps: z.union([z.number().int().min(0).max(100), z.literal('auto')]).default('auto'),
  /** Their learning rate; `auto`: that of meta-training. Refused with a start that has learned its rates. */
  innerLr: z.union([z.number().positive(), z.literal('auto')]).default('auto'),
});

export type MamlMethodOptions = z.infer<typeof schema>;

/** The encoder as it is, with LoRA weights that change nothing yet. */
async function plainStart(context: FitContext): Promise<TextMamlStart> {
  const encoder = await context.encoder();
  const settings = textMamlSettings;
  const modules = linearsMeant(encoder.weights, settings.targets);
  const params = initLora(encoder.weights, modules, settings.rank, createRandom(context.seed));
  return { encoder, params, settings };
}

/** One more class is its prototype, with the scale of the others. */
const scaledPrototype: RowLearner = (task) => async (examples) => {
  const { hidden } = task;
  const labels = new Int32Array(examples.length / hidden);
  const mean = classMeans({ hidden, classes: 1, features: examples, labels });
  const scale = recorded(task, 'scale');
  return { weight: mean.map((value) => value * scale), bias: 0 };
};

/**
 * The inner loop of MAML over an encoder's LoRA weights: the head begins at the classes' prototypes, and a few steps of
 * gradient descent on the examples move head and encoder from a meta-trained start. Without such a start it is that
 * descent from the plain encoder, and `details` say so.
 */
export const maml: Method<MamlMethodOptions> = {
  name: 'maml',
  schema,
  defaults: schema.parse({}),
  async fit(data, { innerSteps, innerLr }, context) {
    const given = await context.mamlStart?.();
    const start = given ?? (await plainStart(context));
    const { signal, threads } = context;
    const fitted = await adaptText(start, data, {
      ...(innerSteps !== 'auto' && { innerSteps }),
      ...(innerLr !== 'auto' && { innerLr }),
      signal,
      threads,
      onProgress: (fraction, metrics) => context.onProgress?.(fraction, metrics),
    });
    return { ...fitted, details: { ...fitted.details, metaTrained: given !== undefined } };
  },
  classRow: scaledPrototype,
  async estimateSeconds(data, { innerSteps }, context) {
    const start = await context.mamlStart?.();
    const steps = innerSteps === 'auto' ? (start?.settings ?? textMamlSettings).innerSteps : innerSteps;
    // A step is a forward pass and one back to the activations; besides, prototypes, the loss and the features at the end.
    const passes = data.texts.length * (2 * steps + 3);
    return estimatePasses(start?.encoder ?? (await context.encoder()), data.texts, passes, context.threads);
  },
};
