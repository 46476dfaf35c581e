import { type OnnxSession, openOnnx } from '@fewtune/engine';
import { createTokenizer, lengthBatches, padBatch, padTypes, type Tokenizer } from '@fewtune/models';
import { throwIfAborted } from '../errors.js';
import { type ModelFiles, type RunOptions, textOf } from './session.js';

/** Tokens that go through the model at once, padding counted. */
const tokensPerBatch = 2048;

/** Tokenizer and ONNX session of a fine-tuned model: texts, or pairs of them, to logits. */
export class TaskSession {
  private readonly running = new Set<Promise<unknown>>();

  private constructor(
    readonly tokenizer: Tokenizer,
    private readonly onnx: OnnxSession,
  ) {}

  /** Needs `tokenizer.json`, `tokenizer_config.json` and the named ONNX file among `files`. */
  static async open(files: ModelFiles, options: { onnxFile?: string; threads?: number } = {}): Promise<TaskSession> {
    const { onnxFile = 'onnx/model.onnx', threads } = options;
    const tokenizer = createTokenizer({
      'tokenizer.json': textOf(files.get('tokenizer.json')!),
      'tokenizer_config.json': textOf(files.get('tokenizer_config.json')!),
    });
    const onnx = await openOnnx(files.get(onnxFile) as Uint8Array, threads === undefined ? {} : { threads });
    return new TaskSession(tokenizer, onnx);
  }

  /**
   * Logits of each text, in their order: [outputs], or [tokens, outputs] where every token has some.
   *
   * @param pairs second texts, one for each
   * @throws FewtuneError INTERRUPTED
   */
  async run(
    texts: readonly string[],
    { pairs, ...options }: RunOptions & { pairs?: readonly string[] } = {},
  ): Promise<Float32Array[]> {
    const work = this.batches(texts, pairs, options);
    this.running.add(work);
    return work.finally(() => this.running.delete(work));
  }

  private async batches(
    texts: readonly string[],
    pairs: readonly string[] | undefined,
    options: RunOptions,
  ): Promise<Float32Array[]> {
    const rows = texts.map((text, i) =>
      pairs ? this.tokenizer.encodePair(text, pairs[i]!) : { ids: this.tokenizer.encode(text), types: [] },
    );
    const ids = rows.map((row) => row.ids);
    const typed = this.onnx.inputs.includes('token_type_ids');
    const found: Float32Array[] = [];
    let finished = 0;
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(options.signal);
      const own = batch.map((row) => rows[row]!);
      const { inputIds, attentionMask } = padBatch(
        own.map((row) => row.ids),
        this.tokenizer.padId,
      );
      const types = own.map((row) => (pairs ? row.types : row.ids.map(() => 0)));
      const { logits } = await this.onnx.run({
        input_ids: inputIds,
        attention_mask: attentionMask,
        ...(typed && { token_type_ids: padTypes(types) }),
      });
      const { data, shape } = logits!;
      const size = shape.slice(1).reduce((a, b) => a * b, 1);
      const perToken = shape.length === 3 ? shape[2]! : undefined;
      for (const [i, row] of batch.entries()) {
        const length = perToken === undefined ? size : own[i]!.ids.length * perToken;
        found[row] = (data as Float32Array).slice(i * size, i * size + length);
      }
      finished += batch.length;
      options.onProgress?.(finished / texts.length);
    }
    return found;
  }

  /** Closes the session once every run that has begun is through. */
  async dispose(): Promise<void> {
    await Promise.allSettled(this.running);
    await this.onnx.dispose();
  }
}
