import type { LoadOptions } from '../artifact/load.js';
import { FewtuneError } from '../errors.js';
import { oneLine, percent, printable, table } from '../text.js';
import { loadTuned } from '../workflow/load-tuned.js';
import type { TunedPrediction } from '../workflow/tuned-model.js';

interface PredictTunedFlags {
  json?: boolean;
  explain?: number;
  /** Where the texts are from, if it is a file. */
  file?: string;
  signal: AbortSignal;
}

/** What `predict` prints for the folder of a fine-tuned model. */
export async function predictTuned(
  folder: string,
  texts: readonly string[],
  { json, explain, file, signal, ...options }: LoadOptions & PredictTunedFlags,
): Promise<string> {
  if (explain !== undefined) {
    throw new FewtuneError('OPTION_INVALID', '--explain: a fine-tuned model keeps no examples to show.');
  }
  await using model = await loadTuned(folder, options);
  if (model.report.pairs && file !== undefined) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `--file ${file}: the model reads pairs. Give them as arguments or as lines of stdin, the first of each and then its second.`,
    );
  }
  const inputs = model.report.pairs ? inTwos(texts) : texts;
  const predictions = await model.predict(inputs as readonly string[], { signal });
  if (json) return JSON.stringify(predictions.map((prediction, i) => ({ input: inputs[i], ...prediction })));
  const rows = predictions.map((prediction, i) => [...shown(prediction), oneLine([inputs[i]!].flat().join(' | '), 80)]);
  return printable(table(['answer', '', 'text'], rows));
}

/** Pairs are given one after the other. */
function inTwos(texts: readonly string[]): (readonly [string, string])[] {
  if (texts.length % 2 > 0) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${texts.length} texts; the model reads pairs, so give an even number: the first of each pair, then its second.`,
    );
  }
  return Array.from({ length: texts.length / 2 }, (_, i) => [texts[2 * i]!, texts[2 * i + 1]!] as const);
}

/** An answer, and how sure it is. */
function shown(prediction: TunedPrediction): [string, string] {
  switch (prediction.kind) {
    case 'classification':
    case 'ordinal':
      return [prediction.label, percent(prediction.confidence)];
    case 'multi-label':
      return [
        prediction.labels.join(', ') || '(none)',
        prediction.labels.map((label) => percent(prediction.scores[label]!)).join(', '),
      ];
    case 'regression':
      return [String(Number(prediction.value.toPrecision(4))), ''];
    case 'tokens':
      return [
        prediction.entities.map(({ label, text }) => `${label} ${JSON.stringify(oneLine(text, 30))}`).join(', ') ||
          '(none)',
        prediction.entities.map(({ score }) => percent(score)).join(', '),
      ];
    default:
      return prediction satisfies never;
  }
}
