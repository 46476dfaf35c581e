import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { listClassFolder, readSupportFolder } from './support-folder.js';

let base: string;
beforeEach(async () => {
  base = await realpath(await mkdtemp(join(tmpdir(), 'fewtune-support-')));
});
afterEach(() => rm(base, { recursive: true, force: true }));

async function write(files: Record<string, string | Uint8Array>): Promise<string> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(base, path)), { recursive: true });
    await writeFile(join(base, path), content);
  }
  return join(base, 'support');
}

test('texts: one example a line, or a file', async () => {
  const folder = await write({
    'support/refund/a.txt': 'money back\r\n\r\n where is my money \n',
    'support/refund/b.TXT': 'pay me back',
    'support/café/x.txt': '\ufeffa table for two',
    'support/.DS_Store': 'x',
  });
  expect(await readSupportFolder(folder)).toEqual({
    texts: ['a table for two', 'money back', 'where is my money', 'pay me back'],
    labels: Int32Array.of(0, 1, 1, 1),
    classes: ['café', 'refund'],
    skipped: [],
  });
  const whole = await readSupportFolder(folder, { examples: 'file' });
  expect(whole.texts).toEqual(['a table for two', 'money back\r\n\r\n where is my money', 'pay me back']);
});

test('what gives no example is reported, and nothing outside the folder is read', async () => {
  const folder = await write({
    'secret.txt': 'outside',
    'elsewhere/s.txt': 'outside',
    'support/loose.txt': 'x',
    'support/blank/a.txt': ' \n',
    'support/good/a.txt': 'fine',
    'support/good/b.png': 'x',
    'support/good/deeper/c.txt': 'x',
    'support/binary/a.txt': new Uint8Array([0, 1, 2]),
  });
  await mkdir(join(folder, 'empty'));
  await symlink(join(base, 'secret.txt'), join(folder, 'good', 'link.txt'));
  await symlink(join(base, 'elsewhere'), join(folder, 'linked'));
  await symlink(join(base, 'nowhere'), join(folder, 'good', 'broken.txt'));
  const { texts, classes, skipped } = await readSupportFolder(folder);
  expect([texts, classes]).toEqual([['fine'], ['good']]);
  const reasons = Object.fromEntries(skipped.map(({ path, reason }) => [path, reason.split(':')[0]]));
  expect(reasons).toEqual({
    'loose.txt': 'a file outside the class folders',
    blank: 'a class without any text',
    'blank/a.txt': 'no text inside',
    binary: 'a class without any text',
    'binary/a.txt': 'cannot be read',
    empty: 'a class folder without examples',
    'good/b.png': 'not one of .txt',
    'good/deeper': 'a folder inside a class folder',
    'good/link.txt': 'a link that leads out of the folder',
    'good/broken.txt': 'cannot be read',
    linked: 'a link that leads out of the folder',
  });
});

test('images are listed by class', async () => {
  const folder = await write({ 'support/b/2.png': '', 'support/b/1.JPG': '', 'support/a/1.png': '' });
  const { classes, files } = await listClassFolder(folder, ['.png', '.jpg']);
  expect(classes).toEqual(['a', 'b']);
  expect(files).toEqual([[join(folder, 'a/1.png')], [join(folder, 'b/1.JPG'), join(folder, 'b/2.png')]]);
});

test('a folder that is none, is empty or holds one label written in two ways is refused', async () => {
  const folder = await write({ 'support/refund/a.txt': 'x', 'support/refund /a.txt': 'y', 'other/a.txt': 'z' });
  await expect(readSupportFolder(join(base, 'missing'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(readSupportFolder(join(base, 'other/a.txt'))).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  await expect(readSupportFolder(join(base, 'other'))).rejects.toMatchObject({
    code: 'ROWS_EMPTY',
    message: expect.stringContaining('a.txt (a file outside the class folders)'),
  });
  await expect(readSupportFolder(folder)).rejects.toMatchObject({ code: 'LABELS_CONFLICT' });
});
