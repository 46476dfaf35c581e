import { percent } from '../text.js';
import type { MetaReport } from './meta-manifest.js';
import { baseModelLine, inline } from './model-card.js';

/** README.md of a meta-trained folder: the Hub's front matter and a page for people. */
export function metaCard({
  base,
  kind,
  measured,
  classes,
  trainingData,
  options,
  library,
  seed,
  ...report
}: MetaReport): string {
  const rows = measured.map(
    ({ on, classes: count, before, after, how }) =>
      `| ${count} ${on} classes | ${percent(before)} | ${percent(after)} | ${how} |`,
  );
  return `---
library_name: peft
${baseModelLine(base)}tags: [fewtune, few-shot, meta-learning]
---

# A start for few-shot learning, meta-trained on ${classes.length} classes

A LoRA adapter of \`${base.id}\` (${kind}), made with Fewtune ${library.version} from \`${inline(trainingData.source)}\`
(${trainingData.examples} examples), ${report.steps} steps, the weights of step ${report.keptStep} kept, seed ${seed}. Texts
of classes that it has never seen lie apart in it, so a classifier needs fewer examples of each.

${rows.length === 0 ? 'It was not measured on classes that it had not seen.' : `| accuracy on | before | after | how |\n| --- | --- | --- | --- |\n${rows.join('\n')}`}

## Use

\`\`\`sh
npx fewtune train tickets.csv --from path/to/this/folder
\`\`\`

In Python it is a PEFT adapter: \`PeftModel.from_pretrained(AutoModel.from_pretrained("…"), "path/to/this/folder")\`; then
mean or CLS pooling as in the base (\`${report.pooling}\`), and rows of length 1.

## Trained on

Classes: ${classes.map((name) => `\`${inline(name)}\``).join(', ')}.

Options: \`${JSON.stringify(options)}\`
`;
}
