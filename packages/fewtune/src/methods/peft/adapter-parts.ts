import type { HostTensor, Named } from '@fewtune/engine';
import type { Quantization } from '@fewtune/models';

/** The encoder that an adapter was trained on, as far as is known. */
export interface AdapterBase {
  /** A Hub id, or a folder. */
  readonly id?: string;
  readonly revision?: string;
  /** `Encoder.fingerprint`: SHA-256 over everything that decides an embedding. */
  readonly fingerprint?: string;
  /** How the encoder's matrices were held while the adapter was trained, where not in float32. */
  readonly quantization?: Quantization;
}

/** What adapters of every kind have. Names are those of our encoders. */
export interface AdapterParts {
  /** What chose the modules, as PEFT has it: ends of names, or a pattern; left out, the modules of `weights`. */
  readonly targets?: readonly string[] | string;
  readonly weights: Named<HostTensor>;
  /** Weights that were trained whole: norms, biases, a task's head. */
  readonly saved?: Named<HostTensor>;
  readonly base?: AdapterBase;
  /** Where the encoder's modules stand in the model that Python adapts, e.g. `bert.` in BertForSequenceClassification. */
  readonly prefix?: string;
  /** PEFT's: SEQ_CLS, FEATURE_EXTRACTION, … */
  readonly taskType?: string;
}
