// Makes test_10.csv: for each class 10 rows of the published test.csv, drawn with seed 7, in the file's order.
// Usage: node draw.js path/to/test.csv > test_10.csv     (test.csv: PolyAI-LDN/task-specific-datasets, banking_data)
import { readFileSync } from 'node:fs';

const [header, ...records] = readFileSync(process.argv[2], 'utf8').match(/(?:"(?:[^"]|"")*"|[^"\n])+(?:\n|$)/g);
const byClass = groupBy(records);

/** mulberry32: a small published generator of 32-bit numbers. */
let state = 7;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

function labelOf(record) {
  return record.trimEnd().slice(record.lastIndexOf(',') + 1);
}

function groupBy(rows) {
  const groups = new Map();
  rows.forEach((row, i) => {
    const label = labelOf(row);
    groups.set(label, [...(groups.get(label) ?? []), i]);
  });
  return groups;
}

const chosen = new Set();
for (const label of [...byClass.keys()].sort()) {
  const rows = [...byClass.get(label)];
  for (let n = 0; n < 10; n++) {
    chosen.add(rows.splice(Math.floor(random() * rows.length), 1)[0]);
  }
}
process.stdout.write(header + records.filter((_, i) => chosen.has(i)).join(''));
