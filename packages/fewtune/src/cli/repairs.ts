import type { Repair } from '../data/dataset.js';
import { printable } from '../text.js';

/** Says on stderr what was put right in a file. */
export function reportRepairs({ source, repairs }: { source: string; repairs: readonly Repair[] }): void {
  for (const { count, remedy } of repairs) {
    process.stderr.write(`${printable(`${source}: ${remedy} (${count})`)}\n`);
  }
}
