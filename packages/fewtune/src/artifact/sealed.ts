import { createHash } from 'node:crypto';
import { z } from 'zod';
import { FewtuneError } from '../errors.js';

export const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** Every other file of a folder, by its path in it. */
export const fileList = z.record(z.string(), z.object({ sha256, size: z.number().int().nonnegative() }));

export function sha256Of(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** The list of files that stands in their manifest. */
export function listFiles(files: ReadonlyMap<string, Uint8Array | string>): z.infer<typeof fileList> {
  return Object.fromEntries(
    [...files].map(([path, content]) => {
      const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
      return [path, { sha256: sha256Of(bytes), size: bytes.byteLength }];
    }),
  );
}

/** A manifest's text. Its last field is a hash of all the others, so that a changed byte in it is noticed too. */
export function seal<T>(schema: z.ZodType<T>, value: T): string {
  const body = schema.parse(value);
  return `${JSON.stringify({ ...body, integrity: sha256Of(JSON.stringify(body)) }, null, 2)}\n`;
}

/** @throws FewtuneError MODEL_CORRUPT, MODEL_UNSUPPORTED; `file` names the manifest in messages. */
export function unseal<T>(schema: z.ZodType<T>, text: string, file: string): T {
  const corrupt = (what: string, cause?: unknown) =>
    new FewtuneError('MODEL_CORRUPT', `${file}: ${what}. Restore the file from a backup or train the model again.`, {
      cause,
    });
  let raw: Record<string, unknown>;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw corrupt('is not valid JSON', cause);
  }
  if (typeof raw !== 'object' || raw === null) {
    throw corrupt('is not a JSON object');
  }
  if (typeof raw.schemaVersion === 'number' && raw.schemaVersion > 1) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${file}: schema version ${raw.schemaVersion}, this version of fewtune reads 1. Update fewtune.`,
    );
  }
  const { integrity, ...body } = raw;
  const parsed = schema.safeParse(body);
  if (!parsed.success) {
    throw corrupt(
      `does not have the expected fields (${z.prettifyError(parsed.error).replaceAll('\n', ' ')})`,
      parsed.error,
    );
  }
  if (integrity !== sha256Of(JSON.stringify(body))) {
    throw corrupt('was changed after it was written (its own hash differs)');
  }
  return parsed.data;
}
