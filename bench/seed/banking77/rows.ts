import { type Row, row } from '../../lib/report.js';
import { type Interval, mean, studentInterval } from '../../lib/statistics.js';
import type { Part } from './parts.js';

export const setfit = 'setfit';
const fineTuned = ['lora', 'full'];

interface Targets {
  readonly prototype: number;
  readonly linear: number;
  readonly fineTuned: number;
  readonly published: string;
}

const targets: Readonly<Record<number, Targets>> = {
  5: {
    prototype: 0.77,
    linear: 0.8,
    fineTuned: 0.82,
    published: 'published: RoBERTa classifier 0.740, CPFT 0.809, ICDA 0.840',
  },
  10: {
    prototype: 0.815,
    linear: 0.85,
    fineTuned: 0.87,
    published: 'published: RoBERTa classifier 0.843, CPFT 0.872, ICDA 0.898',
  },
};

const percent = (value: number) => (100 * value).toFixed(1);
const interval = ({ low, high }: Interval, show: (value: number) => string = percent) =>
  `[${show(low)}, ${show(high)}]`;
const atLeast = (bound: number | undefined) => (bound === undefined ? null : `>= ${bound}`);

/** The table's rows for one number of examples a class. */
export function banking77Rows(parts: readonly Part[], shots: number, peerNote: string): Row[] {
  const here = parts.filter((part) => part.shots === shots);
  const of = (method: string) => here.filter((part) => part.method === method).sort((a, b) => a.draw - b.draw);
  const methods = ['tfidf', 'prototype', 'linear', ...fineTuned].filter((method) => of(method).length > 0);
  const best = fineTuned
    .filter((method) => of(method).length > 0)
    .sort((a, b) => accuracy(of(b)) - accuracy(of(a)))
    .at(0);
  const target = targets[shots];
  const where = `${shots} per class`;

  const accuracyOf = (what: string, method: string, bound: number | undefined, extra?: string) =>
    row({
      what: `${what}, ${where}`,
      ours: accuracy(of(method)),
      unit: 'accuracy',
      target: atLeast(bound),
      note: [overDraws(of(method)), extra].filter(Boolean).join(' · '),
    });
  const bounds: Record<string, number | undefined> = { prototype: target?.prototype, linear: target?.linear };
  const rows = methods.map((method) => accuracyOf(method, method, bounds[method]));
  if (best) {
    rows.push(accuracyOf(`best of lora, full (${best})`, best, target?.fineTuned, target?.published));
    rows.push(...againstLinear(of(best), of('linear'), `${best} against linear, ${where}`));
  }
  rows.push(...methods.map((method) => seconds(of(method), `${method} seconds, ${where}`)));
  const peer = of(setfit).find(({ draw }) => draw === 0);
  for (const [method, share] of [
    ['linear', 0.05],
    [best, 0.2],
  ] as const) {
    const ours = method && of(method).find(({ draw }) => draw === 0);
    if (ours) rows.push(...againstSetFit(ours, peer, `${method}, published draw, ${where}`, share, peerNote));
  }
  return rows;
}

const accuracy = (parts: readonly Part[]) => mean(parts.map((part) => part.accuracy));

function overDraws(parts: readonly Part[]): string {
  const published = parts.find(({ draw }) => draw === 0);
  return [
    `mean of ${parts.length} draw${parts.length === 1 ? '' : 's'}`,
    parts.length > 1 && `95 % ${interval(studentInterval(parts.map((part) => part.accuracy)))}`,
    published && `published draw ${percent(published.accuracy)}`,
  ]
    .filter(Boolean)
    .join(', ');
}

/** Paired by draw: the same training rows and the same test rows on both sides. */
function againstLinear(tuned: readonly Part[], linear: readonly Part[], what: string): Row[] {
  const pairs = tuned.flatMap((part) => {
    const other = linear.find(({ draw }) => draw === part.draw);
    return other ? [part.accuracy - other.accuracy] : [];
  });
  if (pairs.length === 0) return [];
  const difference = studentInterval(pairs);
  const wins = pairs.filter((value) => value > 0).length;
  return [
    row({
      what: `${what}: difference`,
      ours: difference.mean,
      unit: 'accuracy',
      target: '> 0',
      note: `mean of ${pairs.length} paired differences, 95 % ${interval(difference)} points`,
    }),
    row({ what: `${what}: draws won`, ours: wins, unit: `of ${pairs.length}`, target: `>= ${pairs.length}` }),
  ];
}

function seconds(parts: readonly Part[], what: string): Row {
  const values = parts.map((part) => part.seconds);
  const spread = studentInterval(values);
  return row({
    what,
    ours: spread.mean,
    unit: 's',
    target: null,
    note: `mean over draws, ${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)}; training with its features, encoder in memory`,
  });
}

function againstSetFit(ours: Part, peer: Part | undefined, what: string, share: number, note: string): Row[] {
  const peerName = peer ? `SetFit ${versions(peer)}` : 'SetFit';
  const common = { peerName, ...(peer ? {} : { note }) };
  return [
    row({
      what: `${what}: accuracy`,
      ours: ours.accuracy,
      unit: 'accuracy',
      peer: peer?.accuracy ?? null,
      target: '> 1x peer',
      ...common,
    }),
    row({
      what: `${what}: time`,
      ours: ours.seconds,
      unit: 's',
      peer: peer?.seconds ?? null,
      target: `<= ${share}x peer`,
      ...common,
    }),
  ];
}

function versions({ details }: Part): string {
  const { versions } = details as { versions?: { setfit: string; torch: string } };
  return versions ? `${versions.setfit}, torch ${versions.torch}` : '';
}
