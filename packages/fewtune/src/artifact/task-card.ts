import { baseModelLine, inline } from './model-card.js';
import type { Measured, TunedKind, TunedReport } from './task-manifest.js';

const titles: Readonly<Record<TunedKind, string>> = {
  classification: 'Classifier',
  'multi-label': 'Classifier with several labels',
  ordinal: 'Grades in an order',
  regression: 'Values',
  tokens: 'Entities',
};

const answers: Readonly<Record<TunedKind, string>> = {
  classification: '{ label, confidence, scores }',
  'multi-label': '{ labels, scores }',
  ordinal: '{ label, confidence, scores }',
  regression: '{ value }',
  tokens: '{ entities: [{ label, start, end, text, score }] }',
};

/** README.md of a fine-tuned model's folder: the Hub's front matter and a page for people. */
export function taskCard(report: TunedReport): string {
  const { kind, pairs, outputs, score, baselines, evaluatedOn, trainingData, method, encoder } = report;
  const pipeline = kind === 'tokens' ? 'token-classification' : 'text-classification';
  const rows = [['this model', score] as const, ...baselines.map(({ baseline, score }) => [baseline, score] as const)];
  const [width, inputs] = [outputs.length, pairs ? "[['a text', 'another']]" : "['a text']"];
  return `---
library_name: transformers.js
pipeline_tag: ${pipeline}
tags: [fewtune, onnx, ${pipeline}]
${baseModelLine(encoder)}---

# ${titles[kind]} from ${trainingData.examples} examples${pairs ? ' of text pairs' : ''}

Fine-tuned with Fewtune ${report.library.version}, method \`${method.name}\`, encoder \`${encoder.id}\`.

| | ${score.name} | 95 % interval |${otherNames(score)
    .map((name) => ` ${name} |`)
    .join('')}
| --- | --- | --- |${otherNames(score)
    .map(() => ' --- |')
    .join('')}
${rows.map(([who, one]) => scoreRow(who, one, otherNames(score))).join('\n')}

How measured: ${evaluatedOn.how}

## Use

\`\`\`ts
import { loadTuned } from 'fewtune';
const model = await loadTuned('path/to/this/folder');
const [answer] = await model.predict(${inputs}); // ${answers[kind]}
\`\`\`

Any ONNX Runtime reads \`onnx/model.onnx\`: inputs \`input_ids\` and \`attention_mask\`${pairs ? ' (and, for BERT, `token_type_ids`)' : ''}
(int64, [batch, seq]), output \`logits\` ${kind === 'tokens' ? `[batch, seq, ${width}]` : `[batch, ${width}]`}. transformers.js opens the folder as
\`${pipeline}\`.

## Learned from

\`${inline(trainingData.source)}\`: ${trainingData.examples} examples; seed ${report.seed}.
${[...trainingData.repairs.map((r) => `- ${r.count} × ${r.kind}: ${r.remedy}`), ...trainingData.notes.map((note) => `- ${inline(note)}`)].join('\n')}

## Outputs

${outputs.map((name, i) => `- \`${inline(name)}\`${report.thresholds ? `, from a probability of ${report.thresholds[i]!.toFixed(3)}` : ''}`).join('\n')}
`;
}

const otherNames = ({ others }: Measured): string[] => Object.keys(others);

function scoreRow(who: string, { value, interval, others }: Measured, names: readonly string[]): string {
  const more = names.map((name) => ` ${others[name]?.toFixed(3) ?? ''} |`).join('');
  return `| ${who} | ${value.toFixed(3)} | ${interval[0].toFixed(3)} to ${interval[1].toFixed(3)} |${more}`;
}
