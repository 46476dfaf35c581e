import { readFileSync } from 'node:fs';
import { generator, shuffled } from './statistics.js';

export interface Labelled {
  readonly texts: string[];
  readonly labels: string[];
}

/** Fields of RFC 4180: commas, quotes doubled inside quotes, line breaks inside quotes. */
export function parseCsv(content: string): string[][] {
  const rows: string[][] = [];
  let fields: string[] = [];
  // A field, quoted or bare, and what ends it.
  for (const [, quoted, bare, end] of content.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    if (end === '' && quoted === undefined && bare === '' && fields.length === 0) break;
    fields.push(quoted?.replaceAll('""', '"') ?? bare ?? '');
    if (end === ',') continue;
    rows.push(fields);
    fields = [];
  }
  return rows;
}

/** The two named columns of a CSV file. Kept apart from Fewtune's own reader, so that a bench judges it too. */
export function readLabelled(file: string, text: string, label: string): Labelled {
  const [header, ...rows] = parseCsv(readFileSync(file, 'utf8'));
  const [textColumn, labelColumn] = [text, label].map((name) => header?.indexOf(name) ?? -1) as [number, number];
  if (textColumn < 0 || labelColumn < 0) throw new Error(`${file} has no columns ${text}, ${label}: ${header}`);
  return {
    texts: rows.map((row) => row[textColumn]!),
    labels: rows.map((row) => row[labelColumn]!),
  };
}

/** `perClass` examples of every class, drawn without replacement; classes in order of name. */
export function draw({ texts, labels }: Labelled, perClass: number, seed: number): Labelled {
  const random = generator(seed);
  const rows = [...new Set(labels)].sort().flatMap((name) => {
    const members = labels.flatMap((label, index) => (label === name ? [index] : []));
    if (members.length < perClass) throw new Error(`class ${name} has ${members.length} of ${perClass} examples`);
    return shuffled(members, random).slice(0, perClass);
  });
  return { texts: rows.map((index) => texts[index]!), labels: rows.map((index) => labels[index]!) };
}

/** CSV text with the columns text and category, as in the published files. */
export function writeCsv({ texts, labels }: Labelled): string {
  const quote = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
  return `text,category\n${texts.map((text, index) => `${quote(text)},${quote(labels[index]!)}\n`).join('')}`;
}
