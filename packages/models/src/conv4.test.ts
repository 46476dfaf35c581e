import {
  batchNorm,
  compile,
  conv,
  crossEntropy,
  type HostTensor,
  hostTensor,
  maxPool,
  mean,
  mul,
  relu,
  type Tensor,
  valueAndGrad,
} from '@fewtune/engine';
import { expect, test } from 'vitest';
import { type Conv4Options, conv4 } from './conv4.js';

const image = (rows: number, size: number, phase = 0) =>
  hostTensor(
    'float32',
    [rows, 1, size, size],
    Array.from({ length: rows * size * size }, (_, i) => Math.sin(i * 0.37 + phase)),
  );

async function logitsOf(options: Conv4Options, x: HostTensor, reference?: HostTensor): Promise<HostTensor> {
  const { weights, forward } = conv4(options);
  await using program = await compile(
    ({ weights, x, ...rest }: Inputs) => ({ y: forward(weights, x, rest.reference) }),
    { weights, x, ...(reference && { reference }) } as never,
  );
  const { y } = await program.run({ weights, x, ...(reference && { reference }) } as never);
  return y as HostTensor;
}
type Inputs = { weights: Record<string, Tensor>; x: Tensor; reference?: Tensor };

test.each([
  ['max-pool', 28, 1],
  ['stride-2', 28, 2],
  ['max-pool', 84, 5],
] as const)('%s on %i × %i: %i × the places are left', (variant, size, side) => {
  const { featureSize, weights } = conv4({ variant, size, ways: 5 });
  expect(featureSize).toBe(64 * side * side);
  expect(weights['head.weight']!.shape).toEqual([5, featureSize]);
  const backbone = Object.entries(weights).filter(([name]) => !name.startsWith('head'));
  expect(backbone.reduce((sum, [, { data }]) => sum + data.length, 0)).toBe(64 * 9 + 3 * 64 * 64 * 9 + 4 * 3 * 64);
});

test.each(['max-pool', 'stride-2'] as const)(
  '%s: logits of images, and a gradient for every weight',
  async (variant) => {
    const { weights, forward } = conv4({ variant, size: 16, filters: 4, ways: 3 });
    const [x, y] = [image(6, 16), hostTensor('int64', [6], [0, 1, 2, 0, 1, 2])];
    await using program = await compile(
      ({ weights, x, y }) => {
        const loss = (own: Record<string, Tensor>) => crossEntropy(forward(own, x), y);
        return valueAndGrad(loss)(weights as Record<string, Tensor>);
      },
      { weights: weights as Record<string, HostTensor>, x, y },
    );
    const { gradient } = (await program.run({ weights, x, y })) as unknown as { gradient: Record<string, HostTensor> };
    for (const [name, { data }] of Object.entries(gradient)) {
      // A convolution's bias is taken off again by the normalisation.
      expect(
        [...(data as Float32Array)].some((value) => value !== 0),
        name,
      ).toBe(!/^conv\d\.bias/.test(name));
    }
  },
);

test('with a reference, a query’s logits do not depend on the other queries; without, they do', async () => {
  const options = { size: 16, filters: 4, ways: 3 };
  const [support, three] = [image(5, 16, 1), image(3, 16)];
  const one = hostTensor('float32', [1, 1, 16, 16], (three.data as Float32Array).slice(0, 256));
  const firstOf = ({ data }: HostTensor) =>
    [...(data as Float32Array).slice(0, 3)].map((value) => expect.closeTo(value, 4));
  const alone = await logitsOf(options, one, support);
  expect([...(alone.data as Float32Array)]).toEqual(firstOf(await logitsOf(options, three, support)));
  const [apart, together] = [await logitsOf(options, one), await logitsOf(options, three)];
  expect([...(apart.data as Float32Array)]).not.toEqual(firstOf(together));
  // Normalised by themselves, references are what they are without.
  expect([...(await logitsOf(options, support, support)).data]).toEqual(
    [...(await logitsOf(options, support)).data].map((value) => expect.closeTo(Number(value), 4)),
  );
});

test.each([
  ['max-pool', false],
  ['stride-2', false],
  ['max-pool', true],
] as const)(
  '%s, reference %s: the first block is a convolution, then a batch normalisation',
  async (variant, referred) => {
    const filters = 40; // many enough for both to be one convolution
    const { weights, features } = conv4({ variant, size: 16, filters, seed: 2 });
    const [x, other] = [image(6, 16), image(4, 16, 2)];
    const sum = (z: Tensor) => mean(mul(z, z));
    const plainly = (w: Record<string, Tensor>, images: Tensor, reference: Tensor) => {
      let [z, of] = [images, referred ? reference : images];
      for (let block = 0; block < 4; block++) {
        const stride = variant === 'stride-2' ? 2 : 1;
        const layer = (y: Tensor) => conv(y, w[`conv${block}.weight`]!, w[`conv${block}.bias`], { padding: 1, stride });
        const [scale, bias] = [w[`norm${block}.weight`]!, w[`norm${block}.bias`]!];
        const pool = (y: Tensor) => (variant === 'stride-2' ? relu(y) : maxPool(relu(y), { kernel: 2 }));
        const { y, statistics } = batchNorm(layer(of), scale, bias);
        [z, of] = [pool(batchNorm(layer(z), scale, bias, { statistics }).y), pool(y)];
      }
      return z;
    };
    await using program = await compile(
      ({ weights, x, other }) => ({
        ours: valueAndGrad((w: Record<string, Tensor>) => sum(features(w, x, referred ? other : undefined)))(weights),
        plain: valueAndGrad((w: Record<string, Tensor>) => sum(plainly(w, x, other)))(weights),
      }),
      { weights: weights as Record<string, HostTensor>, x, other },
    );
    const { ours, plain } = (await program.run({ weights, x, other })) as unknown as Record<
      'ours' | 'plain',
      { value: HostTensor; gradient: Record<string, HostTensor> }
    >;
    expect(ours.value.data[0]).toBeCloseTo(plain.value.data[0] as number, 5);
    for (const [name, { data }] of Object.entries(plain.gradient)) {
      const largest = Math.max(...(data as Float32Array).map(Math.abs), 1e-3);
      const away = (data as Float32Array).map(
        (g, i) => Math.abs(g - (ours.gradient[name]!.data[i] as number)) / largest,
      );
      expect(Math.max(...away), name).toBeLessThan(2e-3);
    }
  },
);

test('a seed decides the weights, and images too small are refused', () => {
  expect(conv4({ seed: 1 }).weights).toEqual(conv4({ seed: 1 }).weights);
  expect(conv4({ seed: 1 }).weights).not.toEqual(conv4({ seed: 2 }).weights);
  expect(() => conv4({ size: 12 })).toThrow('16 or more');
  const { data } = conv4().weights['conv1.weight']!;
  const deviation = Math.sqrt((data as Float32Array).reduce((sum, value) => sum + value * value, 0) / data.length);
  expect(deviation).toBeCloseTo(Math.sqrt(2 / (64 * 9)), 3);
});
