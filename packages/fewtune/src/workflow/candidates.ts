import type { Candidate } from '../advisor/cross-validate.js';
import { FewtuneError } from '../errors.js';
import { type MethodName, methodNames } from '../methods/method.js';
import { methods } from '../methods/registry.js';
import { describeIssues } from './check-options.js';

/**
 * The methods to try: all of them, or the named one with the user's options over its defaults.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function candidatesFor(
  requested: 'auto' | MethodName,
  options: Readonly<Record<string, unknown>> = {},
): readonly Candidate[] {
  if (requested === 'auto') {
    const given = Object.keys(options);
    if (given.length > 0) {
      throw new FewtuneError(
        'OPTION_INVALID',
        `${given.join(', ')}: options belong to one method, and auto tries several. Name it with --method.`,
      );
    }
    return methodNames.flatMap((name) => {
      const method = methods[name];
      return method === undefined ? [] : [{ method, options: method.defaults }];
    });
  }
  const method = methods[requested];
  if (method === undefined) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `method ${requested} is not part of this build; there are ${Object.keys(methods).join(', ')}.`,
    );
  }
  const parsed = method.schema.safeParse(options);
  if (!parsed.success) {
    const known = Object.entries(method.defaults as object).map(([name, value]) => `${name}=${value}`);
    const what = describeIssues(parsed.error, options);
    throw new FewtuneError(
      'OPTION_INVALID',
      `method ${requested}: ${what} Its options with their defaults: ${known.join(', ')}.`,
    );
  }
  return [{ method, options: parsed.data }];
}
