import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { zeros } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import type { StateTrace } from './state-program.js';

/** The rows that one run reads and writes. */
export interface RowSelection {
  /** The batch, with row numbers replaced by places among the rows that were taken. */
  readonly batch: Named<HostTensor>;
  /** The rows themselves, by their names in the state. */
  readonly values: Named<HostTensor>;
  readonly rows: Rows;
}

/** Which rows, by the batch input that names them. */
export type Rows = Named<readonly number[]>;

/**
 * Tables of which a step touches only the rows that its batch names: an embedding of 30 000 words in a batch of 100.
 * They stand in the host's memory. A run is given the rows it needs (of the table and of what the optimiser remembers
 * about it) and hands back their new values, so its cost depends on the batch and not on the table.
 *
 * The update is that of `torch.optim.SparseAdam` as against `Adam`: the moments of a row that is not in the batch do not
 * decay, and no weight decay acts on it. Where gradients are summed over micro-batches, the update takes the rows that any
 * of them named.
 */
export class RowTables {
  private constructor(
    /** By their names in the state: `param/<table>`, `optimizer/<table>/…`, `sum/gradient/<table>`. */
    private readonly values: ReadonlyMap<string, HostTensor>,
    /** The batch input that names the rows of each value. */
    private readonly inputOf: ReadonlyMap<string, string>,
    /** Where there are sums: by batch input, 1 for each row that is in them. */
    private readonly summed: ReadonlyMap<string, HostTensor>,
  ) {}

  /**
   * @param start  start values of a whole state; those of the tables become their own
   * @param tables the batch input (int64) that names the rows, by table
   * @throws EngineError ARGUMENT_INVALID when a table or an input is not there
   */
  static of(start: Named<HostTensor>, tables: Named<string>, batch: Named<TensorSpec>): RowTables {
    const values = new Map<string, HostTensor>();
    const inputOf = new Map<string, string>();
    const summed = new Map<string, HostTensor>();
    for (const [table, input] of Object.entries(tables)) {
      const weight = start[`param/${table}`];
      if (!weight || weight.shape.length < 2) {
        throw new EngineError('ARGUMENT_INVALID', `rows: there is no trained table "${table}" of rank 2 or more`);
      }
      if (batch[input]?.dtype !== 'int64') {
        throw new EngineError(
          'ARGUMENT_INVALID',
          `rows: "${input}", which names rows of "${table}", is no int64 input`,
        );
      }
      for (const [name, value] of Object.entries(start)) {
        const own = name === `param/${table}` || name === `sum/gradient/${table}`;
        if (!own && !name.startsWith(`optimizer/${table}/`)) continue;
        values.set(name, value);
        inputOf.set(name, input);
      }
      if (!start[`sum/gradient/${table}`]) continue;
      const count = Math.max(weight.shape[0]!, summed.get(input)?.data.length ?? 0);
      summed.set(input, zeros('bool', [count]));
    }
    return new RowTables(values, inputOf, summed);
  }

  /** What a program is traced with in place of the whole tables: as many rows as a run takes. */
  specs(): Record<string, TensorSpec> {
    const spec = (name: string, { dtype, shape }: HostTensor): TensorSpec => ({
      dtype,
      shape: [`rows_${this.inputOf.get(name)}`, ...shape.slice(1)],
    });
    return Object.fromEntries([...this.values].map(([name, value]) => [name, spec(name, value)]));
  }

  /** The values of a state that are not in these tables. */
  others(values: Named<HostTensor>): Named<HostTensor> {
    return Object.fromEntries(Object.entries(values).filter(([name]) => !this.values.has(name)));
  }

  /** Of a program that was traced with rows in place of tables: rows are given, and new rows are results, `rows/…`. */
  handOver({ reads, given, writes, results }: StateTrace): StateTrace {
    const part = (values: Named<Tensor>, ours: boolean, prefix = '') =>
      Object.fromEntries(
        Object.entries(values)
          .filter(([name]) => this.values.has(name) === ours)
          .map(([name, tensor]) => [prefix + name, tensor]),
      );
    return {
      reads: part(reads, false),
      given: { ...given, ...part(reads, true) },
      writes: part(writes, false),
      results: { ...results, ...part(writes, true, 'rows/') },
    };
  }

  /**
   * @param words of which values rows are taken, by the beginning of their names
   * @throws EngineError INPUT_MISMATCH when a row is not in the table
   */
  select(batch: Named<HostTensor>, ...words: readonly string[]): RowSelection {
    const replaced: Record<string, HostTensor> = { ...batch };
    const rows: Record<string, readonly number[]> = {};
    for (const input of new Set(this.inputOf.values())) {
      const placeOf = new Map<bigint, number>();
      const places = (batch[input]!.data as BigInt64Array).map((row) => {
        if (!placeOf.has(row)) placeOf.set(row, placeOf.size);
        return BigInt(placeOf.get(row)!);
      });
      rows[input] = [...placeOf.keys()].map(Number);
      replaced[input] = { ...batch[input]!, data: places };
    }
    return { batch: replaced, values: this.take(rows, ...words), rows };
  }

  /** Copies of rows. @throws EngineError INPUT_MISMATCH when a row is not in the table */
  take(rows: Rows, ...words: readonly string[]): Record<string, HostTensor> {
    const wanted = [...this.values].filter(([name]) => words.includes(name.split('/')[0]!));
    return Object.fromEntries(
      wanted.map(([name, table]) => [name, rowsOf(name, table, rows[this.inputOf.get(name)!]!)]),
    );
  }

  /** Puts new values of rows where they were taken. */
  replace(rows: Rows, values: Named<HostTensor>): void {
    for (const [name, { data }] of Object.entries(values)) {
      const table = this.values.get(name)!;
      const width = widthOf(table);
      const target = table.data as Float32Array;
      for (const [place, row] of rows[this.inputOf.get(name)!]!.entries()) {
        target.set((data as Float32Array).subarray(place * width, (place + 1) * width), row * width);
      }
    }
  }

  /** Takes note that the sums hold gradients of these rows. */
  addToSums(rows: Rows): void {
    for (const [input, { data }] of this.summed) for (const row of rows[input]!) data[row] = 1;
  }

  /** Which rows the sums hold gradients of. */
  rowsInSums(): Rows {
    const marked = (data: HostTensor['data']) => [...data.keys()].filter((row) => data[row] === 1);
    return Object.fromEntries([...this.summed].map(([input, { data }]) => [input, marked(data)]));
  }

  /** Empties the sums. */
  clearSums(): void {
    const rows = this.rowsInSums();
    for (const [name, table] of this.values) {
      if (!name.startsWith('sum/')) continue;
      const width = widthOf(table);
      for (const row of rows[this.inputOf.get(name)!]!)
        (table.data as Float32Array).fill(0, row * width, (row + 1) * width);
    }
    for (const { data } of this.summed.values()) (data as Uint8Array).fill(0);
  }

  /** Copies, by their names in the state. */
  read(): Record<string, HostTensor> {
    return Object.fromEntries(this.all().map(([name, value]) => [name, { ...value, data: value.data.slice() }]));
  }

  /** @throws EngineError INPUT_MISMATCH when a value is missing or of another size */
  check(values: Named<HostTensor>): void {
    for (const [name, table] of this.all()) {
      if (values[name]?.dtype === table.dtype && values[name].data.length === table.data.length) continue;
      throw new EngineError(
        'INPUT_MISMATCH',
        `the state holds "${name}" as ${table.dtype} [${table.shape.join(', ')}]`,
      );
    }
  }

  /** Replaces all values, which were checked. */
  write(values: Named<HostTensor>): void {
    for (const [name, table] of this.all()) (table.data as Float32Array).set(values[name]!.data as Float32Array);
  }

  private all(): [string, HostTensor][] {
    return [
      ...this.values,
      ...[...this.summed].map(([input, rows]): [string, HostTensor] => [`sum/rows/${input}`, rows]),
    ];
  }
}

const widthOf = ({ shape, data }: HostTensor): number => data.length / shape[0]!;

function rowsOf(name: string, table: HostTensor, rows: readonly number[]): HostTensor {
  const width = widthOf(table);
  const source = table.data as Float32Array;
  const data = new (source.constructor as Float32ArrayConstructor)(rows.length * width);
  for (const [place, row] of rows.entries()) {
    if (row < 0 || row >= table.shape[0]!) {
      throw new EngineError('INPUT_MISMATCH', `the batch names row ${row} of "${name}", which has ${table.shape[0]}`);
    }
    data.set(source.subarray(row * width, (row + 1) * width), place * width);
  }
  return { dtype: table.dtype, shape: [rows.length, ...table.shape.slice(1)], data };
}
