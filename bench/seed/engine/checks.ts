import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { say } from '../../lib/bench.js';
import { repository } from '../../lib/paths.js';
import { type Row, row } from '../../lib/report.js';
import type { Part } from './part.js';

/** The engine's tests of gradients and of bad input, with the large counts, and how many of them pass. */
export const checks: Part = {
  name: 'checks',
  async run({ quick }) {
    return [
      ...(quick ? [] : await gradients()), // ten seconds, and among the tests anyway
      ...(await fuzz('FUZZ_PROGRAMS', quick ? 50 : 5000, 'random programs against finite differences')),
      ...(await fuzz(
        'FUZZ_MUTATIONS',
        quick ? 100 : 10_000,
        'mutations of ONNX files: a clear error or a sound model',
      )),
    ];
  },
};

async function gradients(): Promise<Row[]> {
  const tests = await runTests(['packages/engine/test/gradients.test.ts']);
  const none = Object.entries(
    JSON.parse(readFileSync(path.join(repository, 'packages/engine/test/results/gradient.json'), 'utf8')) as Record<
      string,
      string
    >,
  ).filter(([, outcome]) => outcome !== 'yes');
  const groups = [
    ['first order', 'gradients agree with central differences'],
    ['second order', 'gradients of gradients agree with central differences'],
  ] as const;
  return groups.map(([order, title]) => {
    const cases = tests.filter(
      ({ ancestorTitles, title: own }) => ancestorTitles[0] === title && !/recorded/.test(own),
    );
    return row({
      what: `cases of the operator catalogue, gradient of ${order} against finite differences`,
      ours: cases.filter(({ status }) => status === 'passed').length,
      unit: `of ${cases.length}`,
      target: `>= ${cases.length}`,
      note: `${none.length} more cases have no gradient: ${[...new Set(none.map(([, outcome]) => outcome.replace(/^no: /, '')))].join(', ')}`,
    });
  });
}

/** Tests that take their count from an environment variable, with that count. */
async function fuzz(variable: string, count: number, about: string): Promise<Row[]> {
  const folder = path.join(repository, 'packages/engine/test');
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts') && readFileSync(path.join(folder, name), 'utf8').includes(variable))
    .map((name) => `packages/engine/test/${name}`);
  if (files.length === 0) return [];
  const began = performance.now();
  const tests = await runTests(files, { [variable]: String(count) });
  const passed = tests.filter(({ status }) => status === 'passed').length;
  return [
    row({
      what: `${count} ${about}: tests passed`,
      ours: passed,
      unit: `of ${tests.length}`,
      target: `>= ${tests.length}`,
      note: `${variable}=${count}, ${((performance.now() - began) / 1000).toFixed(0)} s`,
    }),
  ];
}

interface TestResult {
  readonly title: string;
  readonly ancestorTitles: readonly string[];
  readonly status: 'passed' | 'failed' | 'skipped' | 'pending' | 'todo';
  readonly failureMessages: readonly string[];
}

/** Runs test files; failures are results, not errors. */
async function runTests(files: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<TestResult[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
  const report = path.join(folder, 'report.json');
  const vitest = path.join(path.dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  try {
    const child = spawn(
      process.execPath,
      [vitest, 'run', ...files, '--reporter=json', `--outputFile=${report}`, '--testTimeout=600000'],
      { cwd: repository, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, ...env } },
    );
    await new Promise((resolve, reject) => {
      child.once('error', reject).once('close', resolve);
    });
    const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as {
      testResults: { assertionResults: TestResult[] }[];
    };
    const results = testResults.flatMap(({ assertionResults }) => assertionResults);
    for (const { title, status, failureMessages } of results) {
      if (status === 'failed') say(`failed: ${title}: ${failureMessages[0]?.slice(0, 400)}`);
    }
    return results.filter(({ status }) => status === 'passed' || status === 'failed');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
