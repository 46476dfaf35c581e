import type { MetaReport } from './meta-manifest.js';

const percent = (value: number) => `${(100 * value).toFixed(1)} %`;

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
  const hubId = base.id === 'all-MiniLM-L6-v2' ? `sentence-transformers/${base.id}` : base.revision && base.id;
  const rows = measured.map(
    ({ on, classes: count, before, after, how }) =>
      `| ${count} ${on} classes | ${percent(before)} | ${percent(after)} | ${how} |`,
  );
  return `---
library_name: peft
${hubId ? `base_model: ${JSON.stringify(hubId)}\n` : ''}tags: [fewtune, few-shot, meta-learning]
---

# A start for few-shot learning, meta-trained on ${classes.length} classes

A LoRA adapter of \`${base.id}\` (${kind}), made with Fewtune ${library.version} from \`${trainingData.source}\`
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

Classes: ${classes.map((name) => `\`${name.replaceAll('`', "'").replace(/\s+/g, ' ')}\``).join(', ')}.

Options: \`${JSON.stringify(options)}\`
`;
}
