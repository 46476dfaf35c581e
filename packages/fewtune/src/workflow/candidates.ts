import type { Candidate } from '../advisor/cross-validate.js';
import { FewtuneError } from '../errors.js';
import { type MethodName, racedMethods } from '../methods/method.js';
import { methods, parseOptions } from '../methods/registry.js';

/**
 * The methods to try: those that are raced, or the named one with the user's options over its defaults.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function candidatesFor(
  requested: 'auto' | MethodName,
  options: Readonly<Record<string, unknown>> = {},
): readonly Candidate[] {
  if (requested !== 'auto') {
    return [{ method: methods[requested], options: parseOptions(requested, options) }];
  }
  const given = Object.keys(options);
  if (given.length > 0) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${given.join(', ')}: options belong to one method, and auto tries several. Name it with --method.`,
    );
  }
  return racedMethods.map((name) => ({ method: methods[name], options: methods[name].defaults }));
}
