import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readTable } from '../src/data/read-table.js';
import { load } from '../src/workflow/load.js';
import { train } from '../src/workflow/train.js';
import { fewtune } from './run-cli.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const tickets = fileURLToPath(new URL('./fixtures/tickets.csv', import.meta.url));
const passwords = ['login password refused', 'password login page', 'reset login password'];
const hours = ['opening hours sunday', 'opening hours monday'];

let cwd: string;
const run = (...args: string[]) => fewtune(args, { cwd });

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'fewtune-cli-learn-'));
  const data = await readTable(tickets);
  await writeTinyEncoder(join(cwd, 'encoder'), [...data.texts, ...passwords, ...hours]);
  await using model = await train(data, { method: 'prototype', encoder: join(cwd, 'encoder'), threads: 1 }).result;
  await model.save(join(cwd, 'base'));
  await writeFile(join(cwd, 'login.txt'), `${passwords.join('\n')}\n`);
  const rows = [...passwords.map((text) => `${text},login`), ...hours.map((text) => `${text},hours`)];
  await writeFile(join(cwd, 'new.csv'), `text,label\n${rows.join('\n')}\n`);
  await mkdir(join(cwd, 'support', 'hours'), { recursive: true });
  await writeFile(join(cwd, 'support', 'hours', 'a.txt'), `${hours.join('\n')}\n`);
});
afterAll(() => rm(cwd, { recursive: true, force: true }));

test('a class from a file: learned in place, explained, forgotten', async () => {
  await using base = await load(join(cwd, 'base'));
  await base.save(join(cwd, 'model'));
  const learned = await run('learn', 'model', 'login.txt', '--label', 'login', '--json');
  expect(learned.code).toBe(0);
  expect(JSON.parse(learned.stdout)).toMatchObject({
    model: 'model',
    classes: 4,
    learned: [{ label: 'login', isNew: true, added: 3, heldOut: { examples: 3 }, others: { examples: 24 } }],
  });
  const [explained, plain] = await Promise.all([
    run('predict', 'model', 'reset password login', '--explain', '2', '--json'),
    run('predict', 'model', 'reset password login', '--explain'),
  ]);
  const [prediction] = JSON.parse(explained.stdout);
  expect(prediction).toMatchObject({ input: 'reset password login', label: 'login' });
  expect(prediction.nearest).toHaveLength(2);
  expect(prediction.nearest[0]).toEqual({
    label: 'login',
    similarity: expect.any(Number),
    text: 'reset login password',
  });
  expect(plain.stdout.split('\n').filter((line) => /^ {4}[01]\.\d{3} {2}/.test(line))).toHaveLength(3);
  const forgotten = await run('forget', 'model', '--label', 'login', '--json');
  expect(JSON.parse(forgotten.stdout)).toEqual({
    model: 'model',
    classes: 3,
    forgotten: [{ label: 'login', examples: 3, classes: 3 }],
  });
  await using model = await load(join(cwd, 'model'));
  expect(model.labels).toEqual(base.labels);
  expect((await readdir(cwd)).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('several classes: from a table, a folder and the command line, into another folder', async () => {
  const [table, folder, given] = await Promise.all([
    run('learn', 'base', 'new.csv', '--out', 'from-table', '--json'),
    run('learn', 'base', 'support', '--out', 'from-folder', '--json'),
    run('learn', 'base', '--label', 'hours', '--example', hours[0]!, '--example', hours[1]!, '--out', 'given'),
  ]);
  expect(JSON.parse(table.stdout).learned.map(({ label }: { label: string }) => label)).toEqual(['hours', 'login']);
  expect(JSON.parse(folder.stdout)).toMatchObject({ classes: 4, learned: [{ label: 'hours', added: 2 }] });
  expect(given.stdout).toMatch(/hours +new +2 +2 +\d of 2/);
  await using fromFolder = await load(join(cwd, 'from-folder'));
  await using fromGiven = await load(join(cwd, 'given'));
  expect(await fromGiven.logits(hours)).toEqual(await fromFolder.logits(hours));
  await using base = await load(join(cwd, 'base'));
  expect(base.labels).toHaveLength(3);
});

test('what is wrong is said with exit code 2, and no model is written', async () => {
  const wrong = await Promise.all([
    run('learn', 'base', '--out', 'no'),
    run('learn', 'base', 'login.txt', '--out', 'no'),
    run('learn', 'base', '--label', 'card', '--example', 'a new card', '--out', 'no'),
    run('forget', 'base', '--label', 'nothing', '--out', 'no'),
  ]);
  expect(wrong.map(({ code }) => code)).toEqual([2, 2, 2, 2]);
  const codes = ['OPTION_INVALID', 'OPTION_INVALID', 'LABEL_EXISTS', 'LABEL_UNKNOWN'];
  for (const [i, { stderr, stdout }] of wrong.entries()) {
    expect(stderr).toContain(`[${codes[i]}]`);
    expect(stdout).toBe('');
  }
  expect(await readdir(cwd)).not.toContain('no');
});
