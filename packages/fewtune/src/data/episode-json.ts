import { z } from 'zod';
import { FewtuneError } from '../errors.js';
import type { Episode } from './episodes.js';

const index = z.int().min(0).max(0x7fffffff);
const fileSchema = z.strictObject({
  format: z.literal('fewtune-episodes'),
  version: z.literal(1),
  rows: index,
  episodes: z.array(
    z.strictObject({ classes: z.array(index).min(1), support: z.array(index).min(1), query: z.array(index) }),
  ),
});

/** Episodes as JSON text, with the number of rows of the source they index. */
export function episodesToJson(episodes: Iterable<Episode>, rows: number): string {
  const plain = Array.from(episodes, ({ classes, support, query }) => ({
    classes: [...classes],
    support: [...support],
    query: [...query],
  }));
  return `${JSON.stringify({ format: 'fewtune-episodes', version: 1, rows, episodes: plain })}\n`;
}

/**
 * The episodes of {@link episodesToJson}, checked against the source they are to be used with.
 *
 * @param labels class of each row of that source
 * @throws FewtuneError OPTION_INVALID: no such JSON, another number of rows, a row out of range, a row twice in an
 *   episode, ways of unequal size, a row that is not of its way's class
 */
export function episodesFromJson(json: string, labels: Int32Array): Episode[] {
  const { rows, episodes } = parse(json);
  if (rows !== labels.length) {
    refuse(
      `they were drawn from ${rows} rows, but this source has ${labels.length}; give the source they were drawn from`,
    );
  }
  return episodes.map(({ classes, support, query }, i) => {
    const ways = classes.length;
    const where = `episode ${i}`;
    if (new Set(classes).size !== ways) refuse(`${where} has a class twice`);
    const seen = new Map<number, string>();
    for (const [role, part] of [
      ['support', support],
      ['query', query],
    ] as const) {
      if (part.length % ways !== 0) refuse(`${where}: ${part.length} ${role} rows cannot be shared by ${ways} ways`);
      part.forEach((row, at) => {
        if (row >= rows) refuse(`${where}: ${role} row ${row} is out of range, the source has ${rows} rows`);
        const before = seen.get(row);
        if (before !== undefined) {
          refuse(`${where}: row ${row} is ${before === role ? `twice in ${role}` : 'in both support and query'}`);
        }
        seen.set(row, role);
        const expected = classes[Math.floor(at / (part.length / ways))];
        if (labels[row] !== expected) {
          refuse(`${where}: ${role} row ${row} has class ${labels[row]}, but stands where class ${expected} belongs`);
        }
      });
    }
    return { classes: Int32Array.from(classes), support: Int32Array.from(support), query: Int32Array.from(query) };
  });
}

function parse(json: string): z.infer<typeof fileSchema> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    return refuse(`this is not JSON: ${(cause as Error).message}`, cause);
  }
  const parsed = fileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  return refuse(`${path.length > 0 ? path.join('.') : 'top level'}: ${message}`, parsed.error);
}

function refuse(why: string, cause?: unknown): never {
  throw new FewtuneError('OPTION_INVALID', `episodes: ${why}.`, { cause });
}
