import { InvalidArgumentError, Option } from 'commander';

/** Option parsers name what was given and what would do; commander turns that into exit code 2. */
export function integer(minimum: number) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < minimum) {
      throw new InvalidArgumentError(`Give a whole number, ${minimum} or more.`);
    }
    return value;
  };
}

export function positive(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value <= 0) {
    throw new InvalidArgumentError('Give a number above 0.');
  }
  return value;
}

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Give a number.');
  return value;
}

/** `name=value`, repeatable. Numbers, true, false and JSON are read as such, `a,b` as a list, the rest as text. */
export function assignment(text: string, previous: Record<string, unknown> = {}): Record<string, unknown> {
  const at = text.indexOf('=');
  if (at < 1) {
    throw new InvalidArgumentError('Give name=value, for instance lr=1e-4.');
  }
  return { ...previous, [text.slice(0, at)]: parseValue(text.slice(at + 1)) };
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text.includes(',') ? text.split(',') : text;
  }
}

/** Every value of an option that may be repeated. */
export const collect = (text: string, previous: readonly string[] = []): string[] => [...previous, text];

export const jsonOption = () => new Option('--json', 'print exactly one JSON document on stdout');
export const threadsOption = () => new Option('--threads <n>', 'CPU threads').argParser(integer(1));
export const textOption = () => new Option('--text <column>', 'column with the texts');
export const labelOption = () => new Option('--label <column>', 'column with the labels');
