import { type LoadOptions, readSealedFolder } from '../artifact/load.js';
import { manifestFile } from '../artifact/manifest.js';
import { taskManifestSchema } from '../artifact/task-manifest.js';
import { TaskSession } from '../artifact/task-session.js';
import { FewtuneError } from '../errors.js';
import { TunedModel } from './tuned-model.js';

/**
 * Opens the folder of a fine-tuned model. The size and sha-256 of every file in its manifest are checked first, no path
 * may leave the folder, and nothing in it is executed.
 *
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED (a classifier, which `load` opens)
 */
export async function loadTuned(folder: string, options: LoadOptions = {}): Promise<TunedModel> {
  const { manifest, files } = await readSealedFolder(folder, {
    file: manifestFile,
    schema: taskManifestSchema,
    missing: `no model there (${manifestFile} is missing). Give the folder that a fine-tuned model was saved to.`,
    task: 'fine-tuned',
  });
  const onnxFile = options.weights === 'quantized' ? 'onnx/model_quantized.onnx' : 'onnx/model.onnx';
  for (const needed of ['tokenizer.json', 'tokenizer_config.json', onnxFile]) {
    if (!files.has(needed)) {
      throw new FewtuneError('MODEL_CORRUPT', `${folder}: its manifest does not list ${needed}, which is needed.`);
    }
  }
  const { files: _, ...report } = manifest;
  const session = await TaskSession.open(files, { onnxFile, threads: options.threads });
  return new TunedModel({ report, session, files: async () => files });
}
