import { FewtuneError } from '../errors.js';

/** Adapters of a model folder lie here, each in a folder of its own, as PEFT writes it. */
export const adaptersFolder = 'adapters';

/** @throws FewtuneError OPTION_INVALID unless a name can be that of a folder on every system */
export function checkAdapterName(name: string): void {
  if (/^[A-Za-z0-9][\w.-]{0,63}$/.test(name) && !name.endsWith('.')) return;
  throw new FewtuneError(
    'OPTION_INVALID',
    `the adapter name ${JSON.stringify(name.slice(0, 80))} cannot be that of a folder: use letters, digits, "-", "_" and ".", at most 64, and begin with a letter or digit.`,
  );
}
