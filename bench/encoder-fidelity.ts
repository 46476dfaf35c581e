import { loadEncoder, SentenceEmbedder } from '@fewtune/models';

export interface EncoderFidelity {
  /** Cosine of the embedded int8 encoder's vectors to the float32 model's: mean and minimum over the sentences. */
  readonly mean: number;
  readonly min: number;
}

/**
 * How near the embedded int8 encoder is to the float32 model it was made from.
 *
 * @param modelDir folder of the float32 model; default: the environment's FEWTUNE_MINILM_FLOAT32
 */
export async function encoderFidelity(options: {
  modelDir?: string;
  sentences: readonly string[];
}): Promise<EncoderFidelity> {
  const { sentences, modelDir = process.env.FEWTUNE_MINILM_FLOAT32 } = options;
  if (!modelDir) {
    throw new Error(
      'Set FEWTUNE_MINILM_FLOAT32 to the folder of the float32 all-MiniLM-L6-v2; packages/encoder-minilm/README.md says where it comes from.',
    );
  }
  const embedded = await embed(undefined, sentences);
  const reference = await embed(modelDir, sentences);
  const width = reference.length / sentences.length;
  let sum = 0;
  let min = 1;
  for (let row = 0; row < sentences.length; row++) {
    let cosine = 0; // both have length 1
    for (let c = row * width; c < (row + 1) * width; c++) cosine += embedded[c]! * reference[c]!;
    sum += cosine;
    min = Math.min(min, cosine);
  }
  return { mean: sum / sentences.length, min };
}

async function embed(encoder: string | undefined, sentences: readonly string[]): Promise<Float32Array> {
  const embedder = await SentenceEmbedder.create(await loadEncoder(encoder));
  try {
    return await embedder.embed(sentences);
  } finally {
    await embedder.dispose();
  }
}
