import { expect, test } from 'vitest';
import { compare, toleranceOf } from './fuzz/check.js';
import { generate } from './fuzz/generator.js';
import { makers } from './fuzz/operators.js';

/**
 * Random small programs against finite differences; every third by second order.
 *
 *     FUZZ_PROGRAMS=5000 npx vitest run packages/engine/test/fuzz.test.ts    # more of them
 *     FUZZ_SEED=123      npx vitest run packages/engine/test/fuzz.test.ts    # that one, printed
 */
const only = process.env.FUZZ_SEED === undefined ? undefined : Number(process.env.FUZZ_SEED);
const first = Number(process.env.FUZZ_FIRST ?? 1);
const count = Number(process.env.FUZZ_PROGRAMS ?? 250);

/** What fails, with all that is needed to see why; else what was compared. */
async function check(seed: number) {
  const program = generate(seed, makers);
  const order = seed % 3 === 0 ? 2 : 1;
  const said = `FUZZ_SEED=${seed} (order ${order})\n${program.text}\n`;
  if (only !== undefined) console.log(said);
  try {
    const comparison = await compare(program, order);
    const failure = comparison.worst <= toleranceOf(program) ? undefined : `${said}${comparison.where}`;
    return { ...comparison, failure };
  } catch (error) {
    return { compared: 0, rejected: 0, failure: `${said}${error instanceof Error ? error.message : error}` };
  }
}

test('random programs have the gradients that finite differences find', async () => {
  const seeds = only === undefined ? Array.from({ length: count }, (_, i) => first + i) : [only];
  const failures: string[] = [];
  let [compared, rejected] = [0, 0];
  for (const seed of seeds) {
    const result = await check(seed);
    compared += result.compared;
    rejected += result.rejected;
    if (result.failure) failures.push(result.failure);
  }
  const found = `${seeds.length} programs: ${compared} directions compared, ${rejected} rejected, ${failures.length} programs wrong`;
  if (count > 1000) console.log(found);
  expect(failures.length, `${found}\n\n${failures.slice(0, 10).join('\n\n')}`).toBe(0);
  // Kinks and ties are rare; more rejections would mean that little is tested.
  expect(rejected / (compared + rejected), found).toBeLessThan(0.2);
}, 3_600_000);
