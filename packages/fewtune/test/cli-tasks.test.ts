import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRandom } from '../src/data/random.js';
import { writeOnnxBase } from './onnx-base.js';
import { fewtune } from './run-cli.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const grades = ['never', 'sometimes', 'often'];
const random = createRandom(3);
const word = (grade: number) => `${['rare', 'some', 'much'][grade % 3]}${'klmn'[random.int(4)]}`;
/** Two words, the first of which says the grade. */
const rows = Array.from({ length: 90 }, (_, i) => ({
  text: `${word(i)} of${'stuvwxyz'[random.int(8)]}`,
  other: word(i + (i % 2)),
  answer: grades[i % 3]!,
  same: i % 2 === 0 ? 'yes' : 'no',
}));
const columns = Object.keys(rows[0]!) as (keyof (typeof rows)[number])[];

let folder: string;
const run = (...args: string[]) => fewtune(args, { cwd: folder });
const quick = ['--method', 'full', '--epochs', '20', '--lr', '3e-3', '--set', 'headLr=0.03', '--set', 'patience=20'];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-cli-tasks-'));
  const lines = [columns.join(','), ...rows.map((row) => columns.map((name) => row[name]).join(','))];
  await writeFile(join(folder, 'survey.csv'), `${lines.join('\n')}\n`);
  await writeTinyEncoder(
    join(folder, 'encoder'),
    rows.map(({ text, other }) => `${text} ${other}`),
  );
  await writeOnnxBase(join(folder, 'onnx'), 'states');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const ordinal = ['finetune', 'encoder', 'survey.csv', '--task', 'ordinal', '--label', 'answer', '--text', 'text'];

test('grades: learned, measured beside baselines, predicted and evaluated', async () => {
  const tuned = await run(...ordinal, '--order', grades.join(), ...quick, '--out', 'model', '--json');
  expect(tuned.code, tuned.stderr).toBe(0);
  expect(tuned.stderr).toMatch(/^parameters +\d+ of \d+ trained/m); // what it will take, before it begins
  const document = JSON.parse(tuned.stdout);
  expect(document).toMatchObject({ model: 'model', task: 'ordinal', pairs: false, outputs: grades, method: 'full' });
  expect(document.score.name).toBe('quadratic kappa');
  expect(document.score.value).toBeGreaterThan(0.8);
  expect(document.baselines.length).toBeGreaterThan(0);

  const said = await run('predict', 'model', 'rarek ofs', 'muchm oft', '--json');
  expect(said.stderr).toBe('');
  expect(JSON.parse(said.stdout)).toMatchObject([
    { input: 'rarek ofs', kind: 'ordinal', label: 'never' },
    { input: 'muchm oft', kind: 'ordinal', label: 'often' },
  ]);
  const measured = await run('evaluate', 'model', 'survey.csv', '--text', 'text', '--label', 'answer', '--json');
  const { examples, score } = JSON.parse(measured.stdout);
  expect(examples).toBe(90);
  expect(score).toMatchObject({ name: 'quadratic kappa', others: { accuracy: expect.any(Number) } });
  expect(score.value).toBeGreaterThan(0.9);
});

test('pairs: two texts in, one answer out; an odd number is an error', async () => {
  const columnsOf = ['--text', 'text', '--pair', 'other', '--label', 'same'];
  const tuned = await run('finetune', 'encoder', 'survey.csv', ...columnsOf, ...quick, '--out', 'pairs');
  expect(tuned.code, tuned.stderr).toBe(0);
  expect(tuned.stdout).toMatch(/accuracy .*95 % interval/);
  expect(tuned.stdout).toContain('saved     pairs');
  const said = await run('predict', 'pairs', 'rarek ofs', 'rarel', 'somek ofu', 'muchn', '--json');
  expect(JSON.parse(said.stdout).map(({ input }: { input: string[] }) => input)).toEqual([
    ['rarek ofs', 'rarel'],
    ['somek ofu', 'muchn'],
  ]);
  const odd = await run('predict', 'pairs', 'rarek ofs');
  expect(odd).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('give an even number') });
  const file = await run('predict', 'pairs', '--file', 'survey.csv', '--text', 'text');
  expect(file).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('the model reads pairs') });
});

test('interrupted, it goes on where it stopped, and ends as without a break', async () => {
  const long = [
    ...ordinal,
    '--order',
    grades.join(),
    '--epochs',
    '40',
    '--lr',
    '3e-3',
    '--set',
    'patience=40',
    '--json',
  ];
  const whole = JSON.parse((await run(...long, '--out', 'whole')).stdout);
  const cut = await fewtune([...long, '--out', 'cut'], { cwd: folder, interruptAt: /^tune: /m });
  expect([cut.code, cut.stdout]).toEqual([130, '']);
  expect(cut.stderr).toContain('--resume goes on with it');
  const on = await run(...long, '--out', 'cut', '--resume');
  expect(on.code, on.stderr).toBe(0);
  expect(JSON.parse(on.stdout).score).toEqual(whole.score);
  expect((await readdir(folder)).filter((name) => name.includes('checkpoint'))).toEqual([]);
});

test.each([
  ['words without an order', [...ordinal], /"never" is no number.*--order/],
  ['a grade that the order lacks', [...ordinal, '--order', 'never,often'], /survey\.csv:3: the grade "sometimes"/],
  ['a loss of another task', [...ordinal, '--order', grades.join(), '--loss', 'mse'], /mse is none of ordinal/],
  ['a text where a number is wanted', [...ordinal.with(4, 'regression')], /survey\.csv:2.*"never" is no number/],
  ['an order where there is none', ['finetune', 'encoder', 'survey.csv', '--order', 'a,b'], /--order: only ordinal/],
  ['a name for no adapter', [...ordinal, '--order', grades.join(), '--name', 'mine'], /--name: the adapter of a task/],
  ['an ONNX model', [...ordinal.with(1, 'onnx')], /--task ordinal: an ONNX model is fine-tuned for one label/],
])('%s is refused, and nothing is written', async (_, args, message) => {
  const { code, stdout, stderr } = await run(...args, '--out', 'none');
  expect(stderr).toMatch(message);
  expect([code, stdout]).toEqual([2, '']);
});
