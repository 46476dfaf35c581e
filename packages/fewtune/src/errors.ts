/**
 * Every code Fewtune's own errors carry, with the kind that decides exit code and HTTP status:
 * `input` is the user's to mend (exit 2), `internal` is ours (exit 1), `interrupted` was asked for (exit 130).
 */
export const errorCodes = {
  FILE_NOT_FOUND: 'input',
  FILE_UNREADABLE: 'input',
  FORMAT_UNKNOWN: 'input',
  COLUMN_UNKNOWN: 'input',
  COLUMN_AMBIGUOUS: 'input',
  ROWS_EMPTY: 'input',
  TEXT_BLANK: 'input',
  CLASS_SINGLE: 'input',
  CLASS_TOO_SMALL: 'input',
  LABELS_CONFLICT: 'input',
  LABEL_UNKNOWN: 'input',
  LABEL_EXISTS: 'input',
  TARGET_INVALID: 'input',
  SPAN_INVALID: 'input',
  IMAGE_SIZE: 'input',
  CELL_TOO_LARGE: 'input',
  OPTION_INVALID: 'input',
  LOSS_NOT_FINITE: 'input',
  MODEL_NOT_FOUND: 'input',
  MODEL_CORRUPT: 'input',
  MODEL_UNSUPPORTED: 'input',
  ADAPTER_MISMATCH: 'input',
  ADAPTER_UNKNOWN: 'input',
  MEMORY_EXCEEDED: 'input',
  OUTPUT_UNWRITABLE: 'input',
  INTERRUPTED: 'interrupted',
  INTERNAL: 'internal',
} as const;

export type ErrorCode = keyof typeof errorCodes;
export type ErrorKind = (typeof errorCodes)[ErrorCode];

/** An error that says what was found, where, and what would work. */
export class FewtuneError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'FewtuneError';
    this.code = code;
  }

  get kind(): ErrorKind {
    return errorCodes[this.code];
  }
}

/** Throws INTERRUPTED when `signal` was aborted. */
export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) {
    throw new FewtuneError('INTERRUPTED', 'interrupted before it finished', { cause: signal.reason });
  }
}
