/** Where ONNX Runtime ran each operator, read off its profile. Node.js only. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { vi } from 'vitest';

export interface Placed {
  readonly op: string;
  readonly node: string;
  readonly provider: 'cpu' | 'webgpu';
  /** Element types of the inputs, in ONNX's words. */
  readonly types: readonly string[];
  readonly elements: number;
}

interface Event {
  readonly cat: string;
  readonly name: string;
  readonly args: {
    readonly provider?: string;
    readonly op_name?: string;
    readonly input_type_shape?: readonly Readonly<Record<string, readonly number[]>>[];
  };
}

const marker = '_kernel_time';

/** Runs `work` with every session profiled, and returns where each operator ran, a line for each time. */
export async function placementOf(work: () => Promise<void>): Promise<Placed[]> {
  const folder = mkdtempSync(join(tmpdir(), 'fewtune-placement-'));
  const sessions: InferenceSession[] = [];
  const create = InferenceSession.create.bind(InferenceSession);
  const spy = vi.spyOn(InferenceSession, 'create').mockImplementation((async (model: Uint8Array, options: object) => {
    const session = await create(model, { ...options, enableProfiling: true, profileFilePrefix: join(folder, 'p') });
    const release = session.release.bind(session);
    // A released session has lost its profile.
    session.release = async () => {
      session.endProfiling();
      sessions.splice(sessions.indexOf(session), 1);
      await release();
    };
    sessions.push(session);
    return session;
  }) as never);
  try {
    await work();
    for (const session of sessions) session.endProfiling();
    return readdirSync(folder).flatMap((file) => readProfile(readFileSync(join(folder, file), 'utf8')));
  } finally {
    spy.mockRestore();
    rmSync(folder, { recursive: true });
  }
}

function readProfile(text: string): Placed[] {
  const events = JSON.parse(text) as Event[];
  return events
    .filter(({ cat, name }) => cat === 'Node' && name.endsWith(marker))
    .map(({ name, args }) => {
      const inputs = (args.input_type_shape ?? []).map((input) => Object.entries(input)[0]!);
      return {
        op: args.op_name!,
        node: name.slice(0, -marker.length),
        provider: args.provider === 'WebGpuExecutionProvider' ? 'webgpu' : 'cpu',
        types: inputs.map(([type]) => type),
        elements: Math.max(0, ...inputs.map(([, shape]) => shape.reduce((a, b) => a * b, 1))),
      };
    });
}
