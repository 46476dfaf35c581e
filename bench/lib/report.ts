import type { Machine } from './machine.js';

/** One line of a benchmark. `ratio` and `meets` are computed by `row`, never typed. */
export interface Row {
  readonly what: string;
  readonly ours: number | null;
  readonly unit: string;
  readonly peer?: number | null;
  readonly peerName?: string;
  /** ours / peer */
  readonly ratio?: number | null;
  /** `">= 0.80"`, `"<= 1.25x peer"`, `"> 1x peer"`, `">= -1.2"`; null for a row that only informs. */
  readonly target: string | null;
  readonly meets: boolean | null;
  readonly note?: string;
}

export interface Report {
  readonly bench: string;
  readonly date: string;
  readonly command: string;
  readonly machine: Machine;
  readonly seeds: readonly number[];
  readonly seconds: number;
  readonly rows: readonly Row[];
}

const comparisons: Record<string, (a: number, b: number) => boolean> = {
  '>=': (a, b) => a >= b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '<': (a, b) => a < b,
};

/**
 * Whether `ours` reaches `target`; null when there is nothing to compare with (no target, figure or peer).
 *
 * @throws when `target` is not `(>=|<=|>|<) number[x peer]`
 */
export function meets(target: string | null, ours: number | null, peer?: number | null): boolean | null {
  if (target === null) return null;
  const parts = /^(>=|<=|>|<) (-?\d+(?:\.\d+)?)(x peer)?$/.exec(target);
  if (!parts) throw new Error(`target ${JSON.stringify(target)} is not like ">= 0.83" or "<= 0.9x peer"`);
  const [, comparison, number, relative] = parts;
  if (ours === null || (relative && (peer === null || peer === undefined))) return null;
  const bound = Number(number) * (relative ? peer! : 1);
  return comparisons[comparison!]!(ours, bound);
}

/** Fills in what follows from the measured figures. */
export function row(measured: Omit<Row, 'ratio' | 'meets'>): Row {
  const { ours, peer, target } = measured;
  const hasPeer = typeof peer === 'number' && typeof ours === 'number' && peer !== 0;
  return { ...measured, ...(hasPeer ? { ratio: ours / peer } : {}), meets: meets(target, ours, peer) };
}

const columns = ['what', 'ours', 'unit', 'peer', 'ratio', 'target', 'meets'] as const;

/** Four significant digits, integers and large figures without a fraction. */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return value.toFixed(0);
  return String(Number(value.toPrecision(4)));
}

function cells(row: Row): string[] {
  const peer = row.peerName ? `${figure(row.peer)} (${row.peerName})` : figure(row.peer);
  const verdict = row.meets === null ? '–' : row.meets ? 'yes' : 'NO';
  const ratio = typeof row.ratio === 'number' ? `${figure(row.ratio)}x` : '–';
  return [row.what, figure(row.ours), row.unit, peer, ratio, row.target ?? '–', verdict];
}

function heading({ machine, date, seconds, command }: Report): string[] {
  return [
    command,
    `${date} · ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB · Node ${machine.node}, onnxruntime ${machine.onnxruntime} · ${machine.commit} · ${figure(seconds)} s in all`,
  ];
}

/** For a terminal: aligned columns, each row's note beneath it. */
export function table(report: Report): string {
  const lines = [columns as readonly string[], ...report.rows.map(cells)];
  const widths = columns.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const aligned = lines.map((line) =>
    line
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  );
  const body = report.rows.flatMap((row, index) => [aligned[index + 1]!, ...(row.note ? [`    ${row.note}`] : [])]);
  return [report.bench, ...heading(report), '', aligned[0]!, ...body].join('\n');
}

/** For bench/README.md: a section that is pasted, never typed. */
export function markdown(report: Report): string {
  const guarded = (cell: string) => cell.replaceAll('|', '\\|');
  const line = (parts: readonly string[]) => `| ${parts.map(guarded).join(' | ')} |`;
  const [command, where] = heading(report);
  return [
    `### ${report.bench}`,
    '',
    `\`${command}\`  `,
    where,
    '',
    line([...columns, 'note']),
    line([...columns, 'note'].map(() => '---')),
    ...report.rows.map((row) => line([...cells(row), row.note ?? ''])),
  ].join('\n');
}
