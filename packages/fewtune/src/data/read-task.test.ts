import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ReadTaskOptions, readTask } from './read-task.js';
import { takeTaskRows } from './task-dataset.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'read-task-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function read(name: string, content: string, options: ReadTaskOptions) {
  const file = join(folder, name);
  await writeFile(file, content);
  return readTask(file, options);
}

describe('several labels', () => {
  test('JSON arrays, or a separator; a blank cell is none', async () => {
    const options = { task: 'multi-label', label: 'topics' } as const;
    const csv = await read('a.csv', 'text,topics\none,a|b\ntwo,\nthree," b | b"\nfour,"[""c"", ""a""]"\n', options);
    expect(csv.targets).toEqual({
      kind: 'multi-label',
      labels: [['a', 'b'], [], ['b'], ['c', 'a']],
      classes: ['a', 'b', 'c'],
    });
    const jsonl = await read('a.jsonl', '{"text":"one","topics":["x","y z"]}\n{"text":"two","topics":[]}\n', options);
    expect(jsonl.targets).toMatchObject({ labels: [['x', 'y z'], []], classes: ['x', 'y z'] });
    const other = await read('b.csv', 'text,topics\none,a;b\n', { ...options, separator: ';' });
    expect(other.targets).toMatchObject({ labels: [['a', 'b']] });
    expect(takeTaskRows(csv, [3, 0])).toMatchObject({
      texts: ['four', 'one'],
      targets: {
        labels: [
          ['c', 'a'],
          ['a', 'b'],
        ],
      },
    });
  });

  test('what is no list of labels is named with its line', async () => {
    const options = { task: 'multi-label', label: 'topics' } as const;
    await expect(read('c.csv', 'text,topics\none,a\ntwo,[a\n', options)).rejects.toMatchObject({
      code: 'TARGET_INVALID',
      message: expect.stringMatching(/c\.csv:3: column "topics": "\[a" begins like a JSON array/),
    });
    await expect(read('d.jsonl', '{"text":"one","topics":[1]}', options)).rejects.toThrow(/d\.jsonl:1: .*holds 1/);
    await expect(read('e.csv', 'text,topics\none,\n', options)).rejects.toThrow(/no row has a label/);
  });
});

describe('values and grades', () => {
  test('numbers, and what is none', async () => {
    const options = { task: 'regression', label: 'stars' } as const;
    const data = await read('f.csv', 'text,stars\none,3\ntwo,-1.5e1\none,3\none,4\nthree,\n', options);
    expect(data.targets).toEqual({ kind: 'regression', values: [3, -15, 4], name: 'stars' });
    expect(data.repairs.map(({ kind, count }) => [kind, count])).toEqual([
      ['duplicate-row', 1],
      ['missing-label', 1],
    ]);
    await expect(read('g.csv', 'text,stars\none,"3,5"\n', options)).rejects.toThrow(
      /g\.csv:2: column "stars": "3,5" is no number\. Write a point/,
    );
  });

  test('an order is seen in numbers, or given', async () => {
    const csv = 'text,label\none,10\ntwo,9\n';
    expect((await read('h.csv', csv, { task: 'ordinal' })).targets).toMatchObject({ classes: ['9', '10'] });
    const words = 'text,label\none,low\ntwo,high\n';
    await expect(read('i.csv', words, { task: 'ordinal' })).rejects.toThrow(/"high" is no number.*--order/);
    const order = ['low', 'middle', 'high'];
    expect((await read('i.csv', words, { task: 'ordinal', order })).targets).toMatchObject({ classes: order });
    await expect(read('i.csv', words, { task: 'ordinal', order: ['low'] })).rejects.toThrow(
      /i\.csv:3: the grade "high"/,
    );
  });
});

test('pairs of texts from two columns, of CSV and JSONL', async () => {
  const options = { task: 'classification', text: 'first', pair: 'second', label: 'same' } as const;
  const csv = await read('j.csv', 'second,same,first\nb,yes,a\n,no,c\nb,yes,a\nd,no,a\n', options);
  expect(csv).toMatchObject({
    texts: ['a', 'a'],
    pairs: ['b', 'd'],
    lines: [2, 5],
    targets: { labels: ['yes', 'no'] },
  });
  const jsonl = await read('j.jsonl', '{"first":"a","second":"b","same":"yes"}\n', options);
  expect(jsonl).toMatchObject({ texts: ['a'], pairs: ['b'] });
  await expect(read('j.csv', 'first,second,same\na,b,c\n', { ...options, pair: 'secnd' })).rejects.toThrow(
    /Did you mean "second"/,
  );
});

describe('entities', () => {
  const options = { task: 'tokens' } as const;
  const row = (entities: unknown) => `${JSON.stringify({ text: 'Ada met Bob', entities })}\n`;

  test('JSONL', async () => {
    const found = [
      { start: 8, end: 11, label: 'PER' },
      { start: 0, end: 3, label: 'PER' },
    ];
    const data = await read('k.jsonl', `\n${row(found)}{"text":"nobody"}\n`, options);
    expect(data).toMatchObject({
      texts: ['Ada met Bob', 'nobody'],
      lines: [2, 3],
      targets: { entities: [[{ start: 0 }, { start: 8 }], []], classes: ['PER'] },
    });
  });

  test.each([
    [
      [{ start: 0, end: 12, label: 'P' }],
      /l\.jsonl:1: entities: the span \[0, 12\) "P" does not lie in the text, which has 11/,
    ],
    [
      [
        { start: 0, end: 5, label: 'P' },
        { start: 4, end: 7, label: 'Q' },
      ],
      /l\.jsonl:1: .*\[0, 5\) "P" "Ada m" and \[4, 7\) "Q" "met" overlap/,
    ],
    [[{ start: 3, end: 4, label: 'P' }], /white space only/],
    [[{ start: 0, end: 3 }], /entities\[0\] is .*a start, an end and a label/],
    [[{ start: 1.5, end: 3, label: 'P' }], /does not lie/],
  ])('%j is refused with its place', async (entities, message) => {
    await expect(read('l.jsonl', row(entities), options)).rejects.toMatchObject({
      code: 'SPAN_INVALID',
      message: expect.stringMatching(message),
    });
  });

  test('what is no row of entities', async () => {
    await expect(read('m.jsonl', '{"text":1}\n', options)).rejects.toThrow(/m\.jsonl:1: expected an object such as/);
    await expect(read('m.jsonl', '{"text":"a"}\n{\n', options)).rejects.toThrow(/m\.jsonl:2: this is not valid JSON/);
    await expect(read('m.csv', 'text\n', options)).rejects.toMatchObject({ code: 'FORMAT_UNKNOWN' });
    await expect(read('n.jsonl', '{"text":"a"}\n', options)).rejects.toThrow(/no text has an entity/);
    await expect(readTask(join(folder, 'absent.jsonl'), options)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  test('CoNLL: tabs or spaces, several sentences, IOB1 and IOBES', async () => {
    const file =
      '-DOCSTART- -X- O\n\nAda\tB-PER\nKing\tI-PER\n,\tO\r\n\r\nin NNP I-LOC\nNew S-LOC\nYork B-LOC\nCity E-LOC\n\n\n';
    const data = await read('o.conll', file, options);
    expect(data.texts).toEqual(['Ada King ,', 'in New York City']);
    expect(data.lines).toEqual([3, 7]);
    expect(data.targets).toMatchObject({
      entities: [
        [{ start: 0, end: 8, label: 'PER' }],
        [
          { start: 0, end: 2, label: 'LOC' },
          { start: 3, end: 6, label: 'LOC' },
          { start: 7, end: 16, label: 'LOC' },
        ],
      ],
    });
    expect(data.repairs).toMatchObject([{ kind: 'begun-inside', count: 1, examples: ['line 7: I-LOC'] }]);
  });

  test('CoNLL: what is no tag is named with line and column', async () => {
    await expect(read('p.conll', 'Ada\tB-PER\nKing\n', options)).rejects.toThrow(/p\.conll:2: "King" has no tag/);
    await expect(read('p.conll', 'Ada\tPER\n', options)).rejects.toThrow(/p\.conll:1:5: the tag "PER" of "Ada"/);
  });
});
