import type { HostTensor, Tensor } from '@fewtune/engine';

/** What a classifier's traced function is given: int64 [batch, seq] each. */
export interface TokenInputs {
  readonly inputIds: Tensor;
  readonly attentionMask: Tensor;
}

/**
 * A trained text classifier as data plus one traced function: everything that a model folder needs.
 * Every method yields one, so there is a single way to save, to load and to predict.
 */
export interface ClassifierGraph {
  /** Verbatim texts of `tokenizer.json` and `tokenizer_config.json`. */
  readonly tokenizer: { readonly files: Readonly<Record<string, string>> };
  /** `model_type` of the Hub's config.json, e.g. `bert`. */
  readonly modelType: string;
  /** Other fields of config.json worth keeping (hidden_size, vocab_size, …). */
  readonly config: Readonly<Record<string, unknown>>;
  /** Named weights, as in the checkpoint, with the head's beside them. */
  readonly weights: Readonly<Record<string, HostTensor>>;
  forward(weights: Readonly<Record<string, Tensor>>, inputs: TokenInputs): ClassifierOutputs;
}

export interface ClassifierOutputs {
  /** [batch, classes], float32, before the calibration temperature. */
  readonly logits: Tensor;
  /** [batch, hidden], float32, rows of length 1: what the head reads, where there is a head. */
  readonly features?: Tensor;
}
