import { type OnnxSession, openOnnx, zeros } from '@fewtune/engine';
import { createTokenizer, lengthBatches, padBatch, type Tokenizer } from '@fewtune/models';
import { throwIfAborted } from '../errors.js';

export interface RunOptions {
  readonly signal?: AbortSignal;
  /** 0..1 */
  onProgress?(fraction: number): void;
}

/** The files of a model folder by relative path. */
export type ModelFiles = ReadonlyMap<string, Uint8Array | string>;

/** Tokens that go through the model at once, padding counted. */
const tokensPerBatch = 2048;

/** Tokenizer and ONNX session of a model folder: texts in, calibrated logits out. */
export class ClassifierSession {
  readonly tokenizer: Tokenizer;
  private readonly onnx: OnnxSession;
  private readonly running = new Set<Promise<unknown>>();

  private constructor(tokenizer: Tokenizer, onnx: OnnxSession) {
    this.tokenizer = tokenizer;
    this.onnx = onnx;
  }

  /** Needs `tokenizer.json`, `tokenizer_config.json` and the named ONNX file among `files`. */
  static async open(
    files: ModelFiles,
    options: { onnxFile?: string; threads?: number } = {},
  ): Promise<ClassifierSession> {
    const { onnxFile = 'onnx/model.onnx', threads } = options;
    const tokenizer = createTokenizer({
      'tokenizer.json': textOf(files.get('tokenizer.json')!),
      'tokenizer_config.json': textOf(files.get('tokenizer_config.json')!),
    });
    const onnx = await openOnnx(files.get(onnxFile) as Uint8Array, threads === undefined ? {} : { threads });
    return new ClassifierSession(tokenizer, onnx);
  }

  /**
   * Calibrated logits [texts.length, classes], row-major: a softmax gives the confidences.
   *
   * @throws FewtuneError INTERRUPTED
   */
  async logits(texts: readonly string[], options: RunOptions = {}): Promise<Float32Array> {
    return (await this.run(texts, options)).logits!;
  }

  /**
   * Every output of the graph by its name, one row a text: `logits` [texts.length, classes], and `features`
   * [texts.length, hidden] where the model has a head.
   *
   * @throws FewtuneError INTERRUPTED
   */
  async run(texts: readonly string[], options: RunOptions = {}): Promise<Readonly<Record<string, Float32Array>>> {
    const work = this.batches(texts, options);
    this.running.add(work);
    return work.finally(() => this.running.delete(work));
  }

  private async batches(
    texts: readonly string[],
    options: RunOptions,
  ): Promise<Readonly<Record<string, Float32Array>>> {
    const ids = texts.map((value) => this.tokenizer.encode(value));
    const results: Record<string, Float32Array> = Object.fromEntries(
      this.onnx.outputs.map((name) => [name, new Float32Array()]),
    );
    const hasTypes = this.onnx.inputs.includes('token_type_ids');
    let finished = 0;
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(options.signal);
      const rows = batch.map((row) => ids[row]!);
      const { inputIds, attentionMask } = padBatch(rows, this.tokenizer.padId);
      const outputs = await this.onnx.run({
        input_ids: inputIds,
        attention_mask: attentionMask,
        ...(hasTypes && { token_type_ids: zeros('int64', inputIds.shape) }), // of models exported elsewhere
      });
      for (const [name, { data, shape }] of Object.entries(outputs)) {
        const width = shape[1]!;
        if (finished === 0) results[name] = new Float32Array(texts.length * width);
        for (const [i, row] of batch.entries()) {
          results[name]!.set((data as Float32Array).subarray(i * width, (i + 1) * width), row * width);
        }
      }
      finished += batch.length;
      options.onProgress?.(finished / texts.length);
    }
    return results;
  }

  /** Closes the session once every run that has begun is through. */
  async dispose(): Promise<void> {
    await Promise.allSettled(this.running);
    await this.onnx.dispose();
  }
}

export function textOf(content: Uint8Array | string): string {
  return typeof content === 'string' ? content : new TextDecoder().decode(content);
}
