/** Graphs written by hand: functions, branches, symbolic sizes, and files that make no sense. */
import { describe, expect, test } from 'vitest';
import * as e from '../src/index.js';

const value = (name: string, shape: readonly e.Dim[], elemType = 1): e.OnnxValueInfo => ({
  name,
  type: {
    tensorType: {
      elemType,
      shape: { dim: shape.map((dim) => (typeof dim === 'string' ? { dimParam: dim } : { dimValue: dim })) },
    },
  },
});
const node = (
  opType: string,
  input: string[],
  output: string[],
  attribute: e.OnnxAttribute[] = [],
  domain = '',
): e.OnnxNode => ({
  opType,
  domain,
  name: `${opType}_${output[0]}`,
  input,
  output,
  attribute,
});
const int = (name: string, i: number): e.OnnxAttribute => ({ name, type: 2, i });
const whole = (name: string, ...values: number[]) =>
  e.toOnnxTensor(name, e.hostTensor('int64', [values.length], values));
const scalarOf = (name: string, number: number) => e.toOnnxTensor(name, e.hostTensor('int64', [], [number]));

const modelOf = (
  graph: Partial<e.OnnxGraph> & Pick<e.OnnxGraph, 'node'>,
  more: Partial<e.OnnxModelProto> = {},
): e.OnnxModelProto => ({
  irVersion: 9,
  opsetImport: [{ domain: '', version: 18 }],
  ...more,
  graph: {
    name: 'g',
    input: [value('x', ['batch', 4])],
    output: [value('y', ['batch', 4])],
    initializer: [],
    ...graph,
  },
});
const read = (model: e.OnnxModelProto, options: e.OnnxFunctionOptions = {}) =>
  e.readOnnxModel(e.writeOnnx(model), options);

async function compute(
  model: e.OnnxModelProto,
  x: e.HostTensor,
  options: e.OnnxFunctionOptions = {},
): Promise<e.HostTensor> {
  const fn = await read(model, options);
  await using program = await e.compile((inputs) => fn.apply({ inputs }), fn.inputs);
  return (await program.run({ x })).y!;
}

const x = e.hostTensor('float32', [2, 4], [1, 2, 3, 4, -1, -2, -3, -4]);
const data = (tensor: e.HostTensor) => Array.from(tensor.data as Float32Array);

describe('local functions', () => {
  const leaky: e.OnnxFunctionProto = {
    name: 'Leaky',
    domain: 'local',
    input: ['a'],
    output: ['c'],
    attribute: ['slope'],
    node: [
      { ...node('LeakyRelu', ['a'], ['b']), attribute: [{ name: 'alpha', type: 1, refAttrName: 'slope' }] },
      node('Neg', ['b'], ['c']),
    ],
    opsetImport: [{ domain: '', version: 18 }],
  };
  const call = node('Leaky', ['x'], ['y'], [{ name: 'slope', type: 1, f: 0.5 }], 'local');
  const opsetImport = [
    { domain: '', version: 18 },
    { domain: 'local', version: 1 },
  ];

  test('are put in where they are called, with their attributes', async () => {
    const found = await compute(modelOf({ node: [call] }, { functions: [leaky], opsetImport }), x);
    expect(data(found)).toEqual([-1, -2, -3, -4, 0.5, 1, 1.5, 2]);
  });

  test('that call themselves, or unfold without end, are an error', async () => {
    const itself = { ...leaky, node: [node('Leaky', ['a'], ['c'], [], 'local')] };
    const fn = await read(modelOf({ node: [call] }, { functions: [itself], opsetImport }));
    expect(() => e.traceToOnnx((inputs) => fn.apply({ inputs }), fn.inputs)).toThrow('calls itself');
    const level = (i: number): e.OnnxFunctionProto => ({
      ...leaky,
      name: `f${i}`,
      node: Array.from({ length: 10 }, (_, j) =>
        node(
          i === 0 ? 'Neg' : `f${i - 1}`,
          [j === 0 ? 'a' : `t${j - 1}`],
          [j === 9 ? 'c' : `t${j}`],
          [],
          i === 0 ? '' : 'local',
        ),
      ),
    });
    const levels = Array.from({ length: 8 }, (_, i) => level(i));
    const bomb = await read(
      modelOf({ node: [node('f7', ['x'], ['y'], [], 'local')] }, { functions: levels, opsetImport }),
    );
    expect(() => e.traceToOnnx((inputs) => bomb.apply({ inputs }), bomb.inputs)).toThrow('unfolds to more than');
  });
});

describe('control flow', () => {
  const branch = (opType: string): e.OnnxGraph => ({
    name: opType,
    node: [node(opType, ['x'], ['z'])],
    input: [],
    output: [value('z', ['batch', 4])],
  });
  const choose = (condition: string): e.OnnxNode => ({
    ...node('If', [condition], ['y']),
    attribute: [
      { name: 'then_branch', type: 5, g: branch('Neg') },
      { name: 'else_branch', type: 5, g: branch('Abs') },
    ],
  });

  test('an If whose condition is known is the branch it takes', async () => {
    // Is the second axis 4? Known while tracing, though the batch is symbolic.
    const nodes = [
      node('Shape', ['x'], ['shape']),
      node('Gather', ['shape', 'one'], ['size']),
      node('Equal', ['size', 'four'], ['is']),
      choose('is'),
    ];
    const model = modelOf({ node: nodes, initializer: [scalarOf('one', 1), scalarOf('four', 4)] });
    expect(data(await compute(model, x))).toEqual(data(x).map((v) => -v));
    const other = modelOf({ node: nodes, initializer: [scalarOf('one', 1), scalarOf('four', 5)] });
    expect(data(await compute(other, x))).toEqual(data(x).map(Math.abs));
  });

  test('one that depends on data names the node and what to do', async () => {
    const nodes = [
      node('ReduceSum', ['x'], ['s'], [int('keepdims', 0)]),
      node('Greater', ['s', 's'], ['is']),
      choose('is'),
    ];
    const fn = await read(modelOf({ node: nodes }));
    expect(() => e.traceToOnnx((inputs) => fn.apply({ inputs }), fn.inputs)).toThrow(
      /NOT_DIFFERENTIABLE.*node "If_y" \(If\): its condition depends on data/,
    );
  });

  test('all nodes without a rule are listed at once', async () => {
    const nodes = [
      node('Loop', ['x'], ['a']),
      node('Sharpen', ['a'], ['b'], [], 'acme'),
      node('NonZero', ['b'], ['y']),
    ];
    const error: Error = await read(modelOf({ node: nodes })).catch((cause) => cause);
    expect(error.message.split('\n')).toEqual([
      expect.stringContaining('not differentiable: node "Loop_a", operator ai.onnx.Loop: a loop has no gradient'),
      expect.stringContaining('not differentiable: node "Sharpen_b", operator acme.Sharpen: a custom operator'),
      expect.stringContaining('not differentiable: node "NonZero_y", operator ai.onnx.NonZero: the size of its result'),
    ]);
    expect(error).toMatchObject({ code: 'NOT_DIFFERENTIABLE' });
    // What no output needs is not asked for.
    await expect(
      read(modelOf({ node: [node('Loop', ['x'], ['a']), node('Neg', ['x'], ['y'])] })),
    ).resolves.toBeDefined();
  });
});

describe('sizes', () => {
  test('are computed with symbols: a reshape by batch · 2 serves every batch', async () => {
    const nodes = [
      node('Shape', ['x'], ['shape']),
      node('Gather', ['shape', 'zero'], ['batch']),
      node('Mul', ['batch', 'two'], ['twice']),
      node('Concat', ['twice', 'two'], ['target'], [int('axis', 0)]),
      node('Reshape', ['x', 'target'], ['z']),
      node('ConstantOfShape', ['target'], ['zeros']),
      node('Add', ['z', 'zeros'], ['sum']),
      node('Reshape', ['sum', 'shape'], ['y']),
    ];
    const model = modelOf({ node: nodes, initializer: [whole('zero', 0), whole('two', 2)] });
    expect(data(await compute(model, x))).toEqual(data(x));
  });

  test('that cannot be known say which node needs which, and concrete ones help', async () => {
    const nodes = [
      node('Shape', ['x'], ['shape']),
      node('Gather', ['shape', 'zero'], ['batch']),
      node('Add', ['batch', 'one'], ['more']),
      node('Sub', ['more', 'one'], ['again']),
      node('Concat', ['again', 'four'], ['target'], [int('axis', 0)]),
      node('Reshape', ['x', 'target'], ['y']),
    ];
    const model = modelOf({ node: nodes, initializer: [whole('zero', 0), whole('one', 1), whole('four', 4)] });
    const fn = await read(model);
    expect(() => e.traceToOnnx((inputs) => fn.apply({ inputs }), fn.inputs)).toThrow(
      /\[SIZE_UNKNOWN\] node "Reshape_y" \(Reshape\): its shape .*\("target"\).*sizes: \{ batch: 4 \}/,
    );
    expect(data(await compute(model, x, { sizes: { batch: 2 } }))).toEqual(data(x));
    // A program asks for them by itself: it is traced again for each size it is given.
    expect(data(await compute(model, x))).toEqual(data(x));
  });
});

describe('files that make no sense', () => {
  test.each<[string, e.OnnxModelProto, string]>([
    [
      'a circle',
      modelOf({ node: [node('Add', ['x', 'b'], ['a']), node('Neg', ['a'], ['b']), node('Neg', ['a'], ['y'])] }),
      'in a circle',
    ],
    ['two makers', modelOf({ node: [node('Neg', ['x'], ['y']), node('Abs', ['x'], ['y'])] }), 'has another maker'],
    [
      'a maker of an input',
      modelOf({ node: [node('Neg', ['x'], ['x']), node('Abs', ['x'], ['y'])] }),
      'has another maker',
    ],
    ['no maker', modelOf({ node: [node('Neg', ['nothing'], ['y'])] }), 'nothing in the file is called "nothing"'],
    ['no maker of an output', modelOf({ node: [node('Neg', ['x'], ['z'])] }), 'makes its output "y"'],
    [
      'two initialisers of a name',
      modelOf({ node: [node('Neg', ['x'], ['y'])], initializer: [whole('a', 1), whole('a', 2)] }),
      'two initialisers are called "a"',
    ],
    [
      'an old opset',
      modelOf({ node: [node('Neg', ['x'], ['y'])] }, { opsetImport: [{ domain: '', version: 6 }] }),
      'of opset 6',
    ],
    [
      'dims beyond the bytes',
      modelOf({
        node: [node('Neg', ['w'], ['y'])],
        initializer: [{ name: 'w', dataType: 1, dims: [1e6, 1e6], rawData: new Uint8Array(16) }],
      }),
      'takes 4000000000000 bytes, but 16 are there',
    ],
    [
      'negative dims',
      modelOf({
        node: [node('Neg', ['w'], ['y'])],
        initializer: [{ name: 'w', dataType: 1, dims: [-1, -4], rawData: new Uint8Array(16) }],
      }),
      'impossible shape',
    ],
    [
      'an input of sequences',
      modelOf({ node: [node('Neg', ['x'], ['y'])], input: [{ name: 'x', type: {} }] }),
      'no tensor of a supported data type',
    ],
  ])('%s', async (_, model, message) => {
    await expect(read(model)).rejects.toMatchObject({
      code: 'ONNX_INVALID',
      message: expect.stringContaining(message),
    });
  });

  test('nodes out of order are put in order', async () => {
    expect(data(await compute(modelOf({ node: [node('Neg', ['a'], ['y']), node('Abs', ['x'], ['a'])] }), x))[4]).toBe(
      -1,
    );
  });

  test('a file that is not there', async () => {
    await expect(e.readOnnxModel('/nowhere/model.onnx')).rejects.toThrow('cannot read the model "/nowhere/model.onnx"');
  });
});
