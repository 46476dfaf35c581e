import { fileURLToPath } from 'node:url';
import { compile, crossEntropy, type HostTensor, hostTensor, type Tensor, valueAndGrad } from '@fewtune/engine';
import { beforeAll, describe, expect, test } from 'vitest';
import { resnet12 } from './resnet12.js';
import { readSafetensors } from './safetensors.js';

const small = { channels: 2, size: 20, filters: [3, 4, 5, 6], ways: 3 } as const;
type Weights = Record<string, Tensor>;

function closeTo(actual: HostTensor, expected: HostTensor, within: number, what: string): void {
  const [a, b] = [actual.data as Float32Array, expected.data as Float32Array];
  expect(a.length, what).toBe(b.length);
  const worst = a.reduce((at, value, i) => (Math.abs(value - b[i]!) > Math.abs(a[at]! - b[at]!) ? i : at), 0);
  expect(Math.abs(a[worst]! - b[worst]!), `${what}[${worst}]: ${a[worst]} for ${b[worst]}`).toBeLessThan(within);
}

describe('against PyTorch', () => {
  let fixture: Record<string, HostTensor>;
  let weights: Record<string, HostTensor>;
  beforeAll(async () => {
    const path = fileURLToPath(new URL('../test/fixtures/resnet12-reference.safetensors', import.meta.url));
    ({ tensors: fixture } = await readSafetensors(path));
    const own = Object.entries(fixture).filter(([name]) => name.startsWith('weight.'));
    weights = Object.fromEntries(own.map(([name, value]) => [name.slice('weight.'.length), value]));
  });

  test('names and shapes of the weights', () => {
    const shapes = (tensors: Readonly<Record<string, HostTensor>>) =>
      Object.entries(tensors)
        .map(([name, { shape }]) => [name, shape])
        .sort();
    expect(shapes(resnet12(small).weights)).toEqual(shapes(weights));
  });

  test('features, logits, loss and every gradient', async () => {
    const { features, forward } = resnet12(small);
    const flat = resnet12({ ...small, averagePool: false });
    const { images, labels } = fixture as { images: HostTensor; labels: HostTensor };
    await using program = await compile(
      ({ weights, images, labels }) => {
        const loss = (own: Weights) => crossEntropy(forward(own, images), labels);
        const { value, gradient } = valueAndGrad(loss)(weights as Weights);
        const logits = forward(weights as Weights, images);
        const places = flat.features(weights as Weights, images);
        return { features: features(weights as Weights, images), places, logits, loss: value, gradient };
      },
      { weights, images, labels },
    );
    const found = (await program.run({ weights, images, labels })) as unknown as Record<string, HostTensor> & {
      gradient: Record<string, HostTensor>;
    };
    // Twelve float32 layers, each normalised over as few as four places.
    closeTo(found.features!, fixture.features!, 2e-4, 'features');
    closeTo(found.places!, fixture.flat!, 2e-4, 'flat');
    closeTo(found.logits!, fixture.logits!, 2e-4, 'logits');
    closeTo(found.loss!, fixture.loss!, 1e-4, 'loss');
    for (const [name, gradient] of Object.entries(found.gradient))
      closeTo(gradient, fixture[`grad.${name}`]!, 1e-3, name);
  });
});

test('the directional derivative is what finite differences find', async () => {
  const { weights, forward } = resnet12({ channels: 1, size: 16, filters: [2, 2, 3, 3], ways: 3, seed: 4 });
  const images = hostTensor(
    'float32',
    [6, 1, 16, 16],
    Array.from({ length: 6 * 256 }, (_, i) => Math.sin(i * 0.37)),
  );
  const labels = hostTensor('int64', [6], [0, 1, 2, 0, 1, 2]);
  const spec = { weights: weights as Record<string, HostTensor>, images, labels };
  await using program = await compile(({ weights, images, labels }) => {
    const { value, gradient } = valueAndGrad((own: Weights) => crossEntropy(forward(own, images), labels))(
      weights as Weights,
    );
    return { value, gradient };
  }, spec);
  const at = async (shift: number, name: string) => {
    const data = (weights[name]!.data as Float32Array).map((value, i) => value + shift * Math.cos(i));
    const moved = { ...weights, [name]: hostTensor('float32', weights[name]!.shape, data) };
    return (await program.run({ ...spec, weights: moved })) as unknown as {
      value: HostTensor;
      gradient: Record<string, HostTensor>;
    };
  };
  const { gradient } = await at(0, 'head.weight');
  for (const name of ['head.weight', 'layer4.0.bn3.weight', 'layer3.0.downsample.0.weight', 'layer2.0.conv3.weight']) {
    const epsilon = 2e-3;
    const [up, down] = [await at(epsilon, name), await at(-epsilon, name)];
    const numeric = (Number(up.value.data[0]) - Number(down.value.data[0])) / (2 * epsilon);
    const analytic = (gradient[name]!.data as Float32Array).reduce((sum, g, i) => sum + g * Math.cos(i), 0);
    // Kinks of ReLU and pooling lie within the step; float32 rounds the loss to 6e-8.
    expect(Math.abs(numeric - analytic), `${name}: ${numeric} for ${analytic}`).toBeLessThan(
      0.02 + 0.05 * Math.abs(analytic),
    );
  }
});

test('with a reference, features do not depend on the other images', async () => {
  const { weights, features } = resnet12({ channels: 1, size: 16, filters: [2, 3, 3, 4], seed: 2 });
  const picture = (rows: number, phase: number) =>
    hostTensor(
      'float32',
      [rows, 1, 16, 16],
      Array.from({ length: rows * 256 }, (_, i) => Math.sin(i * 0.41 + phase)),
    );
  const run = async (images: HostTensor, reference: HostTensor) => {
    const given = { weights: weights as Record<string, HostTensor>, images, reference };
    await using program = await compile((t) => ({ z: features(t.weights as Weights, t.images, t.reference) }), given);
    return (await program.run(given)).z as HostTensor;
  };
  const [three, reference] = [picture(3, 0), picture(5, 1)];
  const one = hostTensor('float32', [1, 1, 16, 16], (three.data as Float32Array).slice(0, 256));
  const together = await run(three, reference);
  closeTo(
    await run(one, reference),
    hostTensor('float32', [1, 4], (together.data as Float32Array).slice(0, 4)),
    1e-4,
    'z',
  );
});

test('sizes, numbers of weights, and images that are too small', () => {
  const filters = [4, 6, 8, 10] as const;
  const { featureSize, weights, outputs } = resnet12({ filters });
  expect([featureSize, outputs]).toEqual([10, 10]);
  expect(resnet12({ filters, averagePool: false }).featureSize).toBe(10 * 25);
  const count = Object.values(weights).reduce((sum, { data }) => sum + data.length, 0);
  const ofBlock = (from: number, to: number) => 9 * to * (from + 2 * to) + from * to + 8 * to;
  expect(count).toBe(ofBlock(3, 4) + ofBlock(4, 6) + ofBlock(6, 8) + ofBlock(8, 10));
  expect(() => resnet12({ size: 15 })).toThrow('16 or more');
});
