import type { HostTensor, Named, Tensor, TensorSpec } from '@fewtune/engine';
import type { Conv4 } from '@fewtune/models';

/** What metric learning needs of a model: its start weights and a pure function from rows to vectors. */
export interface EmbeddingModel {
  /** What is learned, float32. */
  readonly weights: Named<HostTensor>;
  /** What stays as it is, e.g. an encoder under LoRA weights; `embed` is given both under their names. */
  readonly frozen?: Named<HostTensor>;
  /** Numbers of an embedding. */
  readonly dim: number;
  /** The inputs of `embed`, of as many rows as there are; sizes that differ from call to call are symbols. */
  readonly inputs: Named<TensorSpec>;
  /**
   * Rows → embeddings [rows, dim]. Where rows are normalised by a batch's statistics, these are `reference`'s when it is
   * given, so that an embedding does not depend on the other rows.
   */
  embed(weights: Named<Tensor>, x: Named<Tensor>, reference?: Named<Tensor>): Tensor;
}

/** A convolutional backbone, as of `conv4` and `resnet12` without a head, over `images` [rows, channels, size, size]. */
export function imageEmbedding(
  backbone: Pick<Conv4, 'weights' | 'features' | 'featureSize'>,
  { channels = 1, size = 28 }: { readonly channels?: number; readonly size?: number } = {},
): EmbeddingModel {
  return {
    weights: backbone.weights,
    dim: backbone.featureSize,
    inputs: { images: { dtype: 'float32', shape: ['rows', channels, size, size] } },
    embed: (weights, { images }, reference) => backbone.features(weights, images!, reference?.images),
  };
}
