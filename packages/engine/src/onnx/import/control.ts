/** An If whose condition is known while tracing is the branch it takes. */
import type { OperatorTable } from './context.js';

export const controlOperators: OperatorTable = {
  If: {
    trace: (n) => {
      throw n.unsupported('a condition that depends on data');
    },
    values: (n) => {
      const condition = n.value(0).known;
      if (condition?.entries.length !== 1) {
        throw n.error(
          'NOT_DIFFERENTIABLE',
          'its condition depends on data; export the branch you need, or give concrete sizes if it asks for a size',
        );
      }
      return n.subgraph(n.graph(condition.entries[0] === 0 ? 'else_branch' : 'then_branch'));
    },
    note: 'when its condition is known while tracing',
  },
};
