import { describe, expect, test } from 'vitest';
import { describeSupport, type KeptSupport, packSupport, readSupport, thinSupport } from './support.js';

/** Rows on a half circle, by angle; `labels` as given. */
function support(labels: readonly number[], texts?: readonly string[]): KeptSupport {
  const features = Float32Array.from(
    labels.flatMap((_, i) => [Math.cos(i / labels.length), Math.sin(i / labels.length)]),
  );
  return { hidden: 2, features, labels: Int32Array.from(labels), ...(texts && { texts }), learnedFrom: labels.length };
}

const countsOf = ({ labels }: KeptSupport) => [0, 1, 2].map((c) => labels.filter((label) => label === c).length);

describe('thinning', () => {
  const labels = [...Array<number>(90).fill(0), ...Array<number>(30).fill(1), ...Array<number>(5).fill(2)];
  const texts = labels.map((_, i) => `text ${i}`);

  test('nothing is dropped that fits', () => {
    const whole = support(labels, texts);
    expect(thinSupport(whole, 125)).toBe(whole);
  });

  test('large classes give way first, and rows stay with their labels and texts', () => {
    const kept = thinSupport(support(labels, texts), 60);
    expect(countsOf(kept)).toEqual([27, 27, 5]); // 28 of each would make 61
    expect(kept.learnedFrom).toBe(125);
    for (const [i, text] of kept.texts!.entries()) {
      const row = Number(text.split(' ')[1]);
      expect(kept.labels[i]).toBe(labels[row]);
      expect(kept.features[2 * i]).toBeCloseTo(Math.cos(row / labels.length), 6);
    }
  });

  test('the mean of what is kept is about the mean of the class', () => {
    const mean = ({ features, labels: own }: KeptSupport) => {
      const rows = [...own.keys()].filter((row) => own[row] === 0);
      return [0, 1].map((j) => rows.reduce((sum, row) => sum + features[2 * row + j]!, 0) / rows.length);
    };
    const [whole, kept] = [mean(support(labels)), mean(thinSupport(support(labels), 30))];
    // A tenth of the rows, drawn evenly by closeness to the mean; the class spans 0.72 radians.
    for (const j of [0, 1]) expect(Math.abs(whole[j]! - kept[j]!)).toBeLessThan(0.1);
  });
});

describe('in a folder', () => {
  const names = ['a', 'line\nbreak', '__proto__'];
  const kept = { ...support([0, 1, 2, 1], ['one', 'two\n2', '"three"', 'four']), names: new Float32Array(6).fill(0.5) };
  const manifest = { labels: names, support: describeSupport(kept) };

  test('what is written is read, texts and label names too', () => {
    expect(readSupport(packSupport(kept, names), manifest, 'model')).toEqual(kept);
  });

  test('files that contradict the manifest are named', () => {
    const fewer = packSupport(support([0, 1]), names);
    expect(() => readSupport(fewer, manifest, 'model')).toThrow(/\[?support\.safetensors.*4 rows/);
    const files = packSupport(kept, names);
    files.set('support.jsonl', '{"text":"one"}\n[]\n{}\n{}\n');
    expect(() => readSupport(files, manifest, 'model')).toThrow(/support\.jsonl: line 2/);
    files.delete('support.jsonl');
    expect(() => readSupport(files, manifest, 'model')).toThrow(expect.objectContaining({ code: 'MODEL_CORRUPT' }));
    expect(() => readSupport(packSupport(kept, names), { ...manifest, labels: ['a', 'b'] }, 'model')).toThrow(
      /none of|rows/,
    );
  });
});
