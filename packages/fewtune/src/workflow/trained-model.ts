import { Classifier, type ModelReport } from '../artifact/classifier.js';
import { writeFolder } from '../artifact/folder.js';
import { completeFolder } from '../artifact/pack.js';
import type { ClassifierSession, ModelFiles } from '../artifact/session.js';
import { throwIfAborted } from '../errors.js';

/** What a training run ends with: a classifier that runs, how good it is, and the files it is saved as. */
export class TrainedModel extends Classifier {
  private readonly packed: ModelFiles;

  constructor(report: ModelReport, session: ClassifierSession, packed: ModelFiles) {
    super(report, session);
    this.packed = packed;
  }

  /**
   * Writes the model folder; a model that stands there is replaced as a whole.
   *
   * @throws FewtuneError OUTPUT_UNWRITABLE when the place cannot be written to or holds something else; INTERRUPTED
   */
  async save(folder: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    throwIfAborted(options.signal);
    const files = completeFolder(this.packed, this.report);
    await writeFolder(folder, files);
  }
}
