import { availableParallelism } from 'node:os';
import {
  adamW,
  add,
  compile,
  constantRate,
  crossEntropy,
  type HostTensor,
  hostTensor,
  linear,
  mul,
  type Tensor,
  trainStep,
} from '@fewtune/engine';
import { type Encoder, encode, type LinearFn, loadEncoder, plainLinear, pool } from '@fewtune/models';
import { type Benchmark, say } from '../lib/bench.js';
import { noPeers, PeerServer, peersPython } from '../lib/peers.js';
import { type Row, row } from '../lib/report.js';
import { generator, median, normals } from '../lib/statistics.js';
import { type StepShape, stepProducts } from './step/products.js';

const classes = 77;
const rank = 8;
type Kind = 'lora' | 'full';
const about: Record<Kind, { what: string; target: string }> = {
  lora: { what: `LoRA r=${rank} step`, target: '<= 1.25x peer' },
  full: { what: 'full fine-tuning step', target: '<= 1.6x peer' },
};

/** Something whose single run is timed. */
interface Contender {
  readonly name: string;
  /** Milliseconds of `count` runs. */
  time(count: number): Promise<number[]>;
  close(): Promise<void>;
}

/**
 * One training step of MiniLM on 16 × 64 tokens without padding (mean pooling, a 77-class head, cross entropy, clipping,
 * AdamW) against its own matrix products, and against PyTorch. Rounds alternate, so that a slow minute hits everyone.
 */
export const step: Benchmark = {
  name: 'step',
  about: 'one LoRA and one full training step against their matrix products alone, and against PyTorch',
  async run({ quick, peers }) {
    const encoder = await loadEncoder();
    const shape = { batch: 16, tokens: 64 };
    const [rounds, runs] = quick ? [2, 2] : [8, 5];
    const python = peers && !quick ? peersPython() : undefined;
    const rows: Row[] = [];
    for (const kind of ['lora', 'full'] as const) {
      const contenders = [await ourStep(kind, encoder, shape), await matrixProducts(kind, encoder, shape)];
      if (python) contenders.push(await torchStep(kind, python, shape));
      for (const contender of contenders) await contender.time(2); // warm-up
      const times = new Map<Contender, number[]>(contenders.map((contender) => [contender, []]));
      for (let round = 0; round < rounds; round++) {
        for (const contender of contenders) times.get(contender)!.push(...(await contender.time(runs)));
        say(`${kind}, round ${round + 1} of ${rounds}: ${contenders.map((c) => show(c, times.get(c)!)).join(', ')}`);
      }
      for (const contender of contenders) await contender.close();
      rows.push(...rowsOf(kind, contenders, times, rounds * runs));
    }
    return { rows, seeds: [1] };
  },
};

const show = ({ name }: Contender, times: readonly number[]) => `${name} ${Math.min(...times).toFixed(0)} ms`;

function rowsOf(
  kind: Kind,
  [ours, products, torch]: Contender[],
  times: Map<Contender, number[]>,
  runs: number,
): Row[] {
  const { what, target } = about[kind];
  const figures = [
    ['median', median],
    ['lowest', (values: readonly number[]) => Math.min(...values)],
  ] as const;
  const against = (peer: Contender | undefined, peerName: string, bound: string, note: string) =>
    figures.map(([figure, of]) =>
      row({
        what: `${what}, ${figure}`,
        ours: of(times.get(ours!)!),
        unit: 'ms',
        peer: peer ? of(times.get(peer)!) : null,
        peerName,
        target: bound,
        note,
      }),
    );
  return [
    ...against(
      products,
      'its matrix products',
      target,
      `${products!.name}; ${runs} runs each, alternating${kind === 'full' ? `; ${wordRows} rows of the word table, as \`full\` trains them` : ''}`,
    ),
    ...against(
      torch,
      torch?.name ?? 'PyTorch eager',
      '<= 1x peer',
      torch
        ? `${runs} runs each, alternating${kind === 'full' ? '; PyTorch updates the whole word table' : ''}`
        : noPeers,
    ),
  ];
}

async function timeEach(count: number, work: () => Promise<unknown>): Promise<number[]> {
  const milliseconds: number[] = [];
  for (let run = 0; run < count; run++) {
    const began = performance.now();
    await work();
    milliseconds.push(performance.now() - began);
  }
  return milliseconds;
}

type Named<T> = Readonly<Record<string, T>>;
type Size = Pick<StepShape, 'batch' | 'tokens'>;

async function ourStep(kind: Kind, encoder: Encoder, { batch, tokens }: Size): Promise<Contender> {
  const head: Named<HostTensor> = {
    'classifier.weight': hostTensor('float32', [classes, encoder.hidden], normals(classes * encoder.hidden, 1, 0.02)),
    'classifier.bias': hostTensor('float32', [classes], new Float32Array(classes)),
  };
  const lora = kind === 'lora';
  const ids = { dtype: 'int64', shape: [batch, tokens] } as const;
  const compiled = await trainStep({
    params: { ...head, ...(lora ? adapters(encoder) : trainedByFull(encoder)) },
    frozen: lora ? encoder.weights : {},
    batch: { inputIds: ids, attentionMask: ids, labels: { dtype: 'int64', shape: [batch] } },
    loss: (params, { frozen, batch }) => {
      const hidden = encode(encoder.config, lora ? frozen : params, batch, {
        linear: lora ? withAdapters(params) : plainLinear,
      });
      const pooled = pool(hidden, batch.attentionMask, 'mean');
      return crossEntropy(linear(pooled, params['classifier.weight']!, params['classifier.bias']!), batch.labels);
    },
    optimizer: adamW(),
    schedule: constantRate(2e-5),
    clipNorm: 1,
  });
  const random = generator(1);
  const fill = (count: number, value: () => number) => BigInt64Array.from({ length: count }, () => BigInt(value()));
  const given = {
    inputIds: hostTensor(
      'int64',
      [batch, tokens],
      fill(batch * tokens, () => Math.floor(random() * wordRows)),
    ),
    attentionMask: hostTensor(
      'int64',
      [batch, tokens],
      fill(batch * tokens, () => 1),
    ),
    labels: hostTensor(
      'int64',
      [batch],
      fill(batch, () => Math.floor(random() * classes)),
    ),
  };
  return {
    name: 'Fewtune',
    time: (count) => timeEach(count, () => compiled.run(given)),
    close: () => compiled.dispose(),
  };
}

/** Distinct tokens of a few hundred short sentences. */
const wordRows = 1024;

/** What the method `full` trains: no pooler, and of the word table only the rows that the training texts use. */
function trainedByFull({ weights, hidden }: Encoder): Named<HostTensor> {
  const words = 'embeddings.word_embeddings.weight';
  const rows = (weights[words]!.data as Float32Array).subarray(0, wordRows * hidden);
  const trained = Object.entries(weights).filter(([name]) => !name.startsWith('pooler.'));
  return { ...Object.fromEntries(trained), [words]: hostTensor('float32', [wordRows, hidden], rows) };
}

const adapted = (name: string) => /attention\.self\.(query|value)$/.test(name);

function adapters({ weights }: Encoder): Named<HostTensor> {
  const names = Object.keys(weights).flatMap((name) => (name.endsWith('.weight') ? [name.slice(0, -7)] : []));
  const pairs = names.filter(adapted).flatMap((name, seed): [string, HostTensor][] => {
    const [out, of] = weights[`${name}.weight`]!.shape as [number, number];
    return [
      [`${name}.lora_A`, hostTensor('float32', [rank, of], normals(rank * of, seed, 0.02))],
      [`${name}.lora_B`, hostTensor('float32', [out, rank], normals(out * rank, seed + 100, 0.02))],
    ];
  });
  return Object.fromEntries(pairs);
}

/** y = x Wᵀ + b + (alpha / r) x Aᵀ Bᵀ with alpha = 2 r. Hu et al. 2021, arXiv:2106.09685. */
function withAdapters(params: Named<Tensor>): LinearFn {
  return (x, name, weight, bias) => {
    const base = plainLinear(x, name, weight, bias);
    if (!adapted(name)) return base;
    const down = linear(x, params[`${name}.lora_A`]!);
    return add(base, linear(down, mul(params[`${name}.lora_B`]!, 2))); // the scale goes to B, which is small
  };
}

async function matrixProducts(kind: Kind, encoder: Encoder, size: Size): Promise<Contender> {
  const { config, hidden, layers } = encoder;
  const products = stepProducts(kind, {
    ...size,
    hidden,
    layers,
    rank,
    heads: Number(config.num_attention_heads),
    intermediate: Number(config.intermediate_size),
  });
  const program = await compile((inputs) => products.program(inputs), products.specs, { name: `${kind}-products` });
  const values = products.values();
  return {
    name: `${products.count} products, ${(products.operations / 1e9).toFixed(1)} GFLOP`,
    time: (count) => timeEach(count, () => program.run(values)),
    close: () => program.dispose(),
  };
}

/** PyTorch in a process of its own, idle while the others run. */
async function torchStep(kind: Kind, python: string, { batch, tokens }: Size): Promise<Contender> {
  const args = { batch, tokens, rank, threads: availableParallelism() };
  const server = new PeerServer(
    python,
    'torch_step.py',
    Object.entries(args).flatMap(([name, value]) => [`--${name}`, String(value)]),
  );
  const { torch } = await server.ask<{ torch: string }>('version 0');
  return {
    name: `PyTorch ${torch} eager`,
    time: async (count) => (await server.ask<{ ms: number[] }>(`${kind} ${count}`)).ms,
    close: async () => server.close(),
  };
}
