import type { Benchmark } from '../lib/bench.js';
import { row } from '../lib/report.js';
