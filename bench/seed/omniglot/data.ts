import { type ImageSet, readImages } from 'fewtune';
import { dataFile } from '../../lib/paths.js';

/** The published minimal background sets ("small 1", "small 2") of Lake et al. 2015; Greek and Latin are in both. */
export const backgroundSets = {
  1: ['Balinese', 'Early_Aramaic', 'Greek', 'Korean', 'Latin'],
  2: ['Greek', 'Japanese_(katakana)', 'Latin', 'Sanskrit', 'Tagalog'],
} as const;

export const alphabetOf = (className: string): string => className.split('/', 1)[0]!;

/** Files are `alphabet/characterNN/CCCC_DD.png`, DD the person who drew it: the same one for a whole alphabet. */
export const drawerOf = (file: string): number => Number(/_(\d+)\.png$/.exec(file)![1]);

/** All characters at 28 × 28, ink bright; the files are so. */
export const characters28 = (): Promise<ImageSet> => readImages(dataFile('omniglot/images28.zip'), { size: 28 });

/** The images of some alphabets; classes are numbered anew. */
export function ofAlphabets(set: ImageSet, alphabets: readonly string[]): ImageSet {
  const classes = set.classes.filter((name) => alphabets.includes(alphabetOf(name)));
  const index = set.classes.map((name) => classes.indexOf(name));
  const rows = [...set.labels.keys()].filter((row) => index[set.labels[row]!]! >= 0);
  const [, ...shape] = set.images.shape;
  const each = shape.reduce((a, b) => a * b, 1);
  const values = new Float32Array(rows.length * each);
  for (const [at, row] of rows.entries()) {
    values.set((set.images.data as Float32Array).subarray(row * each, (row + 1) * each), at * each);
  }
  return {
    images: { ...set.images, shape: [rows.length, ...shape], data: values } as ImageSet['images'],
    labels: Int32Array.from(rows, (row) => index[set.labels[row]!]!),
    classes,
    files: rows.map((row) => set.files[row]!),
    skipped: [],
  };
}
