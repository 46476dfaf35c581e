import type { DeviceTensor } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { StateProgram } from './state-program.js';

export interface ShadowOptions {
  /** How many batches are also computed in float32; 3 when left out. */
  readonly batches?: number;
  /** Largest relative difference of loss and gradient norm; 0.1 when left out. */
  readonly tolerance?: number;
  /** Called instead of throwing. */
  onMismatch?(report: ShadowReport): void;
}

export interface ShadowReport {
  /** 1 for the first batch. */
  readonly batch: number;
  readonly quantity: 'loss' | 'gradient norm';
  readonly float16: number;
  readonly float32: number;
  readonly message: string;
}

/**
 * The same loss and gradient in float32 beside the first batches. float16 overflows silently (on ONNX Runtime's WebGPU
 * backend even inside an operator), and a run that starts on wrong numbers is better stopped at once.
 */
export class Shadow {
  private checked = 0;

  constructor(
    private program: StateProgram | undefined,
    private readonly options: ShadowOptions,
  ) {}

  /** What float32 makes of a batch; undefined when enough have been compared. Ask before the state changes. */
  async run(feeds: Readonly<Record<string, DeviceTensor>>): Promise<Named<HostTensor> | undefined> {
    return this.program?.run(feeds);
  }

  /**
   * @param got loss, gradientNorm and lossScale in float16. Where the norm is infinite, the loss scale was too high and the
   *            step is skipped: it is not compared, unless the scale is below 1 already
   * @throws EngineError PRECISION_LOST
   */
  compare(wanted: Named<HostTensor>, got: Named<HostTensor>): void {
    const skipped = !Number.isFinite(numberOf(got.gradientNorm!));
    const batch = this.checked + 1;
    const scale = got.lossScale ? numberOf(got.lossScale) : 1;
    const pairs = [['loss', 'loss'] as const, ['gradientNorm', 'gradient norm'] as const];
    for (const [name, quantity] of skipped && scale >= 1 ? pairs.slice(0, 1) : pairs) {
      const [float16, float32] = [numberOf(got[name]!), numberOf(wanted[name]!)];
      const { tolerance = 0.1 } = this.options;
      // What is wrong in float32 as well is no matter of precision.
      if (!Number.isFinite(float32) || Math.abs(float16 - float32) <= tolerance * Math.max(Math.abs(float32), 1e-3))
        continue;
      const message =
        `batch ${batch}: the ${quantity} is ${show(float16)} in float16 and ${show(float32)} in float32. ` +
        'Something leaves the range of float16 (65504) or loses its digits; wrap it in inFloat32(() => …), ' +
        'or compute in float32';
      if (!this.options.onMismatch) throw new EngineError('PRECISION_LOST', message);
      this.options.onMismatch({ batch, quantity, float16, float32, message });
    }
    if (!skipped) this.checked++;
  }

  /** Gives up the float32 program when it is no longer needed. */
  async finish(): Promise<void> {
    if (this.checked >= (this.options.batches ?? 3)) await this.dispose();
  }

  async dispose(): Promise<void> {
    const program = this.program;
    this.program = undefined;
    await program?.dispose();
  }
}

const numberOf = ({ data }: HostTensor): number => Number(data[0]);
const show = (value: number): string => (Number.isFinite(value) ? value.toPrecision(5) : String(value));
