import { compile, hostTensor } from '@fewtune/engine';
import { type Encoder, loadEncoder } from '@fewtune/models';
import { type Contender, timeEach } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { pythonRival } from '../../lib/peers.js';
import type { Row } from '../../lib/report.js';
import { generator } from '../../lib/statistics.js';
import { classes, classifierStep, type Kind, paddedBatch, rank, withRows } from './classifier.js';
import type { Part, PartContext } from './part.js';
import { type StepShape, stepProducts } from './transformer-products.js';

type Size = Pick<StepShape, 'batch' | 'tokens'>;

const about = {
  lora: { what: `MiniLM LoRA r=${rank} step, 16 × 64`, products: '<= 1.15x peer', eager: '<= 0.9x peer' },
  full: { what: 'MiniLM full step, 16 × 64', products: '<= 1.4x peer', eager: '<= 1x peer' },
} as const;

/** Distinct tokens of a few hundred short sentences: rows of the word table that `full` trains. */
const wordRows = 1024;

/**
 * One training step of MiniLM on 16 × 64 tokens without padding (mean pooling, a 77-class head, cross entropy, clipping,
 * AdamW) against its own matrix products and PyTorch, eager and compiled.
 */
export const minilm: Part = {
  name: 'minilm',
  async run(context) {
    const encoder = await loadEncoder();
    return [...(await stepOf('lora', encoder, context)), ...(await stepOf('full', encoder, context))];
  },
};

async function stepOf(kind: Kind, encoder: Encoder, { quick, python, torch }: PartContext): Promise<Row[]> {
  const size = { batch: 16, tokens: 64 };
  const { what, products, eager } = about[kind];
  const peer = (name: string, variant: string, target: string | null) =>
    pythonRival(python, 'torch_minilm.py', {
      name: `${torch} ${name}`,
      kind: variant,
      target,
      args: { ...size, rank },
    });
  return contest({
    what,
    ours: await ourStep(kind, encoder, size),
    products: { contender: await transformerProducts(kind, encoder, size), target: products },
    rivals: [
      peer('eager', kind, eager),
      ...(quick ? [] : [peer('torch.compile', `${kind}-compile`, null)]), // compiling takes a minute or two
    ],
    rounds: quick ? 2 : 6,
    runs: quick ? 2 : 5,
    note: kind === 'full' ? `${wordRows} rows of the word table are trained, PyTorch's whole table` : undefined,
  });
}

async function ourStep(kind: Kind, whole: Encoder, { batch, tokens }: Size): Promise<Contender> {
  // As the method `full` does, which trains the rows of the word table that its sentences use.
  const step = await classifierStep(
    kind,
    kind === 'full' ? withRows(whole, [...Array(wordRows).keys()]) : whole,
    paddedBatch(batch, tokens),
  );
  const random = generator(1);
  const draw = (shape: number[], below: number, least = 0) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const drawn = Array.from({ length: count }, () => least + Math.floor(random() * (below - least)));
    return hostTensor('int64', shape, drawn);
  };
  const given = {
    inputIds: draw([batch, tokens], wordRows),
    attentionMask: draw([batch, tokens], 2, 1),
    labels: draw([batch], classes),
  };
  return { name: 'Fewtune', time: (count) => timeEach(count, () => step.run(given)), close: () => step.dispose() };
}

/** The matrix products of a step of an encoder, as a contender. */
export async function transformerProducts(
  kind: Kind,
  { config, hidden, layers }: Pick<Encoder, 'config' | 'hidden' | 'layers'>,
  size: Size,
): Promise<Contender & { readonly operations: number }> {
  const products = stepProducts(kind, {
    ...size,
    hidden,
    layers,
    rank,
    heads: Number(config.num_attention_heads),
    intermediate: Number(config.intermediate_size),
  });
  const program = await compile((inputs) => products.program(inputs), products.specs, {
    name: `${kind}-products`,
    threads,
  });
  const values = products.values();
  return {
    name: `${products.count} products, ${(products.operations / 1e9).toFixed(1)} GFLOP`,
    operations: products.operations,
    time: (count) => timeEach(count, () => program.run(values)),
    close: () => program.dispose(),
  };
}
