import { type LoadOptions, openModel, readFolder } from '../artifact/load.js';
import { FewtuneError } from '../errors.js';
import { TrainedModel } from './trained-model.js';

/**
 * Opens a model folder. The size and sha-256 of every file in its manifest are checked first, no path may leave the
 * folder, and nothing in it is executed.
 *
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED
 * @example
 * const model = await load('models/tickets');
 * const [top] = await model.predict(['my card was swallowed']); // { label, confidence, scores }
 */
export async function load(folder: string, options: LoadOptions = {}): Promise<TrainedModel> {
  const state = await openModel(folder, options);
  // What is needed for saving only is read then, and not held until then.
  const files = async () => {
    const { manifest, files: found } = await readFolder(folder);
    if (manifest.created !== state.report.created) {
      throw new FewtuneError(
        'MODEL_CORRUPT',
        `${folder}: another model was written there since this one was opened. Load it again.`,
      );
    }
    return found;
  };
  return new TrainedModel(state, files, { isQuantized: options.weights === 'quantized' });
}
