import { hostTensor } from '@fewtune/engine';
import { serializeSafetensors } from '@fewtune/models';
import { adaptersFolder } from '../../artifact/adapter-names.js';
import type { LinearHead } from '../../artifact/linear-head.js';
import type { Adapter } from './adapter.js';
import { adapterFiles } from './peft-files.js';

/** The head that an adapter was trained with, beside PEFT's files, where Python does not look. */
export const adapterHeadFile = 'head.safetensors';

/** A linear head with the names of its rows. */
export interface LabelledHead extends LinearHead {
  readonly labels: readonly string[];
}

/** The files of an adapter by their paths in a model folder. */
export function adapterFolderFiles(name: string, adapter: Adapter, head?: LabelledHead): [string, Uint8Array][] {
  const files = [...adapterFiles(adapter)];
  if (head) files.push([adapterHeadFile, headBytes(head)]);
  return files.map(([file, bytes]) => [`${adaptersFolder}/${name}/${file}`, bytes]);
}

function headBytes({ weight, bias, labels }: LabelledHead): Uint8Array {
  const tensors = {
    'classifier.weight': hostTensor('float32', [bias.length, weight.length / bias.length], weight),
    'classifier.bias': hostTensor('float32', [bias.length], bias),
  };
  return serializeSafetensors(tensors, { labels: JSON.stringify(labels) });
}
