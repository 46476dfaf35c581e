import fc from 'fast-check';
import { expect, test } from 'vitest';
import { classFolds, classSplit, splitClasses, splitClassGroups } from './class-split.js';
import { metaDataset } from './meta-dataset.js';

const names = (count: number) => Array.from({ length: count }, (_, i) => `class ${i}`);
const refusal = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

test('parts are disjoint, of the sizes asked for, and the same for any order of the classes', () => {
  const sizes = fc.tuple(fc.nat(10), fc.nat(10), fc.integer({ min: 1, max: 10 }));
  fc.assert(
    fc.property(sizes, fc.nat(5), fc.integer(), ([train, validation, test], spare, seed) => {
      const classes = names(train + validation + test + spare);
      const split = splitClasses(classes, { train, validation, test }, seed);
      expect([split.train.length, split.validation.length, split.test.length]).toEqual([train, validation, test]);
      const all = [...split.train, ...split.validation, ...split.test];
      expect(new Set(all).size).toBe(all.length);
      expect(classes).toEqual(expect.arrayContaining(all));
      expect(splitClasses([...classes].reverse(), { train, validation, test }, seed)).toEqual(split);
    }),
  );
});

test('fractions that sum to 1 use every class; another seed gives another split', () => {
  const split = splitClasses(names(50), { train: 0.6, validation: 0.1, test: 0.3 }, 1);
  expect([split.train.length, split.validation.length, split.test.length]).toEqual([30, 5, 15]);
  expect(splitClasses(names(50), { train: 0.6, validation: 0.1, test: 0.3 }, 2)).not.toEqual(split);
});

test('sizes that do not fit are refused', () => {
  expect(() => splitClasses(names(5), { train: 4, test: 2 }, 0)).toThrow(refusal('OPTION_INVALID', /only 5 classes/));
  expect(() => splitClasses(names(5), { train: 0.9, test: 0.2 }, 0)).toThrow(refusal('OPTION_INVALID', /more than 1/));
  expect(() => splitClasses(names(5), { train: 0.97, test: 0.03 }, 0)).toThrow(
    refusal('OPTION_INVALID', /test would get none/),
  );
  expect(() => splitClasses(names(5), { train: -1 }, 0)).toThrow(refusal('OPTION_INVALID', /numbers from 0/));
});

const composed = 'caf\u00e9';
const decomposed = 'cafe\u0301';

test('a class in two parts is named, also when it is written in another Unicode form or with blanks around it', () => {
  expect(() => classSplit({ train: ['a', 'b'], test: ['c', 'b'] })).toThrow(
    refusal('OPTION_INVALID', /class "b" is in both train and test/),
  );
  expect(() => classSplit({ train: [composed], valid: [`${decomposed} `] })).toThrow(
    refusal('OPTION_INVALID', /in both train and validation/),
  );
  expect(() => classSplit({ train: ['a', 'a'] })).toThrow(refusal('OPTION_INVALID', /twice in train/));
  expect(() => classFolds({ '01': { train: ['a'], test: ['a'] } })).toThrow(
    refusal('OPTION_INVALID', /fold "01": class "a"/),
  );
  expect(() => classFolds({ '01': { train: 'a' } })).toThrow(refusal('OPTION_INVALID', /fold "01": expected/));
  expect(() => classSplit({ train: ['a', 'z'] }, ['a', 'b'])).toThrow(refusal('LABEL_UNKNOWN', /"z"/));
});

test('folds take the spelling of the data', () => {
  const folds = classFolds({ '01': { train: [decomposed], valid: ['b'], test: [' c'] } }, [composed, 'b', 'c']);
  expect(folds.get('01')).toEqual({ train: [composed], validation: ['b'], test: ['c'] });
});

test('two labels that differ in Unicode form alone are reported with the difference visible', () => {
  const twice = () => splitClasses([composed, decomposed], { train: 1, test: 1 }, 0);
  expect(twice).toThrow(refusal('LABELS_CONFLICT', /"caf\\u00e9" and "cafe\\u0301"/));
  const dataset = { texts: ['x', 'y'], labels: [composed, decomposed], classes: [composed, decomposed] };
  expect(() => metaDataset(dataset, { train: [composed] })).toThrow(refusal('LABELS_CONFLICT', /one label/));
});

test('a table becomes sources with labels of their own, rows of other classes left out', () => {
  const labels = ['b', 'a', composed, 'd', 'b', 'a'];
  const dataset = { texts: ['t0', 't1', 't2', 't3', 't4', 't5'], labels, classes: ['a', 'b', composed, 'd'] };
  const meta = metaDataset(dataset, { train: ['b', decomposed], test: ['a'] });
  expect(meta).toEqual({
    train: { texts: ['t0', 't2', 't4'], labels: Int32Array.of(0, 1, 0), classes: ['b', composed] },
    validation: { texts: [], labels: new Int32Array(0), classes: [] },
    test: { texts: ['t1', 't5'], labels: Int32Array.of(0, 0), classes: ['a'] },
  });
});

test('groups are never divided', () => {
  const classes = ['Greek/a', 'Greek/b', 'Latin/a', 'Korean/a', 'Korean/b', 'Korean/c', 'alone'];
  const alphabet = (name: string) => name.split('/')[0];
  for (let seed = 0; seed < 20; seed++) {
    const { train, test } = splitClassGroups(classes, { train: 2, test: 2 }, seed);
    const [seen, unseen] = [new Set(train.map(alphabet)), new Set(test.map(alphabet))];
    expect([seen.size, unseen.size, new Set([...seen, ...unseen]).size]).toEqual([2, 2, 4]);
    expect([...train, ...test].sort()).toEqual([...classes].sort());
  }
  const byEnd = splitClassGroups(classes, { train: 0.5, test: 0.5 }, 1, (name) => name.slice(-1));
  expect(byEnd.train.length + byEnd.test.length).toBe(classes.length);
  expect(() => splitClassGroups(classes, { train: 5 }, 1)).toThrow('only 4 classes');
});
