/** WebGPU in Node.js without a graphics card: SwiftShader, as Debian's chromium brings it. */
import { existsSync } from 'node:fs';
import * as e from '../../src/index.js';

const swiftShader = '/usr/lib/chromium/vk_swiftshader_icd.json';

/** Why there is no WebGPU here, or undefined where there is. Call it before anything uses WebGPU. */
export async function webgpuMissing(): Promise<string | undefined> {
  // Vulkan reads it once, when the process first asks for an adapter.
  if (existsSync(swiftShader)) process.env.VK_ICD_FILENAMES ??= swiftShader;
  try {
    const spec = { x: { dtype: 'float32', shape: [1] } } as const;
    const program = await e.compile(({ x }) => e.mul(x, 2), spec, { backend: 'webgpu' });
    await program.dispose();
    return undefined;
  } catch (error) {
    return String(error);
  }
}

/** Says aloud that tests are left out. */
export function announce(what: string, reason: string | undefined): boolean {
  if (reason) console.warn(`SKIPPED: ${what}: ${reason}`);
  return reason !== undefined;
}
