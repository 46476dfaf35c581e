import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { Command, Option } from 'commander';
import { adaptersFolder } from '../artifact/adapter-names.js';
import { checkOutput } from '../artifact/folder.js';
import { profile } from '../data/profile.js';
import { readTable } from '../data/read-table.js';
import type { TargetKind } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import { type AdaptationName, adaptationOf, adaptations } from '../methods/peft/adaptations.js';
import type { Run } from '../run.js';
import { percent, printable } from '../text.js';
import { describeData, describeReport } from '../workflow/describe.js';
import { type Finetuned, finetune, splitOptions } from '../workflow/finetune.js';
import { type FinetunedOnnx, finetuneOnnx, parseFinetuneOnnx } from '../workflow/finetune-onnx.js';
import type { FinetuneEvent } from '../workflow/finetuned-report.js';
import { findOnnx } from '../workflow/onnx-text.js';
import { checkTask, finetuneForTask, isForTask, refuseTask, type TaskFlags, taskKinds } from './finetune-task.js';
import { assignment, integer, jsonOption, labelOption, positive, textOption, threadsOption } from './options.js';
import { testFrom } from './train.js';
import { checkpointOf, watch } from './watch.js';

interface FinetuneFlags {
  text?: string;
  label?: string;
  test?: string;
  method: string;
  targets?: string;
  rank?: number;
  epochs?: number;
  lr?: number;
  set?: Record<string, unknown>;
  tokenizer?: string;
  output?: string;
  task: TargetKind;
  pair?: string;
  separator?: string;
  order?: string[];
  loss?: TaskFlags['loss'];
  resume?: boolean;
  log?: string;
  name?: string;
  out?: string;
  seed: number;
  threads?: number;
  json?: boolean;
}

export function finetuneCommand(signal: AbortSignal): Command {
  return new Command('finetune')
    .description('Fine-tune a model that was trained elsewhere, and keep what was learned as an adapter too.')
    .argument('<base>', 'Hub id or folder of an encoder, minilm, a .onnx file or a transformers.js folder')
    .argument('<data>', 'CSV, TSV, JSONL, JSON or Parquet file with a text and a label column')
    .addOption(textOption())
    .addOption(labelOption())
    .addOption(new Option('--task <kind>', 'what is learned of each text').choices(taskKinds).default('classification'))
    .option('--pair <column>', 'column with second texts: each row is a pair')
    .option('--separator <text>', 'between the labels of one cell (multi-label); default: |')
    .option('--order <labels>', 'grades from the lowest to the highest (ordinal), divided by commas', (text: string) =>
      text.split(',').map((label) => label.trim()),
    )
    .addOption(new Option('--loss <name>', 'of grades or of values').choices(['likelihood', 'coral', 'mse', 'huber']))
    .option('--test <file|fraction>', 'file to measure on, or fraction of the rows to put aside')
    .option('--method <name>', `${Object.keys(adaptations).join(', ')}; in ONNX models lora`, 'lora')
    .option(
      '--targets <names>',
      'layers, weights or nodes to adapt: names, ends of names, patterns; default: all-linear',
    )
    .option('--rank <n>', 'rank of the adapter', integer(1))
    .option('--epochs <n>', 'passes over the examples', integer(1))
    .option('--lr <rate>', 'largest learning rate', positive)
    .option('--set <name=value>', 'another option of the training; repeat for several', assignment)
    .option('--tokenizer <dir>', 'folder with tokenizer.json, where it is not beside the model')
    .option('--output <name>', "the model's output to read, where several could be meant")
    .option('--resume', 'go on with a run that was interrupted')
    .option('--log <dir>', 'folder for metrics.jsonl and TensorBoard')
    .option('--name <name>', 'what the adapter is called in the folder; default: tuned')
    .option('--out <dir>', 'model folder to write; default: models/<name of the data file>')
    .option('--seed <n>', 'same seed, same result', integer(0), 7)
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (base: string, file: string, flags: FinetuneFlags) => {
      const out = flags.out ?? join('models', basename(file, extname(file)));
      const options = optionsOf(flags);
      const onnx = await isOnnx(base);
      if (onnx) checkOnnx(flags, options);
      else checkEncoder(flags, options);
      const checkpoint = checkpointOf(out);
      const kept = {
        checkpoint: { path: checkpoint },
        ...(flags.resume && { resume: checkpoint }),
        ...(flags.log !== undefined && { log: flags.log }),
      };
      checkTask(flags);
      if (isForTask(flags)) {
        await finetuneForTask({
          ...flags,
          kept,
          base,
          file,
          out,
          options,
          signal,
        });
        return;
      }
      await checkOutput(out); // before any work is done
      const columns = { text: flags.text, label: flags.label, signal };
      const data = await readTable(file, columns);
      const test = await testFrom(flags.test, columns);
      if (!flags.json) process.stdout.write(`${describeData(profile(data))}\n\n`);
      const { name = 'tuned', tokenizer, output, seed, threads } = flags;
      const shared = { options, test, name, seed, threads, signal };
      const run: Run<FinetuneEvent, Tuned> = onnx
        ? finetuneOnnx(base, data, { ...shared, tokenizer, output })
        : finetune(base, data, { ...shared, ...kept, method: flags.method as AdaptationName });
      const tuned = await watch(run, checkpoint);
      await tuned.model.save(out, { signal });
      await rm(checkpoint, { force: true });
      const adapter = tuned.adapter ? join(out, adaptersFolder, name) : null;
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(documentOf(tuned, out, adapter))}\n`
          : `${describe(tuned)}\nsaved     ${out}\n${adapter ? `adapter   ${adapter}\n` : ''}`,
      );
      await tuned.model.dispose();
    });
}

/** What both ways give. */
type Tuned = FinetunedOnnx | Finetuned;

/** A folder with a checkpoint is an encoder, whatever else it holds. */
async function isOnnx(base: string): Promise<boolean> {
  return !existsSync(join(base, 'model.safetensors')) && (await findOnnx(base)) !== undefined;
}

function checkOnnx(flags: FinetuneFlags, options: Record<string, unknown>): void {
  const { method, resume, log } = flags;
  if (resume || log !== undefined) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `--${resume ? 'resume' : 'log'} is for encoders; a run in an ONNX model keeps nothing.`,
    );
  }
  refuseTask(flags);
  parseFinetuneOnnx(options);
  if (method !== 'lora')
    throw new FewtuneError('OPTION_INVALID', `--method ${method}: an ONNX model is fine-tuned by lora.`);
}

function checkEncoder({ method, tokenizer, output }: FinetuneFlags, options: Record<string, unknown>): void {
  const { own } = splitOptions(method, options);
  adaptationOf(method as AdaptationName, own);
  const foreign = Object.entries({ tokenizer, output }).find(([, value]) => value !== undefined)?.[0];
  if (foreign) throw new FewtuneError('OPTION_INVALID', `--${foreign} is for ONNX models; an encoder brings its own.`);
}

/** Flags that are options of the training too; given twice is an error. */
function optionsOf({ targets, rank, epochs, lr, set = {} }: FinetuneFlags): Record<string, unknown> {
  const flags = {
    ...(targets !== undefined && { targets: targets.includes(',') ? targets.split(',') : targets }),
    ...(rank !== undefined && { rank }),
    ...(epochs !== undefined && { epochs }),
    ...(lr !== undefined && { lr }),
  };
  const twice = Object.keys(flags).find((name) => Object.hasOwn(set, name));
  if (twice) throw new FewtuneError('OPTION_INVALID', `--${twice} and --set ${twice}=… were both given; give one.`);
  return { ...set, ...flags };
}

/** The document of `finetune --json`. */
function documentOf({ model, merge, ...tuned }: Tuned, out: string, adapter: string | null) {
  const parameters = parametersOf(tuned.parameters);
  const { method, encoder, trainingData, seconds, metrics, evaluatedOn } = model.report;
  return {
    model: out,
    adapter,
    base: encoder!.id,
    method: method.name,
    examples: trainingData.examples,
    classes: trainingData.classes,
    parameters,
    merge,
    seconds,
    metrics,
    evaluatedOn,
    repairs: trainingData.repairs,
  };
}

function parametersOf(given: Tuned['parameters']): FinetunedOnnx['parameters'] {
  if (!('trainableBody' in given)) return given;
  return { total: given.total, adapter: given.trainableBody, head: given.trainableHead };
}

function describe({ model, merge, parameters }: Tuned): string {
  const { adapter, head, total } = parametersOf(parameters);
  const lines = [
    describeReport(model.report),
    `weights   ${adapter} of the body${head > 0 ? ` and ${head} of the head` : ''} were trained, ${percent((adapter + head) / total)} of ${total}`,
    `merged    ${merge.merged ? '' : 'no: adapters stay nodes beside weights that are quantised or used twice; '}logits differ by at most ` +
      `${merge.largestDifference.toExponential(1)} on ${merge.texts} texts; right ${percent(merge.accuracyBefore)} before, ${percent(merge.accuracyAfter)} after`,
  ];
  return printable(lines.join('\n'));
}
