/** Every code a {@link ModelError} carries, with what it means. */
export const modelErrorCodes = {
  SAFETENSORS_INVALID: 'the bytes are not a well-formed safetensors file',
  SAFETENSORS_UNSUPPORTED: 'a tensor has a dtype this reader does not know',
  ENCODER_NOT_FOUND: 'no folder, cache entry or Hub repository of that name',
  ENCODER_INCOMPLETE: 'the checkpoint lacks a file or a weight',
  ENCODER_UNSUPPORTED: 'the checkpoint asks for something that is not implemented',
  ENCODER_LAYER: 'the encoder has no layer of that number',
  ENCODER_UNSAFE: 'the checkpoint is a pickle, or names a path outside its folder',
  QUANTIZATION_INVALID: 'weights cannot be quantised in the way that was asked for',
  TOKENIZER_INVALID: 'tokenizer.json cannot be used',
  HUB_OFFLINE: 'the Hub may not or cannot be reached and the cache does not hold the files',
  HUB_FAILED: 'the Hub answered with an error',
  ABORTED: 'the caller aborted',
} as const;

export type ModelErrorCode = keyof typeof modelErrorCodes;

/** An error about a checkpoint, a tokenizer or a download: says what was found, where, and what would work. */
export class ModelError extends Error {
  readonly code: ModelErrorCode;

  constructor(code: ModelErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'ModelError';
    this.code = code;
  }
}

/** Throws ABORTED when `signal` was aborted; the signal's reason is the cause. */
export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) throw new ModelError('ABORTED', 'aborted before it finished', { cause: signal.reason });
}
