import type { ModelReport } from '../artifact/classifier.js';
import { type LoadOptions, openModel, readFolder } from '../artifact/load.js';
import type { ModelChange } from '../artifact/manifest.js';
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
  const files = async (current: ModelReport) => {
    const { manifest, files: found } = await readFolder(folder);
    const isOther = manifest.created !== current.created;
    if (isOther || !continues(current.changes, manifest.changes)) {
      throw new FewtuneError(
        'MODEL_CORRUPT',
        `${folder}: ${isOther ? 'another model was written' : 'another change was saved'} there since this one was ` +
          'opened. Load it again, and make the change anew.',
      );
    }
    return found;
  };
  return new TrainedModel(state, files, { isQuantized: options.weights === 'quantized' });
}

/** Whether a history goes on from another: then nobody else's change is lost when it is saved. */
function continues(history: readonly ModelChange[] = [], earlier: readonly ModelChange[] = []): boolean {
  return earlier.every(({ at }, i) => history[i]?.at === at);
}
