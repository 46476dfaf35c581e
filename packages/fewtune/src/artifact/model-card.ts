import { percent } from '../text.js';
import type { Manifest, MetaStart, ModelChange } from './manifest.js';
import { supportFiles } from './support.js';

/** README.md of a model folder: the Hub's front matter and a page for people. */
export function modelCard(manifest: Omit<Manifest, 'files'>): string {
  const { metrics, evaluatedOn, labels, trainingData, method, encoder, advice } = manifest;
  const [low, high] = metrics.accuracyInterval;
  const { changes = [], support } = manifest;
  return `${frontMatter(manifest)}
# Text classifier: ${labels.length} classes from ${trainingData.examples} examples

Learned with Fewtune ${manifest.library.version}, method \`${method.name}\`${
    encoder === undefined
      ? ''
      : `, encoder \`${encoder.id}\`${encoder.start === undefined ? '' : startOf(encoder.start)}`
  }.

| measure | value |
| --- | --- |
| accuracy | ${percent(metrics.accuracy)} (95 % interval ${percent(low)} to ${percent(high)}) |
| macro F1 | ${metrics.macroF1.toFixed(3)} |
| expected calibration error | ${metrics.ece.toFixed(3)} |

How measured: ${evaluatedOn.how}
${changes.length === 0 ? '' : changedSince(changes, trainingData.classes)}
## Use

\`\`\`ts
import { load } from 'fewtune';
const model = await load('path/to/this/folder');
const [top] = await model.predict(['a text']); // { label, confidence, scores }
\`\`\`

\`\`\`ts
import { pipeline } from '@huggingface/transformers';
const classify = await pipeline('text-classification', 'path/or/hub-id', { dtype: 'fp32' }); // or 'q8': a quarter of the size
\`\`\`

Any ONNX Runtime reads \`onnx/model.onnx\`: inputs \`input_ids\` and \`attention_mask\` (int64, [batch, seq]), output
\`logits\` [batch, ${labels.length}], already divided by the calibration temperature: a softmax gives the confidences.${
    support === undefined ? '' : ' The second\noutput, `features`, is the sentence vector that the head reads.'
  }

## Learned from

\`${inline(trainingData.source)}\`: ${trainingData.examples} examples of ${trainingData.classes} classes; seed ${manifest.seed}.
${trainingData.repairs.length === 0 ? '' : `\n${trainingData.repairs.map((r) => `- ${r.count} × ${r.kind}: ${r.remedy}`).join('\n')}\n`}
${advice.tried.length === 0 ? '' : `Tried: ${advice.tried.map((t) => `${t.method}${t.accuracy === undefined ? '' : ` ${percent(t.accuracy)}`}`).join(', ')}. `}${advice.rule}

${support === undefined ? '' : keptExamples(support)}## Labels

${labels.map((label) => `- \`${inline(label)}\``).join('\n')}

## Limits

The classifier always answers with one of the labels above, also for texts that belong to none of them.
Its confidence was calibrated on texts like the training examples and means little on others.
`;
}

function changedSince(changes: readonly ModelChange[], classes: number): string {
  const lines = changes.map(({ change, label, examples, at }) => {
    const what = change === 'learn' ? `learned from ${examples} examples` : `forgotten, with ${examples} examples`;
    return `- \`${inline(label)}\` ${what}, ${at.slice(0, 10)}`;
  });
  return `
These figures are from before the following changes, on the ${classes} classes of then. The encoder, the rows of the other
classes and the calibration were left as they were:

${lines.join('\n')}
`;
}

function startOf({ source, classes, seen }: MetaStart): string {
  const known = seen.length === 0 ? '' : `; ${seen.length} of these are classes of this model too`;
  return ` from the meta-trained start \`${inline(source)}\` (${classes} classes${known})`;
}

function keptExamples({ rows, learnedFrom, texts }: NonNullable<Manifest['support']>): string {
  const share = rows === learnedFrom ? `all ${rows} examples` : `${rows} of ${learnedFrom} examples`;
  return `## Kept examples

\`${supportFiles.vectors}\` holds the sentence vectors of ${share}, from which classes can be added without
retraining and the neighbours of a text be shown.
${
  texts
    ? `\`${supportFiles.texts}\` holds their texts: whoever has this folder can read them. To leave them out, train with \`--no-keep-examples\`.`
    : 'Their texts are not kept. Something about a text can be guessed from its vector.'
}

`;
}

function frontMatter({ labels, encoder, metrics, trainingData, evaluatedOn }: Omit<Manifest, 'files'>): string {
  const base = encoder ? baseModelLine(encoder) : '';
  return `---
library_name: transformers.js
pipeline_tag: text-classification
tags: [fewtune, few-shot, onnx, text-classification]
${base}model-index:
  - name: ${JSON.stringify(`${labels.length} classes from ${trainingData.examples} examples`)}
    results:
      - task: { type: text-classification }
        dataset: { name: ${JSON.stringify(trainingData.source)}, type: custom, split: ${JSON.stringify(evaluatedOn.kind)} }
        metrics:
          - { type: accuracy, value: ${metrics.accuracy} }
          - { type: f1, name: macro F1, value: ${metrics.macroF1} }
---
`;
}

/** The front matter's line for an encoder of the Hub; empty for one of a folder. */
export function baseModelLine({ id, revision }: { id: string; revision?: string }): string {
  // Only what came from the Hub has a revision; the embedded encoder is known by its short name.
  const hubId = id === 'all-MiniLM-L6-v2' ? `sentence-transformers/${id}` : revision && id;
  return hubId ? `base_model: ${JSON.stringify(hubId)}\n` : '';
}

/** Text that is safe inside a Markdown code span on one line. */
export function inline(text: string): string {
  return text.replaceAll('`', "'").replace(/\s+/g, ' ');
}
