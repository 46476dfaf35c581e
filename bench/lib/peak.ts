import { readFileSync } from 'node:fs';

/**
 * Largest resident memory of this process so far, in bytes. Linux counts what the process that started it had into
 * `maxRSS`; the mark of its own memory stands in /proc.
 */
export function peakResidentBytes(): number {
  try {
    const kibi = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (kibi) return Number(kibi[1]) * 1024;
  } catch {
    // not Linux
  }
  return process.resourceUsage().maxRSS * 1024;
}
