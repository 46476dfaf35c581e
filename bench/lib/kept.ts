import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Options } from './bench.js';
import { resultsFolder } from './paths.js';

/**
 * One run of a benchmark: with `--resume` what an earlier one with the same settings found, else measured now and kept in
 * bench/results.
 *
 * @param name     a path below bench/results, without extension; what is no letter or digit becomes `-`
 * @param settings everything that decides the result; a kept run with other settings is measured anew
 */
export async function kept<T>(
  name: string,
  settings: unknown,
  { resume, quick }: Pick<Options, 'resume' | 'quick'>,
  measure: () => Promise<T>,
): Promise<T> {
  const file = path.join(resultsFolder, `${name.replace(/[^\w/.]+/g, '-')}${quick ? '-quick' : ''}.json`);
  const key = JSON.stringify(settings);
  if (resume && existsSync(file)) {
    const found = JSON.parse(readFileSync(file, 'utf8')) as { key: string; result: T };
    if (found.key === key) return found.result;
  }
  const result = await measure();
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ key, result })}\n`);
  return result;
}
