// Preloaded into a measured program by runNode: notes the process's peak resident memory when it ends.
import { writeFileSync } from 'node:fs';
import { peakResidentBytes } from './peak.js';

const file = process.env.FEWTUNE_BENCH_PEAK;
delete process.env.FEWTUNE_BENCH_PEAK; // a program started by this one measures nothing
if (file) process.once('exit', () => writeFileSync(file, String(peakResidentBytes())));
