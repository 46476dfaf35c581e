import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FewtuneError } from '../errors.js';
import { requireTrainable, toLabelled } from './dataset.js';
import { readTable, readTexts } from './read-table.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-read-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let next = 0;
async function write(content: string | Buffer, name = 'data.csv'): Promise<string> {
  const path = join(folder, String(next++), name);
  await mkdir(join(path, '..'));
  await writeFile(path, content);
  return path;
}

async function failure(promise: Promise<unknown>): Promise<FewtuneError> {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(FewtuneError);
  return error as FewtuneError;
}

describe('cells stay as written', () => {
  test('labels that look like numbers, nulls and prototypes', async () => {
    const labels = ['01', 'NULL', '__proto__', 'constructor', 'toString', '1.0', 'true', '2026-01-01', '名前'];
    const file = await write(`text,label\n${labels.map((label, i) => `row ${i},${label}`).join('\n')}\n`);
    const data = await readTable(file);
    expect(data.labels).toEqual(labels);
    expect([...toLabelled(data).labels].map((i) => data.classes[i])).toEqual(labels);
  });

  test('any text and label survive CSV, whatever quotes, delimiters and line breaks they hold', async () => {
    const cell = fc
      .string({
        unit: fc.constantFrom('a', 'b', ' ', '"', ',', ';', '\n', '\r\n', '\t', '|', 'é', '#', "'", '\\', '0'),
      })
      .map((s) => s.trim())
      .filter((s) => s !== '');
    const table = fc.uniqueArray(fc.tuple(cell, cell), { minLength: 1, maxLength: 12, selector: ([text]) => text });
    const quote = (s: string) => `"${s.replaceAll('"', '""')}"`;
    await fc.assert(
      fc.asyncProperty(table, fc.constantFrom('\n', '\r\n'), fc.constantFrom(',', ';', '\t'), async (rows, end, by) => {
        const lines = rows.map(([text, label]) => quote(text) + by + quote(label) + end);
        const data = await readTable(await write(`text${by}label${end}${lines.join('')}`));
        expect(data.texts).toEqual(rows.map(([text]) => text));
        expect(data.labels).toEqual(rows.map(([, label]) => label));
        const before = (i: number) =>
          lines
            .slice(0, i)
            .join('')
            .split(/\r\n|\n|\r/).length - 1;
        expect(data.lines).toEqual(rows.map((_, i) => 2 + before(i)));
      }),
      { numRuns: 40, seed: 7 },
    );
  });

  test('a byte order mark is no part of the first column', async () => {
    const data = await readTable(await write('\ufefftext,label\na b,x\nc d,y\n'));
    expect(data.texts).toEqual(['a b', 'c d']);
    expect(data.repairs).toEqual([]);
  });

  test('quotes inside an unquoted cell, spaces before a quote, mixed line breaks and blank lines', async () => {
    const data = await readTable(await write('text,label\r\na 5" disk,x\n\n"b, c", "y"\r\n   \r\nd,z'));
    expect(data.texts).toEqual(['a 5" disk', 'b, c', 'd']);
    expect(data.labels).toEqual(['x', 'y', 'z']);
    expect(data.lines).toEqual([2, 4, 6]);
  });
});

describe('formats', () => {
  const rows = [
    { text: 'hello "you"', label: '01' },
    { text: 'line\nbreak', label: '__proto__' },
  ];
  const expected = { texts: rows.map((r) => r.text), labels: rows.map((r) => r.label) };

  test('JSONL, with its own line numbers and keys in any order', async () => {
    const file = await write(`{"label":"01","text":"hello \\"you\\""}\n\n${JSON.stringify(rows[1])}\n`, 'a.jsonl');
    const data = await readTable(file);
    expect(data).toMatchObject({ ...expected, lines: [1, 3] });
  });

  test('JSON array; numbers as written', async () => {
    expect(await readTable(await write(JSON.stringify(rows, null, 2), 'a.json'))).toMatchObject(expected);
    const numbers = await readTable(await write('[{"text":"a","label":1.0},{"text":"b","label":2}]', 'b.json'));
    expect(numbers.labels).toEqual(['1.0', '2']);
  });

  test('a byte order mark before JSON, and blank lines above a CSV header', async () => {
    expect(await readTable(await write(`\ufeff${JSON.stringify(rows)}`, 'a.json'))).toMatchObject(expected);
    expect(
      await readTable(await write(`\ufeff${rows.map((r) => JSON.stringify(r)).join('\n')}`, 'a.jsonl')),
    ).toMatchObject(expected);
    expect(await readTable(await write('\n  \ntext;label\na, b;x\n'))).toMatchObject({ texts: ['a, b'], lines: [4] });
  });

  test('JSON keys with quotes and slashes', async () => {
    const file = await write('{"a/b~\\"c":"hello","$.x":"y"}\n', 'a.jsonl');
    expect(await readTable(file, { text: 'a/b~"c', label: '$.x' })).toMatchObject({ texts: ['hello'], labels: ['y'] });
  });

  test('Parquet, with a column name that would be SQL', async () => {
    const path = join(folder, 'a.parquet');
    const instance = await DuckDBInstance.create(':memory:');
    const connection = await instance.connect();
    await connection.run(
      `COPY (SELECT * FROM (VALUES ('hello "you"', '01'), ('line' || chr(10) || 'break', '__proto__')) t(text, "la""bel; DROP")) TO '${path}' (FORMAT parquet)`,
    );
    connection.closeSync();
    instance.closeSync();
    expect(await readTable(path, { label: 'la"bel; DROP' })).toMatchObject(expected);
  });

  test('TSV; and file names that DuckDB would take for a pattern or SQL', async () => {
    expect(await readTable(await write('text\tlabel\na, b\tx\n', 'a.tsv'))).toMatchObject({ texts: ['a, b'] });
    for (const name of ['a*.csv', "it's;--.csv", 'a[1].csv', '{x}?.csv']) {
      expect(await readTable(await write('text,label\na,x\n', name))).toMatchObject({ labels: ['x'] });
    }
  });

  test('texts alone: one column whose sentences hold commas, and plain lines; repeats stay', async () => {
    expect((await readTexts(await write('text\nWell, yes\n"No, ""no"""\nWell, yes\n'))).texts).toEqual([
      'Well, yes',
      'No, "no"',
      'Well, yes',
    ]);
    const list = await readTexts(await write('one\n\n two \r\n', 'a.txt'));
    expect(list).toMatchObject({ texts: ['one', 'two'], lines: [1, 3] });
    expect(list.repairs).toMatchObject([{ kind: 'blank-text', count: 1 }]);
  });
});

describe('columns', () => {
  test('recognised names, in any case; the better known one wins', async () => {
    const data = await readTable(await write('id,Title,Text,label,Label_Text\n1,t,a,0,zero\n'));
    expect(data).toMatchObject({ texts: ['a'], labels: ['zero'] });
  });

  test('an unknown column lists what there is and what may have been meant', async () => {
    const error = await failure(readTable(await write('message,intent\na,x\n'), { text: 'mesage' }));
    expect(error.code).toBe('COLUMN_UNKNOWN');
    expect(error.message).toMatch(/no column "mesage".*Did you mean "message"\?.*"message", "intent"/);
    const none = await failure(readTable(await write('foo,bar\na,x\n')));
    expect(none.code).toBe('COLUMN_UNKNOWN');
    expect(none.message).toMatch(/--text/);
  });

  test('two that could be meant are ambiguous', async () => {
    const error = await failure(readTable(await write('review,message,label\na,b,x\n')));
    expect(error.code).toBe('COLUMN_AMBIGUOUS');
    expect(error.message).toMatch(/"review", "message".*--text/);
    expect((await failure(readTable(await write('text,text,label\na,b,x\n'), { text: 'text' }))).code).toBe(
      'COLUMN_AMBIGUOUS',
    );
  });
});

describe('bad input', () => {
  test.each([
    ['missing file', () => Promise.resolve('/no/such/file.csv'), 'FILE_NOT_FOUND', /file\.csv/],
    ['a folder', () => Promise.resolve(folder), 'FILE_UNREADABLE', /folder/],
    ['an empty file', () => write(''), 'ROWS_EMPTY', /empty/],
    ['white space only', () => write('\n  \n'), 'ROWS_EMPTY', /blank/],
    ['a header alone', () => write('text,label\n'), 'ROWS_EMPTY', /no rows/],
    ['all texts blank', () => write('text,label\n" ",x\n,y\n'), 'TEXT_BLANK', /2 rows/],
    ['no label at all', () => write('text,label\na,\nb,\n'), 'ROWS_EMPTY', /label/],
    ['a format we do not read', () => write('x', 'a.xlsx'), 'FORMAT_UNKNOWN', /\.xlsx.*\.csv/],
    [
      'a picture',
      () => write(Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 0, 0]), 'a.csv'),
      'FILE_UNREADABLE',
      /zero bytes/,
    ],
    [
      'too many fields',
      () => write('text,label\na,x\nb, c,y\n'),
      'FILE_UNREADABLE',
      /:3: 3 fields where the header names 2/,
    ],
    ['too few fields', () => write('text,label\n"a\nb",x\nc\n'), 'FILE_UNREADABLE', /:4: 1 field where/],
    ['an open quote', () => write('text,label\na,x\n"b,y\nc,z\n'), 'FILE_UNREADABLE', /:3: a quote is opened/],
    ['a quote in a quote', () => write('text,label\n"a "b" c",x\n'), 'FILE_UNREADABLE', /:2: text follows/],
    ['broken JSON', () => write('{"text":"a","label":"x"}\n{"text":\n', 'a.jsonl'), 'FILE_UNREADABLE', /a\.jsonl:2/],
    ['JSON that holds no objects', () => write('[1, 2]', 'a.json'), 'FILE_UNREADABLE', /object/],
    ['no JSON objects', () => write('[]', 'a.json'), 'ROWS_EMPTY', /no objects/],
    ['no Parquet', () => write('text,label\n', 'a.parquet'), 'FILE_UNREADABLE', /a\.parquet/],
  ] as const)('%s', async (_, file, code, message) => {
    const error = await failure(readTable(await file()));
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
    expect(error.kind).toBe('input');
  });

  test('a cell of 5 MB names its row and column, in every format', async () => {
    const big = 'a'.repeat(5_000_000);
    for (const file of [
      await write(`text,label\nb,x\n${big},y\n`),
      await write(`{"text":"b","label":"x"}\n{"text":"${big}","label":"y"}\n`, 'a.jsonl'),
    ]) {
      const error = await failure(readTable(file));
      expect(error.code).toBe('CELL_TOO_LARGE');
      expect(error.message).toMatch(/text column of row 2 holds 5000000 characters/);
    }
  });

  test('an aborted signal interrupts', async () => {
    const file = await write('text,label\na,x\n');
    expect((await failure(readTable(file, { signal: AbortSignal.abort() }))).code).toBe('INTERRUPTED');
  });
});

describe('stated remedies', () => {
  test('Latin-1 bytes are read as what they are and counted', async () => {
    const data = await readTable(await write(Buffer.from('text,label\nna\u00efve caf\u00e9,x\nplain,y\n', 'latin1')));
    expect(data.texts).toEqual(['naïve café', 'plain']);
    expect(data.repairs).toMatchObject([{ kind: 'encoding', count: 1, examples: ['line 2'] }]);
  });

  test('Latin-1 in JSON and in plain lines', async () => {
    const json = Buffer.from('{"text":"plain","label":"x"}\n{"text":"caf\u00e9","label":"y"}\n', 'latin1');
    const data = await readTable(await write(json, 'a.jsonl'));
    expect(data.texts).toEqual(['plain', 'café']);
    expect(data.repairs).toMatchObject([{ kind: 'encoding', count: 1, examples: ['line 2'] }]);
    expect((await readTexts(await write(Buffer.from('caf\u00e9\n', 'latin1'), 'a.txt'))).texts).toEqual(['café']);
  });

  test('UTF-16 as Excel writes it', async () => {
    const data = await readTable(await write(Buffer.from('\ufefftext\tlabel\ncafé\tx\n', 'utf16le'), 'a.tsv'));
    expect(data.texts).toEqual(['café']);
  });

  test('empty fields beyond the last column', async () => {
    const data = await readTable(await write('text,label\na,x,,\nb,y\n'));
    expect(data).toMatchObject({ texts: ['a', 'b'], labels: ['x', 'y'] });
    expect(data.repairs).toMatchObject([{ kind: 'trailing-fields', count: 1 }]);
  });

  test('blank texts, missing labels, repeats and contradictions', async () => {
    const rows = ['  ,x', 'a,', 'b,x', 'b,x', 'c,x', 'c,y', ...Array.from({ length: 10 }, (_, i) => `t${i},y`)];
    const data = await readTable(await write(`text,label\n${rows.join('\n')}\n`));
    expect(data.texts).toEqual(['b', ...Array.from({ length: 10 }, (_, i) => `t${i}`)]);
    expect(Object.fromEntries(data.repairs.map(({ kind, count }) => [kind, count]))).toEqual({
      'blank-text': 1,
      'missing-label': 1,
      'duplicate-row': 1,
      'contradicting-labels': 2,
    });
    expect(data.repairs.at(-1)!.examples.join()).toMatch(/line 6: "c" is labelled "x", "y"/);
  });

  test('a test set keeps repeats and contradictions', async () => {
    const file = await write('text,label\na,x\na,x\na,y\n,x\n');
    const data = await readTable(file, { purpose: 'test' });
    expect(data).toMatchObject({ texts: ['a', 'a', 'a'], labels: ['x', 'x', 'y'] });
    expect(data.repairs.map(({ kind }) => kind)).toEqual(['blank-text']);
  });

  test('when more than a fifth of the rows contradict each other, a label is wrong altogether', async () => {
    const error = await failure(readTable(await write('text,label\na,x\na,y\nb,x\nb,y\nc,x\n')));
    expect(error.code).toBe('LABELS_CONFLICT');
    expect(error.message).toMatch(/4 of 5 rows.*line 2/);
  });
});

describe('what can be trained', () => {
  test('one class only, and classes with one example', async () => {
    const single = await readTable(await write('text,label\na,x\nb,x\n'));
    expect(() => requireTrainable(single)).toThrow(expect.objectContaining({ code: 'CLASS_SINGLE' }));
    const small = await readTable(await write('text,label\na,x\nb,x\nc,__proto__\n'));
    expect(() => requireTrainable(small)).toThrow(/"__proto__" \(1\)/);
    expect(() => requireTrainable(small)).toThrow(expect.objectContaining({ code: 'CLASS_TOO_SMALL' }));
  });
});
