import type { Session, SessionOptions } from '#backend';
import { closeSession, openSession, runSession, toDevice, toHost } from '#backend';
import type { HostTensor } from '../host-tensor.js';

/** Any ONNX file, opened for inference. */
export class OnnxSession {
  private constructor(private readonly session: Session) {}

  /** @param model the file's bytes, or its path. @throws EngineError SESSION_FAILED */
  static async open(model: Uint8Array | string, options: SessionOptions = {}): Promise<OnnxSession> {
    return new OnnxSession(await openSession(model, options));
  }

  get inputs(): readonly string[] {
    return this.session.inputNames;
  }

  get outputs(): readonly string[] {
    return this.session.outputNames;
  }

  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, toDevice(tensor)]));
    const fetches = Object.fromEntries(this.outputs.map((name) => [name, null]));
    const results = await runSession(this.session, feeds, fetches);
    return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, toHost(tensor)]));
  }

  async dispose(): Promise<void> {
    await closeSession(this.session);
  }
}

export const openOnnx = OnnxSession.open;
