import { FewtuneError } from '../../errors.js';

/** Repeats in one pattern: more make a match slow, and no module's name needs them. */
const mostRepeats = 6;

/**
 * Whether a Python regular expression matches a whole name, as PEFT uses them. A pattern may come from a downloaded
 * file: those that could take more than polynomial time (a repeated group) are refused.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function matchesFully(pattern: string, name: string): boolean {
  const refuse = (why: string) =>
    new FewtuneError('OPTION_INVALID', `the pattern ${JSON.stringify(pattern.slice(0, 200))} ${why}.`);
  if (pattern.length > 1000) throw refuse('has more than 1000 characters');
  const plain = pattern.replace(/\\./g, '');
  if (/\)[*+{]/.test(plain)) throw refuse('repeats a group, which can take for ever; write the cases out');
  if ((plain.match(/[*+{]/g) ?? []).length > mostRepeats) throw refuse(`repeats more than ${mostRepeats} times`);
  try {
    return new RegExp(`^(?:${pattern})$`).test(name);
  } catch (cause) {
    throw new FewtuneError('OPTION_INVALID', `the pattern ${JSON.stringify(pattern)} is not one: ${cause}`, { cause });
  }
}
