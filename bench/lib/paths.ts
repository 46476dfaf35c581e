import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository's root, seen from bench/dist/lib. */
export const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');

/** Raw results of single parts; ignored by git. */
export const resultsFolder = path.join(repository, 'bench/results');

/** Where the compiled bench lives. */
export const compiled = path.join(repository, 'bench/dist');

/** Something that the person at the keyboard can put right: shown without a stack. */
export class Unavailable extends Error {}

/**
 * The folder of public data sets: FEWTUNE_DATA, or shared/data beside the repository.
 *
 * @throws Unavailable when neither holds `name`, saying what to set
 */
export function dataFile(name: string): string {
  const folder = process.env.FEWTUNE_DATA ?? path.resolve(repository, '../shared/data');
  const file = path.join(folder, name);
  if (!existsSync(file)) {
    throw new Unavailable(
      `no ${file}. Set FEWTUNE_DATA to a folder that holds ${name}; bench/README.md says where each file comes from.`,
    );
  }
  return file;
}
