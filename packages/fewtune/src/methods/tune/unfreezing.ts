import { maximum, type Named, type Optimizer, sub, type Tensor } from '@fewtune/engine';
import { layerOf, type Stage } from '../peft/trained-layers.js';

/**
 * An optimiser of which each weight counts the steps since it was unfrozen, as if it had begun then: bias corrections of a
 * later step would make the first updates of moments that are still zero several times too large.
 */
export function unfrozenLater(optimizer: Optimizer, stages: readonly Stage[], stepsPerEpoch: number): Optimizer {
  const startOf = (name: string): number => {
    const layer = layerOf(name) ?? Number.POSITIVE_INFINITY;
    return Math.max(
      0,
      stages.findIndex(({ lowest }) => layer >= lowest),
    );
  };
  if (new Set(stages.map(({ lowest }) => lowest)).size === 1) return optimizer;
  return {
    init: optimizer.init,
    update: (gradients, state, params, { lr, step }) => {
      const names = Object.keys(params);
      const parts = [...new Set(names.map(startOf))].map((epoch) => {
        const own = (values: Named<Tensor>, nameOf = (key: string) => key) =>
          Object.fromEntries(Object.entries(values).filter(([key]) => startOf(nameOf(key)) === epoch));
        // Steps that were skipped are not counted.
        const since = epoch === 0 ? step : maximum(sub(step, epoch * stepsPerEpoch), 1);
        return optimizer.update(
          own(gradients),
          own(state, (key) => key.slice(0, key.lastIndexOf('/'))),
          own(params),
          { lr, step: since },
        );
      });
      return {
        params: Object.assign({}, ...parts.map((part) => part.params)),
        state: Object.assign({}, ...parts.map((part) => part.state)),
      };
    },
  };
}
