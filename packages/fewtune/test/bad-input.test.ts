import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fewtune } from './run-cli.js';

const good = await readFile(new URL('./fixtures/tickets.csv', import.meta.url), 'utf8');
const [header, ...rows] = good.trimEnd().split('\n') as [string, ...string[]];
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-bad-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const csv = (...lines: string[]) => Buffer.from(`${[header, ...lines].join('\n')}\n`);
const train = (file: string, ...more: string[]) =>
  fewtune(['train', file, '--method', 'tfidf', '--out', 'model', '--json', ...more], { cwd: folder });

/** What each bad file is, the code of the error, and words that name the place and the remedy. */
const refused: readonly [string, string, Buffer | undefined, string, RegExp[], string[]?][] = [
  ['a missing file', 'missing.csv', undefined, 'FILE_NOT_FOUND', [/missing\.csv/]],
  [
    'an unknown column',
    'a.csv',
    Buffer.from(good),
    'COLUMN_UNKNOWN',
    [/a\.csv/, /intent/, /text, label|"text"/],
    ['--label', 'intent'],
  ],
  [
    'a class with one example',
    'b.csv',
    csv(...rows, 'my screen is cracked,screen'),
    'CLASS_TOO_SMALL',
    [/b\.csv/, /screen/, /[Aa]dd/],
  ],
  ['all-blank texts', 'c.csv', csv('" ",card', ',delivery', '"\t",refund'), 'TEXT_BLANK', [/c\.csv/]],
  ['0 rows', 'd.csv', csv(), 'ROWS_EMPTY', [/d\.csv/]],
  ['an empty file', 'e.csv', Buffer.from(''), 'ROWS_EMPTY', [/e\.csv/]],
  ['one class only', 'f.csv', csv(...rows.slice(0, 8)), 'CLASS_SINGLE', [/f\.csv/, /card/]],
  ['a 5 MB cell', 'h.csv', csv(...rows, `${'a'.repeat(5 * 2 ** 20)},card`), 'CELL_TOO_LARGE', [/h\.csv/, /26/]],
  [
    'a ragged row',
    'i.csv',
    csv(...rows.slice(0, 10), 'where, oh where is my parcel,delivery', ...rows.slice(10)),
    'FILE_UNREADABLE',
    [/i\.csv/, /12/],
  ],
  ['an unknown format', 'j.docx', Buffer.from('PK'), 'FORMAT_UNKNOWN', [/j\.docx/, /\.csv/]],
];

describe('what cannot be mended is refused with exit code 2, and no folder is written', () => {
  test.each(refused)('%s', async (_, name, bytes, code, words, more = []) => {
    if (bytes !== undefined) {
      await writeFile(join(folder, name), bytes);
    }
    const { code: exit, stdout, stderr } = await train(name, ...more);
    expect(stderr).toContain(`[${code}]`);
    for (const word of words) {
      expect(stderr).toMatch(word);
    }
    expect(stderr).not.toMatch(/^\s+at /m); // no stack trace
    expect(stdout).toBe('');
    expect(exit).toBe(2);
    expect((await readdir(folder)).filter((entry) => entry.includes('model'))).toEqual([]);
  });
});

/** Mended without asking, but counted in the report. */
const mended: readonly [string, Buffer, string | undefined][] = [
  ['a BOM', Buffer.concat([Buffer.from('\ufeff'), csv(...rows)]), undefined],
  [
    'Latin-1 bytes',
    Buffer.concat([csv(...rows), Buffer.from('my d\xe9bit card was refused,card\n', 'latin1')]),
    'encoding',
  ],
  ['blank rows', csv(...rows, ' ,card', ',refund'), 'blank-text'],
  ['empty fields at the end of a row', csv(...rows, 'my card is bent,card,,'), 'trailing-fields'],
];

describe('what can be mended is, and is counted in the report', () => {
  test.each(mended)('%s', async (_, bytes, kind) => {
    await writeFile(join(folder, 'mended.csv'), bytes);
    const { code, stdout, stderr } = await train('mended.csv');
    expect(stderr).not.toContain('error');
    expect(code).toBe(0);
    const { repairs } = JSON.parse(stdout);
    if (kind !== undefined) {
      expect(repairs).toContainEqual(expect.objectContaining({ kind, count: expect.any(Number) }));
    }
    await rm(join(folder, 'model'), { recursive: true });
  });

  test('the same text with different labels is either refused or counted, never taken silently', async () => {
    await writeFile(join(folder, 'twice.csv'), csv(...rows, 'where is my parcel,refund'));
    const { code, stdout, stderr } = await train('twice.csv');
    if (code === 0) {
      expect(JSON.parse(stdout).repairs).toContainEqual(expect.objectContaining({ kind: 'contradicting-labels' }));
    } else {
      expect(code).toBe(2);
      expect(stderr).toContain('LABELS_CONFLICT');
    }
    await rm(join(folder, 'model'), { recursive: true, force: true });
  });

  test('a label like __proto__ is a label like any other', async () => {
    await writeFile(join(folder, 'proto.csv'), csv(...rows.map((row) => row.replace(/,refund$/, ',__proto__'))));
    expect((await train('proto.csv')).code).toBe(0);
    const { stdout } = await fewtune(['predict', 'model', 'please refund my payment', '--json'], { cwd: folder });
    const [{ label, scores }] = JSON.parse(stdout);
    expect(label).toBe('__proto__');
    expect(Object.keys(scores).sort()).toEqual(['__proto__', 'card', 'delivery']);
    await rm(join(folder, 'model'), { recursive: true });
  });
});

describe('places and options', () => {
  test('an unwritable output folder is found before anything is read', async () => {
    await writeFile(join(folder, 'plain-file'), '');
    const result = await fewtune(['train', 'missing.csv', '--out', 'plain-file/model'], { cwd: folder });
    expect(result).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('[OUTPUT_UNWRITABLE]') });
    expect(result.stderr).toContain('--out');
  });

  test.each([
    [['train'], /missing required argument/],
    [['trian', 'x.csv'], /unknown command/],
    [['train', 'x.csv', '--methd', 'linear'], /unknown option/],
    [['train', 'x.csv', '--seed', 'seven'], /whole number/],
    [['train', 'good.csv', '--method', 'magic'], /magic/],
    [['train', 'good.csv', '--test', '1.5'], /between 0 and 1/],
    [['train', 'good.csv', '--set', 'rank=8'], /--method/],
    [['train', 'good.csv', '--method', 'tfidf', '--set', 'nonsense=1'], /nonsense/],
    [['predict', 'nowhere', 'text'], /MODEL_NOT_FOUND/],
    [['predict', 'nowhere', 'text', '--file', 'good.csv'], /give one of them/],
    [['predict', 'nowhere'], /stdin.*blank/],
  ])('%j is a usage error', async (args, words) => {
    await writeFile(join(folder, 'good.csv'), good);
    const { code, stdout, stderr } = await fewtune(args, { cwd: folder });
    expect(stderr).toMatch(words);
    expect(stdout).toBe('');
    expect(code).toBe(2);
  });

  test('a training loss that becomes NaN names the learning rate', async () => {
    await writeFile(join(folder, 'good.csv'), good);
    const result = await fewtune(
      ['train', 'good.csv', '--method', 'full', '--set', 'lr=1e6', '--out', 'model', '--json'],
      { cwd: folder },
    );
    expect(result).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('[LOSS_NOT_FINITE]') });
    expect(result.stderr).toMatch(/rate/);
    expect(await readdir(folder)).not.toContain('model');
  });

  test('an interrupted run ends with 130 and leaves no folder behind', async () => {
    await writeFile(join(folder, 'good.csv'), good);
    const before = await readdir(folder);
    const result = await fewtune(['train', 'good.csv', '--method', 'full', '--out', 'model', '--json'], {
      cwd: folder,
      interruptAt: /race/,
    });
    expect(result).toMatchObject({ code: 130, stdout: '' });
    expect(result.stderr).toContain('interrupted');
    expect(await readdir(folder)).toEqual(before);
  });
});
