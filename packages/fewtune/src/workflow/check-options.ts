import { z } from 'zod';
import { FewtuneError } from '../errors.js';
import { methodNames } from '../methods/method.js';

const schema = z.object({
  method: z.enum(['auto', ...methodNames]).optional(),
  test: z.union([z.number().gt(0).lt(1), z.object({})]).optional(),
  seed: z
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .optional(),
  budget: z.number().positive().optional(),
  keepExamples: z.boolean().optional(),
  threads: z.int().min(1).max(1024).optional(),
});

/** @throws FewtuneError OPTION_INVALID, naming each option, what was given and what would do */
export function checkOptions(options: object): void {
  const parsed = schema.safeParse(options);
  if (!parsed.success) {
    throw new FewtuneError('OPTION_INVALID', describeIssues(parsed.error, options), { cause: parsed.error });
  }
}

/** One sentence for each thing that was wrong with `options`. */
function describeIssues(error: z.ZodError, options: unknown): string {
  return error.issues
    .map((issue) => {
      const name = issue.path.join('.') || issue.code;
      const given = (options as Record<string, unknown> | undefined)?.[String(issue.path[0])];
      return `option ${name}: ${issue.message}${given === undefined ? '' : ` (given: ${JSON.stringify(given)})`}.`;
    })
    .join(' ');
}
