import { type OnnxSession, openOnnx } from '@fewtune/engine';
import { createTokenizer, lengthBatches, padBatch, type Tokenizer } from '@fewtune/models';
import { throwIfAborted } from '../errors.js';

export interface PredictOptions {
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
      'tokenizer.json': text(files, 'tokenizer.json'),
      'tokenizer_config.json': text(files, 'tokenizer_config.json'),
    });
    const onnx = await openOnnx(files.get(onnxFile) as Uint8Array, threads === undefined ? {} : { threads });
    return new ClassifierSession(tokenizer, onnx);
  }

  /**
   * Calibrated logits [texts.length, classes], row-major: a softmax gives the confidences.
   *
   * @throws FewtuneError INTERRUPTED
   */
  async logits(texts: readonly string[], classes: number, options: PredictOptions = {}): Promise<Float32Array> {
    const ids = texts.map((value) => this.tokenizer.encode(value));
    const result = new Float32Array(texts.length * classes);
    let finished = 0;
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(options.signal);
      const rows = batch.map((row) => ids[row]!);
      const { inputIds, attentionMask } = padBatch(rows, this.tokenizer.padId);
      const { logits } = await this.onnx.run({ input_ids: inputIds, attention_mask: attentionMask });
      const values = logits!.data as Float32Array; // [batch, classes]
      for (const [i, row] of batch.entries()) {
        result.set(values.subarray(i * classes, (i + 1) * classes), row * classes);
      }
      finished += batch.length;
      options.onProgress?.(finished / texts.length);
    }
    return result;
  }

  async dispose(): Promise<void> {
    await this.onnx.dispose();
  }
}

function text(files: ModelFiles, name: string): string {
  const value = files.get(name)!;
  return typeof value === 'string' ? value : new TextDecoder().decode(value);
}
