import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import type { Adapter } from './adapter.js';

/**
 * The adapter of which the merged weights lie between the encoder's (share 0) and those of the given one (share 1):
 * W + share · (W' − W). Exact, because W' − W is linear in one factor of each kind.
 *
 * @param weights the encoder's, for what the adapter holds whole
 * @returns undefined with a share below 1 where nothing of the kind lies between: DoRA, whose rows are normalised, and
 *   virtual tokens
 */
export function partOfAdapter(adapter: Adapter, weights: Named<HostTensor>, share: number): Adapter | undefined {
  if (share === 1) return adapter;
  const saved =
    adapter.saved &&
    change(adapter.saved, (value, name, i) => {
      const from = weights[name]!.data[i] as number;
      return from + share * (value - from);
    });
  const whole = saved && { saved };
  switch (adapter.method) {
    case 'lora': {
      if (Object.keys(adapter.weights).some((name) => name.endsWith('.lora_magnitude_vector'))) return undefined;
      const alphas = Object.entries(adapter.alphaPattern ?? {}).map(([key, alpha]) => [key, share * alpha]);
      const alphaPattern = alphas.length > 0 && { alphaPattern: Object.fromEntries(alphas) };
      return { ...adapter, alpha: share * adapter.alpha, ...alphaPattern, ...whole };
    }
    case 'ia3':
      return { ...adapter, weights: change(adapter.weights, (l) => 1 + share * (l - 1)), ...whole };
    case 'vera': {
      const part = (value: number, name: string) => (name.endsWith('.vera_lambda_b') ? share * value : value);
      return { ...adapter, weights: change(adapter.weights, part), ...whole };
    }
    case 'bottleneck': {
      const part = (value: number, name: string) => (name.includes('.adapter_up.') ? share * value : value);
      return { ...adapter, weights: change(adapter.weights, part), ...whole };
    }
    case 'loreft': {
      // Rᵀ (W' h + b' − R h) with W' = R + share · (W − R)
      const part = (value: number, name: string, i: number) => {
        if (name.endsWith('.reft_b')) return share * value;
        if (!name.endsWith('.reft_W')) return value;
        const from = adapter.weights[name.replace(/W$/, 'R')]!.data[i] as number;
        return from + share * (value - from);
      };
      return { ...adapter, weights: change(adapter.weights, part), ...whole };
    }
    case 'prefix':
    case 'prompt':
      return undefined;
    default:
      return adapter satisfies never;
  }
}

function change(
  tensors: Named<HostTensor>,
  by: (value: number, name: string, i: number) => number,
): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { shape, data }]) => [
      name,
      hostTensor(
        'float32',
        shape,
        Float32Array.from(data as Float32Array, (value, i) => by(value, name, i)),
      ),
    ]),
  );
}
