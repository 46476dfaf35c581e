import type { ModelReport } from '../artifact/classifier.js';
import type { MetaStart } from '../artifact/manifest.js';
import { quoteSome } from '../data/dataset.js';
import type { DataProfile } from '../data/profile.js';
import { duration, percent, printable, table } from '../text.js';

/** A dataset in one line, and one more for each thing that was put right. */
export function describeData(data: DataProfile): string {
  const { perClass, words } = data;
  const spread =
    perClass.min === perClass.max
      ? `${perClass.min} each`
      : `${perClass.min} to ${perClass.max} each, median ${perClass.median}`;
  const lines = [
    `${data.rows} examples, ${data.classes} classes (${spread}), ${words.min} to ${words.max} words, median ${words.median}`,
    ...data.repairs.map(
      (repair) =>
        `repaired: ${repair.remedy}${repair.examples.length === 0 ? '' : ` (${repair.examples.slice(0, 3).join('; ')})`}`,
    ),
  ];
  return printable(lines.join('\n'));
}

/** A report for people: the race, the result with its interval and how it was measured. */
export function describeReport(report: ModelReport): string {
  const { advice, metrics, evaluatedOn, method, encoder, seconds } = report;
  const rows = advice.tried.map((entry) => [
    entry.method === advice.chosen ? `${entry.method} *` : entry.method,
    entry.accuracy === undefined ? '' : percent(entry.accuracy),
    entry.accuracyInterval === undefined ? '' : entry.accuracyInterval.map(percent).join(' to '),
    String(entry.examples),
    `${entry.seconds.toFixed(1)} s`,
    entry.note ?? '',
  ]);
  const { margin } = advice;
  const { changes = [] } = report;
  const [low, high] = metrics.accuracyInterval;
  const lines = [
    ...(rows.length === 0 ? [] : [table(['method', 'accuracy', '95 % interval', 'rows', 'time', ''], rows)]),
    ...advice.skipped.map(({ method, reason }) => `skipped ${method}: ${reason}`),
    ...(margin === undefined ? [] : [describeMargin(advice.chosen, margin)]),
    ...(rows.length === 0 ? [] : ['']),
    `method    ${method.name}${encoder === undefined ? '' : ` on ${encoder.id}`}`,
    ...(encoder?.start === undefined ? [] : [`start     ${describeStart(encoder.start)}`]),
    `accuracy  ${percent(metrics.accuracy)}  (95 % interval ${percent(low)} to ${percent(high)})`,
    `macro F1  ${metrics.macroF1.toFixed(3)}   calibration error ${metrics.ece.toFixed(3)}`,
    `measured  ${evaluatedOn.how}`,
    ...(changes.length === 0
      ? []
      : [`changed   ${changes.map(({ change, label }) => `${change} ${label}`).join(', ')}, after it was measured`]),
    `trained   in ${duration(seconds * 1000)}`,
  ];
  return printable(lines.join('\n'));
}

function describeStart({ source, kind, classes, seen }: MetaStart): string {
  return `${source} (${kind}), meta-trained on ${classes} classes${seen.length === 0 ? ', none of them among these' : `, ${seen.length} of them among these`}`;
}

/** A warning: the start has seen classes that the model is measured on. */
export function describeSeen({ seen, source }: MetaStart): string {
  return (
    `${seen.length} of the classes were among those that the start ${source} was meta-trained on: ${quoteSome(seen)}. ` +
    'What is measured on them says nothing of new classes.'
  );
}

function describeMargin(
  chosen: string,
  {
    over,
    difference,
    interval,
    examples,
  }: { over: string; difference: number; interval: readonly [number, number]; examples: number },
): string {
  const points = (value: number) => `${value >= 0 ? '+' : '−'}${(100 * Math.abs(value)).toFixed(1)}`;
  const noise = interval[0] <= 0 ? '; within noise' : '';
  return `${chosen} against ${over} on the same ${examples} rows: ${points(difference)} points (95 % interval ${points(interval[0])} to ${points(interval[1])}${noise})`;
}
