import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { resultsFolder } from '../../lib/paths.js';

/** What one fit on one draw gave. */
export interface Part {
  readonly shots: number;
  /** 0: the published few-shot file; others: the seed of a draw from the full training file. */
  readonly draw: number;
  readonly method: string;
  readonly accuracy: number;
  /** A digit a test row, 1 where the prediction is right: for paired comparisons. */
  readonly correct: string;
  /** From the encoder in memory to the fitted classifier, features of the training texts included. */
  readonly seconds: number;
  readonly details: Readonly<Record<string, unknown>>;
  readonly commit: string;
  readonly date: string;
}

const folder = path.join(resultsFolder, 'banking77');
const partFile = ({ shots, draw, method }: Pick<Part, 'shots' | 'draw' | 'method'>) =>
  path.join(folder, `${shots}-${draw === 0 ? 'published' : `seed${draw}`}-${method}.json`);

export function savePart(part: Part): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(partFile(part), `${JSON.stringify(part, null, 1)}\n`);
}

export function savedPart(wanted: Pick<Part, 'shots' | 'draw' | 'method'>): Part | undefined {
  const file = partFile(wanted);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Part) : undefined;
}

export function savedParts(): Part[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .map((name) => JSON.parse(readFileSync(path.join(folder, name), 'utf8')) as Part);
}
