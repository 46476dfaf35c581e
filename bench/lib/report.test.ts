import { describe, expect, test } from 'vitest';
import { markdown, meets, type Report, row, table } from './report.js';

const machine = { cpu: 'c', cores: 2, memoryGiB: 8, platform: 'p', node: '20', onnxruntime: '1', commit: 'abc' };
const report: Report = {
  bench: 'b',
  date: '2026-01-01',
  command: 'npm run bench -- b',
  machine,
  seeds: [1],
  seconds: 2,
  rows: [row({ what: 'a | b', ours: 0.81234, unit: '', target: '>= 0.8', note: 'n' })],
};

describe('meets', () => {
  test.each([
    ['>= 0.80', 0.8, undefined, true],
    ['>= 0.80', 0.799, undefined, false],
    ['<= 150', 151, undefined, false],
    ['<= 1.25x peer', 125, 100, true],
    ['<= 0.05x peer', 6, 100, false],
    ['> 1x peer', 0.8, 0.8, false],
    ['>= -1.2', -1.1, undefined, true],
    ['> 1x peer', 0.8, null, null],
    ['> 1x peer', 0.8, undefined, null],
    ['>= 0.80', null, undefined, null],
    [null, 0.8, 0.7, null],
  ])('%s of %s against peer %s is %s', (target, ours, peer, expected) => {
    expect(meets(target, ours, peer)).toBe(expected);
  });

  test('a target that cannot be read is an error, not a silent null', () => {
    expect(() => meets('about 3', 3)).toThrow('about 3');
  });
});

test('a row carries its ratio only beside a measured peer', () => {
  expect(row({ what: 'w', ours: 3, unit: 's', peer: 2, peerName: 'p', target: null }).ratio).toBe(1.5);
  expect(row({ what: 'w', ours: 3, unit: 's', peer: null, target: null })).not.toHaveProperty('ratio');
});

test('tables carry figures, verdict and note', () => {
  expect(table(report)).toContain('yes');
  expect(table(report)).toContain('    n');
  expect(markdown(report)).toContain('| a \\| b | 0.8123 |  | – | – | >= 0.8 | yes | n |');
});
