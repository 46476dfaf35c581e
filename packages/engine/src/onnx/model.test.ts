import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { decode, encode, type Message } from './wire.js';

const inner: Message = {
  name: 'Inner',
  fields: { text: { number: 1, type: 'string' }, raw: { number: 2, type: 'bytes' } },
};
const outer: Message = {
  name: 'Outer',
  fields: {
    whole: { number: 1, type: 'int' },
    big: { number: 2, type: 'bigint', repeated: true },
    single: { number: 3, type: 'float' },
    doubles: { number: 4, type: 'double', repeated: true },
    children: { number: 40, type: inner, repeated: true },
  },
};

describe('the wire format', () => {
  const child = fc.record({ text: fc.string(), raw: fc.uint8Array() });
  const message = fc.record({
    whole: fc.integer(),
    big: fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { minLength: 1 }),
    single: fc.float({ noNaN: true }),
    doubles: fc.array(fc.double({ noNaN: true }), { minLength: 1 }),
    children: fc.array(child, { minLength: 1 }),
  });

  test('what is written is read back', () => {
    fc.assert(
      fc.property(message, (value) => {
        expect(decode(outer, encode(outer, value))).toEqual(value);
      }),
    );
  });

  test('pieces of every size are written whole, wherever a block ends', () => {
    for (const size of [1, 7, 63, 1000, 4096, 4097, 70_000]) {
      const raw = Uint8Array.from({ length: size }, (_, i) => i + size);
      const children = Array.from({ length: Math.ceil(200_000 / size / 4) }, (_, i) => ({ text: `é${i}`, raw }));
      const written = encode(outer, { children });
      expect(Buffer.compare(written, encode(outer, decode(outer, written)))).toBe(0);
      const back = decode(outer, written).children as { raw: Uint8Array }[];
      expect(back.every((child) => Buffer.compare(child.raw, raw) === 0)).toBe(true);
    }
  });

  test('fields that the table does not know survive', () => {
    fc.assert(
      fc.property(message, (value) => {
        const partial: Message = { name: 'Partial', fields: { single: outer.fields.single! } };
        const again = encode(partial, decode(partial, encode(outer, value)));
        expect(decode(outer, again)).toEqual(value);
      }),
    );
  });

  test('bytes that end early are an error with a code, never a crash', () => {
    fc.assert(
      fc.property(message, fc.nat(), (value, cut) => {
        const bytes = encode(outer, value);
        try {
          decode(outer, bytes.subarray(0, cut % bytes.length));
        } catch (error) {
          expect(error).toMatchObject({ code: 'ONNX_INVALID' });
        }
      }),
    );
  });
});

describe('ONNX files', () => {
  const weight = e.hostTensor('float32', [3, 2], [1, 2, 3, 4, 5, 6]);
  const bytes = e.exportOnnx(
    ({ x }) => ({ y: e.softmax(e.linear(e.gelu(x!), e.constant(weight, 'head.weight'))) }),
    { x: { dtype: 'float32', shape: ['batch', 2] } },
    { metadata: { maker: 'test' } },
  );

  test('keep names, symbols and metadata through a round trip, and still run', async () => {
    const model = e.readOnnx(bytes);
    expect(model.graph.input.map(({ name }) => name)).toEqual(['x']);
    expect(model.graph.input[0]!.type!.tensorType!.shape!.dim![0]).toEqual({ dimParam: 'batch' });
    expect(model.metadataProps).toEqual([{ key: 'maker', value: 'test' }]);
    const stored = model.graph.initializer!.find(({ name }) => name === 'head.weight')!;
    expect(e.fromOnnxTensor(stored)).toEqual(weight);
    const session = await e.openOnnx(e.writeOnnx(model));
    expect(session.inputs).toEqual(['x']);
    const { y } = await session.run({ x: e.hostTensor('float32', [1, 2], [0.5, -1]) });
    expect([...(y!.data as Float32Array)].reduce((a, b) => a + b)).toBeCloseTo(1, 6);
    await session.dispose();
  });

  test('names that others read are kept, whatever is in between is called', async () => {
    const file = e.exportOnnx(
      ({ v0 }) => {
        const square = e.mul(v0!, v0!);
        return { v1: e.add(square, 1), v2: square, again: square, same: v0! };
      },
      { v0: { dtype: 'float32', shape: [1] } },
    );
    const session = await e.openOnnx(file);
    const found = await session.run({ v0: e.hostTensor('float32', [1], [3]) });
    expect(Object.fromEntries(Object.entries(found).map(([name, { data }]) => [name, data[0]]))).toEqual({
      v1: 10,
      v2: 9,
      again: 9,
      same: 3,
    });
    await session.dispose();
    expect(() => e.exportOnnx(({ x }) => ({ x: e.mul(x!, 2) }), { x: { dtype: 'float32', shape: [1] } })).toThrow(
      'an input and an output are both called "x"',
    );
  });

  test('a portable file holds standard operators only', () => {
    const scores = e.traceToOnnx(({ a }) => ({ y: e.matMul(a!, a!, { transposeB: true, alpha: 0.5 }) }), {
      a: { dtype: 'float32', shape: ['batch', 4, 3] },
    });
    expect(scores.opsetImport).toEqual([{ domain: '', version: 20 }]);
    expect(scores.graph.node.every(({ domain }) => !domain)).toBe(true);
  });

  test('what is no ONNX file is refused with what was found', async () => {
    expect(() => e.readOnnx(new Uint8Array(0))).toThrow('no ONNX model');
    expect(() => e.readOnnx(bytes.subarray(0, 100))).toThrow('ONNX_INVALID');
    await expect(e.openOnnx(Uint8Array.of(1, 2, 3))).rejects.toMatchObject({ code: 'SESSION_FAILED' });
  });
});
