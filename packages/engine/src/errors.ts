import { whereNow } from './source.js';

/** What can go wrong while a program is built or run; the code is stable, the message is for people. */
export type EngineErrorCode =
  | 'SHAPE_MISMATCH'
  | 'DTYPE_MISMATCH'
  | 'SIZE_UNKNOWN'
  | 'NOT_DIFFERENTIABLE'
  | 'NOT_BATCHABLE'
  | 'ARGUMENT_INVALID'
  | 'INPUT_MISMATCH'
  | 'ONNX_INVALID'
  | 'SESSION_FAILED'
  | 'BACKEND_MISSING'
  | 'PRECISION_LOST'
  | 'NAN_FOUND'
  | 'DISPOSED';

/** Mistakes in user code while it is traced: their messages end with its line. */
const traced: ReadonlySet<EngineErrorCode> = new Set([
  'SHAPE_MISMATCH',
  'DTYPE_MISMATCH',
  'SIZE_UNKNOWN',
  'NOT_DIFFERENTIABLE',
  'NOT_BATCHABLE',
]);

/** An engine error: says which operation, which values, and what would do. */
export class EngineError extends Error {
  readonly code: EngineErrorCode;
  /** Of SIZE_UNKNOWN: the symbols that would have to be numbers, where they are known. */
  readonly symbols: readonly string[];

  constructor(code: EngineErrorCode, message: string, options?: { cause?: unknown; symbols?: readonly string[] }) {
    super(`[${code}] ${message}${traced.has(code) ? whereNow() : ''}`, options);
    this.name = 'EngineError';
    this.code = code;
    this.symbols = options?.symbols ?? [];
  }
}
