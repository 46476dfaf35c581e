import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { hostTensor } from '@fewtune/engine';
import { type Encoder, readSafetensors } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { type Adapter, adaptEncoder, adapterScale, applyAdapter, type LoraAdapter, mergeAdapter } from './adapter.js';
import { adapterFiles, adapterFromFiles, readAdapter, writeAdapter } from './peft-files.js';
import { matchesFully } from './python-pattern.js';
import { adapterFolder, constants, hiddenStates, largestDifference, tinyWeights } from './tiny-bert.fixture.js';

const names = [
  'lora',
  'ia3',
  'vera',
  'rslora-patterns',
  'dora',
  'biases-and-norms',
  'embeddings',
  'lora-bias',
  'prompt',
  'prefix',
] as const;
/** These are no change of weights: additions.test.ts computes with them. */
const merged = names.filter((name) => name !== 'prompt' && name !== 'prefix');
const expected = (await readSafetensors(adapterFolder('expected.safetensors'))).tensors;
const golden = (name: string) => expected[name]!.data as Float32Array;
const temporary = () => mkdtemp(join(tmpdir(), 'adapter-'));

/** Hidden states are about 1 in size; two frameworks add in different orders. */
const tolerance = 1e-5;

test.each(merged)(
  'the adapter "%s" computes what Python computed, beside its base and merged into it',
  async (name) => {
    const adapter = await readAdapter(adapterFolder(name));
    const beside = await hiddenStates(tinyWeights, (weights) =>
      applyAdapter(adapter, weights, constants({ ...adapter.weights, ...adapter.saved })),
    );
    expect(largestDifference(beside, golden(name))).toBeLessThan(tolerance);
    const merged = await hiddenStates(mergeAdapter(tinyWeights, adapter));
    expect(largestDifference(merged, golden(name))).toBeLessThan(tolerance);
    expect(largestDifference(await hiddenStates(tinyWeights), golden(name))).toBeGreaterThan(500 * tolerance);
  },
);

describe.each(names)('the adapter "%s" that Python PEFT wrote', (name) => {
  test('is written and read without loss, in the same bytes each time', async () => {
    const adapter = await readAdapter(adapterFolder(name));
    const files = adapterFiles(adapter);
    const again = adapterFromFiles(files);
    expect(again).toEqual(adapter);
    expect(adapterFiles(again)).toEqual(files);
  });
});

const python = process.env.FEWTUNE_PEERS_PYTHON;
test.skipIf(!python)(
  `Python PEFT loads what we write and computes the same${python ? '' : ' (skipped: FEWTUNE_PEERS_PYTHON names no Python)'}`,
  async () => {
    const folder = await temporary();
    for (const name of names) await writeAdapter(join(folder, name), await readAdapter(adapterFolder(name)));
    // The same again as our own training writes it: no targets, so every module by name.
    for (const name of ['dora', 'ia3'] as const) {
      const { targets, ...plain } = await readAdapter(adapterFolder(name));
      expect(targets).toBeDefined();
      await writeAdapter(
        join(folder, `${name}-by-name`),
        plain.method === 'ia3' ? { ...plain, feedforward: undefined } : plain,
      );
    }
    const script = adapterFolder('load-adapters.py');
    const { stdout } = await promisify(execFile)(python!, [script, folder], { maxBuffer: 1 << 26 });
    const found = JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, number[]>;
    for (const name of names) expect(largestDifference(found[name]!, golden(name)), name).toBeLessThan(tolerance);
    for (const name of ['dora', 'ia3']) {
      expect(largestDifference(found[`${name}-by-name`]!, golden(name)), name).toBeLessThan(tolerance);
    }
  },
);

describe('the configuration', () => {
  const minimal: LoraAdapter = {
    method: 'lora',
    rank: 8,
    alpha: 16,
    weights: {
      'encoder.layer.0.attention.self.query.lora_A.weight': hostTensor('float32', [8, 16], new Float32Array(128)),
      'encoder.layer.0.attention.self.query.lora_B.weight': hostTensor('float32', [16, 8], new Float32Array(128)),
    },
  };
  const configOf = (adapter: LoraAdapter) =>
    JSON.parse(new TextDecoder().decode(adapterFiles(adapter).get('adapter_config.json'))) as Record<string, unknown>;

  test('holds the common fields, and others only where they differ from the defaults', () => {
    expect(configOf(minimal)).toEqual({
      peft_type: 'LORA',
      task_type: null,
      base_model_name_or_path: null,
      revision: null,
      inference_mode: true,
      r: 8,
      lora_alpha: 16,
      target_modules: ['encoder.layer.0.attention.self.query'],
    });
    expect(configOf({ ...minimal, rsLora: true, prefix: 'bert.', base: { id: 'b', revision: 'c' } })).toMatchObject({
      use_rslora: true,
      base_model_name_or_path: 'b',
      revision: 'c',
      target_modules: ['bert.encoder.layer.0.attention.self.query'],
    });
    expect(configOf({ ...minimal, rank: 4 }).rank_pattern).toEqual({ 'encoder.layer.0.attention.self.query': 8 });
  });

  test('the prefix of a task model stands in every key of the encoder, and a head has none', () => {
    const head = { 'classifier.weight': hostTensor('float32', [2, 16], new Float32Array(32)) };
    const again = adapterFromFiles(adapterFiles({ ...minimal, prefix: 'bert.', saved: head }));
    expect(again.prefix).toBe('bert.');
    expect(Object.keys(again.weights)).toEqual(Object.keys(minimal.weights));
    expect(Object.keys(again.saved!)).toEqual(['classifier.weight']);
  });

  test('alpha patterns match a whole name or what follows a dot; the first one counts', () => {
    const module = 'encoder.layer.0.attention.self.query';
    const scale = (alphaPattern: Record<string, number>) => adapterScale({ ...minimal, alphaPattern }, module);
    expect(scale({ query: 4 })).toBe(0.5);
    expect(scale({ 'layer.\\d.attention.*': 2, query: 4 })).toBe(0.25);
    expect(scale({ uery: 4, 'encoder.layer.0': 8 })).toBe(2);
    expect(adapterScale({ ...minimal, rsLora: true }, module)).toBeCloseTo(16 / Math.sqrt(8), 12);
  });
});

describe('a folder that is no sound adapter', () => {
  const broken = async (change: (config: Record<string, unknown>) => void, bytes?: (b: Uint8Array) => Uint8Array) => {
    const files = adapterFiles(await readAdapter(adapterFolder('lora')));
    const config = JSON.parse(new TextDecoder().decode(files.get('adapter_config.json'))) as Record<string, unknown>;
    change(config);
    files.set('adapter_config.json', new TextEncoder().encode(JSON.stringify(config)));
    if (bytes) files.set('adapter_model.safetensors', bytes(files.get('adapter_model.safetensors')!));
    return () => adapterFromFiles(files, 'here');
  };
  const unsupported = (message: RegExp) =>
    expect.objectContaining({ code: 'MODEL_UNSUPPORTED', message: expect.stringMatching(message) });
  const code = (name: string) => expect.objectContaining({ code: name });

  test('a kind that is not read is refused by name, the folder of PEFT itself among them', async () => {
    await expect(readAdapter(adapterFolder('adalora'))).rejects.toEqual(unsupported(/peft_type "ADALORA"/));
  });

  test('a field of a newer PEFT that is on is refused by name; one that is off is nothing', async () => {
    expect(
      await broken((config) => {
        config.use_quantum = { depth: 3 };
      }),
    ).toThrow(unsupported(/"use_quantum" is {"depth":3}/));
    expect(
      await broken((config) => {
        config.layer_replication = [[0, 2]];
      }),
    ).toThrow(unsupported(/"layer_replication"/));
    expect(await broken((config) => Object.assign(config, { a: null, b: false, c: {}, d: [] }))).not.toThrow();
    expect(
      await broken((config) => {
        config.init_lora_weights = 'pissa_niter_4';
      }),
    ).toThrow(unsupported(/path_initial_model/));
    expect(
      await broken((config) => {
        config.peft_type = 'BOFT';
      }),
    ).toThrow(unsupported(/"BOFT"/));
    expect(
      await broken((config) => {
        config.r = '8';
      }),
    ).toThrow(/here: adapter_config.json is no PEFT configuration: r:/);
  });

  test('tensors that are cut short, too long, overlapping, missing or unknown', async () => {
    const same = () => {};
    expect(await broken(same, (b) => b.subarray(0, b.length - 4))).toThrow(code('SAFETENSORS_INVALID'));
    expect(await broken(same, (b) => b.subarray(0, 5))).toThrow(code('SAFETENSORS_INVALID'));
    const huge = (b: Uint8Array) => {
      const copy = Uint8Array.from(b);
      new DataView(copy.buffer).setBigUint64(0, 1n << 40n, true);
      return copy;
    };
    expect(await broken(same, huge)).toThrow(/more than the limit/);
    const edited = (from: string, to: string) => (b: Uint8Array) => {
      const text = Buffer.from(b).toString('latin1');
      expect(text).toContain(from);
      return Uint8Array.from(Buffer.from(text.replace(from, to), 'latin1'));
    };
    expect(await broken(same, edited('"data_offsets":[256,512]', '"data_offsets":[252,508]'))).toThrow(/overlaps/);
    expect(await broken(same, edited('query.lora_B.weight', 'query.lora_C.weight'))).toThrow(unsupported(/lora_C/));
    expect(await broken(same, edited('base_model.model.', 'base_model.other.'))).toThrow(/does not begin with/);
    expect(await broken(same, edited('0.attention.self.query.lora_B', '7.attention.self.query.lora_B'))).toThrow(
      /"encoder.layer.0.attention.self.query.lora_B.weight" is missing/,
    );
  });

  test('DoRA of a table of embeddings is refused: its lengths are of columns, not of rows', async () => {
    const adapter = await readAdapter(adapterFolder('embeddings'));
    const magnitude = hostTensor('float32', [16], new Float32Array(16).fill(1));
    const weights = { ...adapter.weights, 'embeddings.word_embeddings.lora_magnitude_vector': magnitude };
    expect(() => adapterFromFiles(adapterFiles({ ...adapter, weights } as LoraAdapter))).toThrow(
      unsupported(/word_embeddings.lora_magnitude_vector" is DoRA/),
    );
  });

  test('a folder without an adapter, a pickle, and a place that holds something else', async () => {
    const folder = await temporary();
    await expect(readAdapter(join(folder, 'absent'))).rejects.toThrow(/no such folder/);
    await mkdir(join(folder, 'english'));
    await expect(readAdapter(folder)).rejects.toThrow(/no PEFT adapter.*english\?/);
    await writeFile(join(folder, 'adapter_config.json'), '{"peft_type":"LORA"}');
    await expect(readAdapter(folder)).rejects.toMatchObject({ code: 'MODEL_CORRUPT' });
    await writeFile(join(folder, 'adapter_model.bin'), 'x');
    await expect(readAdapter(folder)).rejects.toThrow(/a pickle/);
    await expect(
      writeAdapter(join(folder, 'english', '..'), await readAdapter(adapterFolder('lora'))),
    ).resolves.toBeUndefined();
    expect((await readdir(folder)).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const other = await temporary();
    await writeFile(join(other, 'letter.txt'), 'keep me');
    await expect(writeAdapter(other, await readAdapter(adapterFolder('lora')))).rejects.toMatchObject({
      code: 'OUTPUT_UNWRITABLE',
    });
    expect(await readdir(other)).toEqual(['letter.txt']);
  });

  test('patterns that could take for ever are refused before they are tried', () => {
    expect(matchesFully('.*\\.(query|value)', 'a.query')).toBe(true);
    expect(matchesFully('quer', 'query')).toBe(false);
    expect(() => matchesFully('(a+)+b', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')).toThrow(/repeats a group/);
    expect(() => matchesFully('a*b*c*d*e*f*g*h*', 'x')).toThrow(/more than 6/);
    expect(() => matchesFully('(?P<n>x)', 'x')).toThrow(/is not one/);
  });
});

describe('an adapter for another encoder', () => {
  const parts = {
    id: 'tiny',
    config: {},
    hidden: 16,
    layers: 2,
    pooling: 'mean' as const,
    tokenizer: { files: {}, maxLength: 16 },
  };
  const encoder = { ...parts, weights: tinyWeights, fingerprint: 'a'.repeat(64) } as unknown as Encoder;

  test('is refused by names, by sizes and by fingerprint; the right one gives an encoder of its own', async () => {
    const adapter = await readAdapter(adapterFolder('lora'));
    const renamed = Object.fromEntries(
      Object.entries(adapter.weights).map(([name, value]) => [name.replace('self.query', 'self.q'), value]),
    );
    const mismatch = (message: RegExp) =>
      expect.objectContaining({ code: 'ADAPTER_MISMATCH', message: expect.stringMatching(message) });
    expect(() => mergeAdapter(tinyWeights, { ...adapter, weights: renamed })).toThrow(
      mismatch(/adapts encoder.layer.0.attention.self.q, which is not there; near are .*attention.self.query/),
    );
    const name = 'encoder.layer.0.attention.self.query.weight';
    const wide = { ...tinyWeights, [name]: hostTensor('float32', [16, 32], new Float32Array(512)) };
    expect(() => mergeAdapter(wide, adapter)).toThrow(mismatch(/made for a weight \[16, 16\], there it is \[16, 32\]/));
    const other: Adapter = { ...adapter, base: { id: 'mine', fingerprint: 'b'.repeat(64) } };
    expect(() => adaptEncoder(encoder, other)).toThrow(mismatch(/trained on mine .*bbbb…; tiny has aaaa/));
    const kept = adapterFromFiles(adapterFiles({ ...adapter, base: { id: 'tiny', fingerprint: 'a'.repeat(64) } }));
    const adapted = adaptEncoder(encoder, kept);
    expect(adapted.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(adapted.fingerprint).not.toBe(encoder.fingerprint);
    expect(largestDifference(await hiddenStates(adapted.weights), golden('lora'))).toBeLessThan(tolerance);
  });
});
