export { Classifier, type ModelReport, type Prediction, type PredictOptions } from './artifact/classifier.js';
export type { ClassifierGraph, TokenInputs } from './artifact/graph.js';
export type { LoadOptions } from './artifact/load.js';
export type { Advice, EvaluatedOn, Manifest, Metrics, ModelChange } from './artifact/manifest.js';
export type { MetaReport } from './artifact/meta-manifest.js';
export type { Neighbour } from './artifact/neighbours.js';
export { quantizeOnnx } from './artifact/quantize.js';
export type { RunOptions } from './artifact/session.js';
export type { Measured, TunedKind, TunedReport } from './artifact/task-manifest.js';
export {
  type ClassFold,
  type ClassSplit,
  classFolds,
  classSplit,
  type SplitName,
  splitClasses,
  splitClassGroups,
} from './data/class-split.js';
export type { Repair, TextDataset, TextList } from './data/dataset.js';
export type { Entity } from './data/entity.js';
export { episodesFromJson, episodesToJson } from './data/episode-json.js';
export {
  type CountRange,
  type Episode,
  type EpisodeOptions,
  type EpisodeSampler,
  type EpisodeShape,
  episodeSampler,
  sampleEpisode,
  shapeOf,
  type VaryingShape,
  wayLabels,
} from './data/episodes.js';
export type { ImageFit, ImageOptions } from './data/image-decode.js';
export { type ImageExamples, imageTask, takeRows } from './data/image-episode.js';
export { type EpisodeSource, type MetaDataset, metaDataset } from './data/meta-dataset.js';
export { type DataProfile, profile } from './data/profile.js';
export { createRandom, type Random } from './data/random.js';
export { type ImageSet, type ReadImagesOptions, readImages } from './data/read-images.js';
export { type ReadOptions, readTable, readTexts } from './data/read-table.js';
export { type ReadTaskOptions, readTask } from './data/read-task.js';
export { episodeTurns, rotateImages, rotationClasses } from './data/rotations.js';
export { stratifiedFolds, stratifiedSplit } from './data/split.js';
export {
  type ClassFolder,
  listClassFolder,
  readSupportFolder,
  type SkippedEntry,
  type TextSupport,
} from './data/support-folder.js';
export { type TargetKind, type Targets, type TaskDataset, takeTaskRows } from './data/task-dataset.js';
export { type ErrorCode, type ErrorKind, errorCodes, FewtuneError } from './errors.js';
export { bootstrapInterval, type PairedComparison, pairedBootstrap } from './evaluation/bootstrap.js';
export { expectedCalibrationError, fitTemperature, softmaxRows } from './evaluation/calibration.js';
export { type ClassDistances, classDistances } from './evaluation/distances.js';
export { type EntityScores, entityScores } from './evaluation/entities.js';
export { accuracy, macroF1, perClass } from './evaluation/metrics.js';
export { chooseThresholds, type MultiLabelScores, multiLabelScores } from './evaluation/multi-label.js';
export { type OrdinalScores, ordinalScores } from './evaluation/ordinal.js';
export { type RegressionScores, regressionScores } from './evaluation/regression.js';
export type { Batches, EpochEvent, EpochOptions, EpochResult } from './methods/epochs.js';
export { CachedFeatures, type FeatureOptions } from './methods/features.js';
export { labelText } from './methods/label-names.js';
export { headLogits, type LinearHead } from './methods/linear/logistic.js';
export { type AdaptTextOptions, adaptText } from './methods/meta/adapt-text.js';
export {
  type LoraEncoder,
  type LoraEncoderOptions,
  type LoraHead,
  loraEncoder,
  loraHeads,
} from './methods/meta/lora-encoder.js';
export { type AdaptedModel, type AdaptOptions, Maml, type MamlOptions } from './methods/meta/maml.js';
export type {
  AnyExamples,
  AnyMetaModel,
  AnyMetaTask,
  Examples,
  HeadStart,
  MetaLoss,
  MetaModel,
  MetaTask,
  ModelInput,
} from './methods/meta/meta-model.js';
export type { MetaSchedule } from './methods/meta/meta-step.js';
export type { MetaTrainEvent, MetaTrainOptions, MetaTrainResult, TaskBatches } from './methods/meta/meta-train.js';
export { type MlpOptions, mlp } from './methods/meta/mlp.js';
export { type MamlVariant, mamlVariants } from './methods/meta/task-loss.js';
export {
  type MetaMamlEvent,
  type MetaMamlOptions,
  type MetaMamlResult,
  metaMamlDefaults,
  metaTrainMaml,
  textMamlSettings,
} from './methods/meta/text-maml.js';
export type { TextMamlSettings, TextMamlStart } from './methods/meta/text-maml-start.js';
export type { FeatureSource, FitContext, Fitted, Labelled, Method, MethodName } from './methods/method.js';
export { methodNames } from './methods/method.js';
export {
  type AttentionPrototypeOptions,
  attentionPrototypeHead,
} from './methods/metric/attention-prototype.js';
export { ldaHead, mahalanobisHead } from './methods/metric/discriminant.js';
export { type EmbeddingModel, imageEmbedding } from './methods/metric/embedding-model.js';
export { leaveOneOutTemperature, prototypeLeaveOneOut } from './methods/metric/leave-one-out.js';
export {
  type MetaTextOptions,
  metaTextDefaults,
} from './methods/metric/meta-text-options.js';
export {
  type MetaTextEvent,
  type MetaTextResult,
  metaTextRecipe,
  metaTrainText,
} from './methods/metric/meta-train-text.js';
export {
  type EpisodeBatches,
  MetricLearner,
  type MetricTrainEvent,
} from './methods/metric/metric-learner.js';
export { type Metric, type MetricHead, metricHeads, metrics } from './methods/metric/metric-loss.js';
export type { MetricLearnerOptions } from './methods/metric/metric-options.js';
export type { MetricTask } from './methods/metric/metric-task.js';
export { prototypeHead } from './methods/metric/prototype.js';
export { type RidgeFit, ridgeHead, ridgePenalties } from './methods/metric/ridge.js';
export { marginAttention, type Responsibilities, reassignment } from './methods/metric/support-attention.js';
export {
  intoSubspace,
  type SupportSubspace,
  subspacePrototypeHead,
  supportSubspace,
} from './methods/metric/support-subspace.js';
export {
  type TextEmbedding,
  type TextEmbeddingOptions,
  type TokenDropout,
  textEmbedding,
} from './methods/metric/text-embedding.js';
export {
  type InformationMaximisationOptions,
  informationMaximisation,
  informationMaximisationDefaults,
} from './methods/metric/transductive/information-maximisation.js';
export {
  type LaplacianShotOptions,
  laplacianShot,
  laplacianShotDefaults,
} from './methods/metric/transductive/laplacian-shot.js';
export { type BatchAnswer, queryBalance } from './methods/metric/transductive/query-balance.js';
export { type SoftKMeansOptions, softKMeans, softKMeansDefaults } from './methods/metric/transductive/soft-k-means.js';
export type { Adapt, Adaptation } from './methods/peft/adaptation.js';
export { type AdaptationName, type AdaptationOptions, adaptationOf } from './methods/peft/adaptations.js';
export {
  type Adapted,
  type Adapter,
  adaptEncoder,
  applyAdapter,
  asLora,
  type Ia3Adapter,
  type LoraAdapter,
  mergeAdapter,
  type VeraAdapter,
} from './methods/peft/adapter.js';
export { AdapterBank, type AdapterBankOptions, type AdapterName } from './methods/peft/adapter-bank.js';
export type { AdapterBase } from './methods/peft/adapter-parts.js';
export { type AdapterPrediction, AdapterServer } from './methods/peft/adapter-server.js';
export type {
  AddedAdapter,
  BottleneckAdapter,
  PrefixAdapter,
  PromptAdapter,
  ReftAdapter,
} from './methods/peft/additions.js';
export {
  type ChooseWeightsOptions,
  type ChosenWeights,
  chooseWeights,
  type TriedWeights,
} from './methods/peft/choose-weights.js';
export {
  type Combination,
  type CombineOptions,
  combinations,
  combineAdapters,
  type Weighted,
} from './methods/peft/combine-adapters.js';
export { type AdapterDiff, type AdapterDifference, diffAdapters } from './methods/peft/diff-adapters.js';
export { evaDirections } from './methods/peft/eva.js';
export { type HeldOutScore, headScore, type PrototypeRows, prototypeScore } from './methods/peft/held-out-score.js';
export {
  type LoraInit,
  type LoraSettings,
  type LoraStart,
  loraInits,
  overEncoder,
  startLora,
} from './methods/peft/lora-start.js';
export {
  type EmbeddingReport,
  largestWeightDifference,
  measureMerge,
  mergeInto,
  unmergeFrom,
} from './methods/peft/merge.js';
export type { LabelledHead } from './methods/peft/model-adapters.js';
export { adapterFiles, adapterFromFiles, readAdapter, writeAdapter } from './methods/peft/peft-files.js';
export { methods, parseOptions } from './methods/registry.js';
export type { ActivationCacheOptions } from './methods/tune/activation-cache.js';
export type { Look, TunedStep } from './methods/tune/best-weights.js';
export type { TuneExamples } from './methods/tune/examples.js';
export type { TuneOptions, TuneSchedule, Validation } from './methods/tune/options.js';
export { describePlan, planTuning, type TuningPlan } from './methods/tune/plan.js';
export { lrRangeTest, type RangeTest, type RangeTestOptions } from './methods/tune/range-test.js';
export type { RatePoint } from './methods/tune/rate-curve.js';
export type { ParameterReport } from './methods/tune/report.js';
export type { Score, Task, TaskKind } from './methods/tune/task.js';
export { classification } from './methods/tune/tasks/classification.js';
export { multiLabel } from './methods/tune/tasks/multi-label.js';
export { type OrdinalOptions, ordinal } from './methods/tune/tasks/ordinal.js';
export { type RegressionOptions, regression, type ValueScale } from './methods/tune/tasks/regression.js';
export { type FoundEntity, type TokensReport, tokenClassification } from './methods/tune/tasks/tokens.js';
export { type TuneContext, type TuneEvent, tune } from './methods/tune/tune.js';
export type { Tuned, TuneHistory } from './methods/tune/tuned.js';
export type { Run } from './run.js';
export { table } from './text.js';
export { version } from './version.js';
export { describeData, describeReport } from './workflow/describe.js';
export { type Evaluation, evaluate } from './workflow/evaluate.js';
export { evaluateTuned, type TunedEvaluation } from './workflow/evaluate-tuned.js';
export type { TrainEvent, TrainStage } from './workflow/events.js';
export { type Finetuned, type FinetuneOptions, finetune } from './workflow/finetune.js';
export {
  type FinetunedOnnx,
  type FinetuneOnnxOptions,
  type FinetuneOnnxRun,
  finetuneOnnx,
} from './workflow/finetune-onnx.js';
export { type FinetuneTaskEvent, type FinetuneTaskRun, finetuneTask } from './workflow/finetune-task.js';
export { type FinetuneTaskOptions, finetuneTaskDefaults } from './workflow/finetune-task-options.js';
export type { FinetuneEvent, MergeReport } from './workflow/finetuned-report.js';
export type { Forgotten } from './workflow/forget-class.js';
export type { Learned, LearnOptions } from './workflow/learn-class.js';
export { load } from './workflow/load.js';
export { loadTuned } from './workflow/load-tuned.js';
export { type Merged, type MergeOptions, merge } from './workflow/merge.js';
export {
  type MetaTrainEncoderEvent,
  type MetaTrainEncoderOptions,
  metaTrainEncoder,
} from './workflow/meta-train.js';
export { MetaTrained, openMetaTrained } from './workflow/meta-trained.js';
export {
  type AdapterSummary,
  addAdapter,
  type ModelAdapter,
  readAdapters,
  removeAdapter,
} from './workflow/model-adapters.js';
export { type TrainOptions, type TrainRun, train } from './workflow/train.js';
export { TrainedModel } from './workflow/trained-model.js';
export { TunedModel, type TunedPrediction } from './workflow/tuned-model.js';
