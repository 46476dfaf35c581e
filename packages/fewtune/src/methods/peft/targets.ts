import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { near } from './near-names.js';
import { matchesFully } from './python-pattern.js';

/**
 * Which modules are meant, by their names in the checkpoint (`encoder.layer.0.attention.self.query`). One, or a list of:
 * a name or the end of one (`query`, `self.query`); with `*` a whole name with anything in these places (`*.layer.5.*`);
 * between slashes a regular expression that matches a whole name, as PEFT has it.
 */
export type Targets = string | readonly string[];

/** Whether a module or weight is the pooler's, which no embedding reads: PEFT's `all-linear` adapts it too. */
export const ofPooler = (name: string): boolean => name.startsWith('pooler.');

/** The linear layers of an encoder by their module's name; the pooler, which no embedding reads, is none. */
export function linearModules(weights: Named<HostTensor>): string[] {
  return Object.keys(weights)
    .filter((name) => name.endsWith('.weight') && weights[name]!.shape.length === 2 && !/embedding|pooler/.test(name))
    .map((name) => name.slice(0, -'.weight'.length));
}

/**
 * The linear layers that targets mean, `all-linear` being all of them.
 *
 * @param method for the error
 * @throws FewtuneError OPTION_INVALID when a part of the targets means none, with near names
 */
export function linearsMeant(weights: Named<HostTensor>, targets: Targets, method?: string): string[] {
  const linears = linearModules(weights);
  if (targets === 'all-linear') return linears;
  return namesMeant(targets, linears, `${method ? `${method}: ` : ''}no linear layer of this encoder`);
}

/** Whether a name is meant. */
export function isMeant(target: string, name: string): boolean {
  if (target.length > 2 && target.startsWith('/') && target.endsWith('/')) {
    return matchesFully(target.slice(1, -1), name);
  }
  if (!target.includes('*')) return name === target || name.endsWith(`.${target}`);
  return matchesFully(target.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*'), name);
}

/**
 * The names that are meant, in the order of `names`.
 *
 * @param what for the error, e.g. `lora: no linear layer of this encoder`
 * @throws FewtuneError OPTION_INVALID when a part of the targets means none, with near names
 */
export function namesMeant(targets: Targets, names: readonly string[], what: string): string[] {
  const list = typeof targets === 'string' ? [targets] : targets;
  for (const target of list) {
    if (names.some((name) => isMeant(target, name))) continue;
    // One name for all layers: a list of the same name with different numbers says nothing.
    const kinds = [...new Set(names.map((name) => name.replace(/\.\d+\./g, '.*.')))];
    throw new FewtuneError('OPTION_INVALID', `${what} is named ${JSON.stringify(target)}${near(target, kinds, 8)}.`);
  }
  return names.filter((name) => list.some((target) => isMeant(target, name)));
}

/**
 * Every weight of the modules that are meant, those that are adapted already excepted: they are trained whole.
 *
 * @param method for the error
 * @throws FewtuneError OPTION_INVALID when a target means none, with near names
 */
export function savedWeights(
  weights: Named<HostTensor>,
  targets: Targets,
  adapted: readonly string[],
  method: string,
): Record<string, HostTensor> {
  const moduleOf = (name: string) => name.slice(0, name.lastIndexOf('.'));
  const others = [...new Set(Object.keys(weights).map(moduleOf))].filter((module) => !adapted.includes(module));
  const meant = new Set(namesMeant(targets, others, `${method}: no module that is not adapted already`));
  return Object.fromEntries(Object.entries(weights).filter(([name]) => meant.has(moduleOf(name))));
}

/** A module's own number, where the first target that means it has one. */
export const ownOf = (record: Readonly<Record<string, number>>, module: string, common: number): number =>
  Object.entries(record).find(([target]) => isMeant(target, module))?.[1] ?? common;
