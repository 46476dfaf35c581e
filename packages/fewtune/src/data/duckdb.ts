import { type DuckDBConnection, DuckDBInstance, type DuckDBValue } from '@duckdb/node-api';
import { FewtuneError } from '../errors.js';

export type Rows = readonly (readonly DuckDBValue[])[];

/** One in-memory DuckDB that may read files and nothing else; closed after `use`. */
export async function withDuckDb<T>(use: (run: Query) => Promise<T>, signal?: AbortSignal): Promise<T> {
  const instance = await DuckDBInstance.create(':memory:', {
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
  });
  const connection = await instance.connect();
  const interrupt = () => connection.interrupt();
  signal?.addEventListener('abort', interrupt, { once: true });
  try {
    return await use((sql, values) => query(connection, sql, values));
  } catch (error) {
    if (signal?.aborted) throw new FewtuneError('INTERRUPTED', 'interrupted while reading', { cause: error });
    throw error;
  } finally {
    signal?.removeEventListener('abort', interrupt);
    connection.closeSync();
    instance.closeSync();
  }
}

/** Values from outside reach DuckDB bound as parameters, never as SQL text. */
export type Query = (sql: string, values?: string[]) => Promise<{ columns: string[]; rows: Rows }>;

async function query(connection: DuckDBConnection, sql: string, values?: string[]): ReturnType<Query> {
  const reader = await connection.runAndReadAll(sql, values);
  return { columns: reader.columnNames(), rows: reader.getRows() };
}

/** A name as SQL writes it, whatever it contains. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** A cell as text: null stays null. */
export function cellText(value: DuckDBValue | undefined): string | null {
  return value === null || value === undefined ? null : String(value);
}
