import { elementCount, type HostTensor, type Named } from '@fewtune/engine';

/** How much of a model is trained. */
export interface ParameterReport {
  /** Of the encoder, without what nothing reads, of what is added to it, and of the head. */
  readonly total: number;
  /** Of the encoder and what is added to it. */
  readonly trainableBody: number;
  readonly trainableHead: number;
  /** What is trained, in per cent of the total: with the head, and without it. */
  readonly percent: number;
  readonly percentBody: number;
  /** Of the body and the head, by kind of module: numbers of layers are `*`. */
  readonly byKind: Readonly<Record<string, number>>;
}

/**
 * @param base    all weights of the encoder that are read
 * @param trained what an adaptation trains; a table of which the rows in use are trained counts whole
 */
export function parameterReport(
  base: Named<HostTensor>,
  trained: Named<HostTensor>,
  head: Named<HostTensor>,
): ParameterReport {
  const size = (name: string, { shape }: HostTensor) => elementCount(base[name]?.shape ?? shape);
  const sum = (tensors: Named<HostTensor>) =>
    Object.entries(tensors).reduce((total, [name, tensor]) => total + size(name, tensor), 0);
  const added = Object.fromEntries(Object.entries(trained).filter(([name]) => !base[name]));
  const byKind: Record<string, number> = {};
  for (const [name, tensor] of Object.entries({ ...trained, ...head })) {
    const module = name.replace(/\.(lora_|ia3_|vera_lambda).*$|\.(weight|bias)$/, '');
    const kind = module.replace(/(?<=\.)\d+(?=\.)/g, '*');
    byKind[kind] = (byKind[kind] ?? 0) + size(name, tensor);
  }
  const [trainableBody, trainableHead] = [sum(trained), sum(head)];
  const total = sum(base) + sum(added) + trainableHead;
  const percent = (100 * (trainableBody + trainableHead)) / total;
  return { total, trainableBody, trainableHead, percent, percentBody: (100 * trainableBody) / total, byKind };
}
