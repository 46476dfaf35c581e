import type { Options } from '../../lib/bench.js';
import type { Row } from '../../lib/report.js';

/** What a part may use. */
export interface PartContext extends Options {
  /** The peers' Python, if there is one and it is wanted. */
  readonly python?: string;
  /** `PyTorch 2.9.0`, or without the version when there is none. */
  readonly torch: string;
}

/** Some rows of the benchmark that are measured together; runs alone with `--only <name>`. */
export interface Part {
  readonly name: string;
  run(context: PartContext): Promise<Row[]>;
}
