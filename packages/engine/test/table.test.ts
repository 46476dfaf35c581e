import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { catalogue, nameOf } from './catalogue.js';
import { type Column, columns, recorded, recording } from './record.js';

/** docs/engine/operators.md, made from the recorded outcomes of the tests. */
const file = new URL('../../../docs/engine/operators.md', import.meta.url);

const titles: Readonly<Record<(typeof columns)[number], string>> = {
  forward: 'forward',
  gradient: 'gradient',
  'second-order': 'second order',
  vmap: 'vmap',
  symbolic: 'symbolic',
  cpu: 'CPU',
  webgpu: 'WebGPU',
};

const intro = `# Operators

Made from the recorded outcomes of the tests, not typed; [adding an operator](adding-an-operator.md) says how. Every operator
stands in the catalogue \`packages/engine/test/catalogue.ts\`, in one or more cases.

- **forward**: the value is PyTorch's.
- **gradient**, **second order**: the gradient, and the gradient of a function of the gradient, agree with central
  differences on random shapes.
- **vmap**: over a new axis, value and gradient are those of a loop.
- **symbolic**: one program serves every size of the case's free axes ("first axis": of the first alone; "known sizes": the
  case has none).
- **CPU**: element types that ONNX Runtime's CPU kernels take, values and gradients agreeing.
- **WebGPU**: value and gradient agree with the CPU's, on the GPU. "–": no outcome is recorded.
`;

const short: Readonly<Record<string, string>> = { yes: '✓' };

/** One outcome if all cases of the operator share it, else each with the cases it is of. */
function cell(column: Column, operator: string): string {
  const outcomes = recorded(column);
  const byOutcome = new Map<string, string[]>();
  for (const c of catalogue) {
    if (c.operator !== operator) continue;
    const outcome = outcomes[nameOf(c)] ?? '–';
    byOutcome.set(outcome, [...(byOutcome.get(outcome) ?? []), c.variant ?? 'plain']);
  }
  const show = (outcome: string) => short[outcome] ?? outcome.replaceAll('|', '\\|');
  if (byOutcome.size === 1) return show([...byOutcome.keys()][0]!);
  return [...byOutcome].map(([outcome, variants]) => `${show(outcome)} (${variants.join('; ')})`).join(' · ');
}

function onnxOf(operator: string): string {
  const outcomes = recorded('onnx');
  const types = catalogue.filter((c) => c.operator === operator).flatMap((c) => outcomes[nameOf(c)]!.split(', '));
  return [...new Set(types)].sort().join(', ');
}

function table(): string {
  const operators = [...new Set(catalogue.map(({ operator }) => operator))].sort((a, b) =>
    a.toLowerCase() < b.toLowerCase() ? -1 : 1,
  );
  const rows = [
    ['operator', 'ONNX', ...columns.map((column) => titles[column])],
    Array(columns.length + 2).fill('---'),
    ...operators.map((name) => [`\`${name}\``, onnxOf(name), ...columns.map((column) => cell(column, name))]),
  ];
  const lines = rows.map((row) => `| ${row.join(' | ')} |`);
  return `${intro}\n${operators.length} operators, ${catalogue.length} cases.\n\n${lines.join('\n')}\n`;
}

test('every case has an outcome in the columns that run everywhere', () => {
  for (const column of ['forward', 'gradient', 'second-order', 'symbolic', 'cpu', 'onnx'] as const) {
    const outcomes = recorded(column);
    const missing = catalogue.map(nameOf).filter((name) => !(name in outcomes));
    expect(missing, `not in results/${column}.json: RECORD=1 npx vitest run packages/engine/test`).toEqual([]);
  }
});

test('the table in the docs is what the results give', () => {
  if (recording) writeFileSync(file, table());
  expect(readFileSync(file, 'utf8'), 'RECORD=1 npx vitest run packages/engine/test/table.test.ts').toBe(table());
});
