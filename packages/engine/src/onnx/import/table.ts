import { attentionOperators } from './attention.js';
import type { OperatorRule, OperatorTable } from './context.js';
import { controlOperators } from './control.js';
import { convolutionOperators } from './convolution.js';
import { elementwiseOperators } from './elementwise.js';
import { indexingOperators } from './indexing.js';
import { linearOperators } from './linear.js';
import { normalizeOperators } from './normalize.js';
import { quantizeOperators } from './quantize.js';
import { recurrentOperators } from './recurrent.js';
import { reduceOperators } from './reduce.js';
import { resizeOperators } from './resize.js';
import { shapeOperators } from './shape.js';

/** Families of the operator table, by the heading they stand under in the docs. */
export const operatorFamilies: Readonly<Record<string, OperatorTable>> = {
  Elementwise: elementwiseOperators,
  'Matrix products': linearOperators,
  Reductions: reduceOperators,
  Normalisation: normalizeOperators,
  'Convolution and pooling': { ...convolutionOperators, ...resizeOperators },
  'Shapes and constants': shapeOperators,
  Indexing: indexingOperators,
  'Attention and fused operators': attentionOperators,
  Quantisation: quantizeOperators,
  Recurrence: recurrentOperators,
  'Control flow': controlOperators,
};

const table = new Map<string, OperatorRule>(
  Object.values(operatorFamilies).flatMap((family) => Object.entries(family)),
);

/** `ai.onnx` is the standard domain's other name. */
export const domainOf = (domain: string | undefined): string => (domain === 'ai.onnx' ? '' : (domain ?? ''));

/** How an operator is called in the table: with its domain, unless it is ONNX's own. */
export function operatorName(domain: string | undefined, type: string): string {
  const own = domainOf(domain);
  return own === '' ? type : `${own}.${type}`;
}

export function ruleOf(domain: string | undefined, type: string): OperatorRule | undefined {
  return table.get(operatorName(domain, type));
}
