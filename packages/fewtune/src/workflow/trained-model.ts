import { Classifier, type ModelReport, type ModelState } from '../artifact/classifier.js';
import { writeFolder } from '../artifact/folder.js';
import { completeFolder, repackModel } from '../artifact/pack.js';
import type { ModelFiles } from '../artifact/session.js';
import { describeSupport } from '../artifact/support.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { version } from '../version.js';
import { type ChangeableHead, type Changed, type Forgotten, forgetClass } from './forget-class.js';
import { type Learned, type LearnOptions, learnClass } from './learn-class.js';

/** A classifier with all it is saved as: just trained or loaded, it runs, learns and forgets classes, and saves itself. */
export class TrainedModel extends Classifier {
  private readonly files: (current: ModelReport) => Promise<ModelFiles>;
  private readonly isQuantized: boolean;
  /** The change under way; the next one waits for it. */
  private changing: Promise<unknown> = Promise.resolve();

  /**
   * @param files its running parts, whatever head and labels they have: saving writes those of now
   * @param options.isQuantized whether the session runs the int8 weights
   */
  constructor(state: ModelState, files: (current: ModelReport) => Promise<ModelFiles>, { isQuantized = false } = {}) {
    super(state);
    this.files = files;
    this.isQuantized = isQuantized;
  }

  /**
   * Writes the model folder; a model that stands there is replaced as a whole.
   *
   * @throws FewtuneError OUTPUT_UNWRITABLE when the place cannot be written to or holds something else; MODEL_CORRUPT
   *   when the folder that the model was loaded from has been changed since; INTERRUPTED
   */
  async save(folder: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.changing.catch(() => {}); // whoever asked for the change is told
    throwIfAborted(options.signal);
    const { report, learned } = this.state;
    const packed = await this.files(report);
    const current = learned === undefined ? packed : repackModel(packed, { ...learned, labels: report.labels });
    await writeFolder(folder, completeFolder(current, report));
  }

  /**
   * Adds a class from a few examples, or examples to a class with `more: true`, without retraining: one row of the head
   * is computed from the examples kept, all other rows stay as they are, and so does the calibration temperature. What
   * is being predicted meanwhile is predicted by the model as it was. `save` makes the change last.
   *
   * @throws FewtuneError LABEL_EXISTS, LABEL_UNKNOWN (with `more`), LABELS_CONFLICT, TEXT_BLANK, ROWS_EMPTY,
   *   OPTION_INVALID, MODEL_UNSUPPORTED (no examples kept, a method without features, int8 weights), INTERRUPTED
   * @example const { heldOut } = await model.learn('chargeback', ['the bank took the money back', …]);
   */
  learn(label: string, examples: readonly string[], options: LearnOptions = {}): Promise<Learned> {
    return this.change((before) => learnClass(before, label, examples, options));
  }

  /**
   * Removes a class with its examples; the scores of the others keep their proportions.
   *
   * @throws FewtuneError LABEL_UNKNOWN, CLASS_SINGLE when only one class would be left, MODEL_UNSUPPORTED
   */
  forget(label: string): Promise<Forgotten> {
    return this.change(async (before) => forgetClass(before, label));
  }

  override async dispose(): Promise<void> {
    await this.changing.catch(() => {});
    await super.dispose();
  }

  /** Runs changes one after the other; the model is replaced only when the whole of one has succeeded. */
  private change<Result>(
    work: (before: ChangeableHead) => Changed<Result> | Promise<Changed<Result>>,
  ): Promise<Result> {
    const run = this.changing
      .catch(() => {})
      .then(async () => {
        const support = this.supportFor('learn or forget classes');
        if (this.isQuantized) {
          throw new FewtuneError(
            'MODEL_UNSUPPORTED',
            'this model was opened with its int8 weights, which heads are not computed for. Open it with its float32 ' +
              'weights, change it and save it: the int8 file is made anew.',
          );
        }
        const { report, session, learned } = this.state;
        const changed = await work({ report, support, head: learned!.head, session });
        const entry = { ...changed.change, at: new Date().toISOString(), library: version };
        this.state = {
          session,
          learned: { support: changed.support, head: changed.head, isChanged: true },
          report: {
            ...report,
            labels: [...changed.labels],
            support: describeSupport(changed.support),
            changes: [...(report.changes ?? []), entry],
          },
        };
        return changed.result;
      });
    this.changing = run;
    run.catch(() => {}); // the caller has it too
    return run;
  }
}
