import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { zipSync } from 'fflate';
import sharp, { type Sharp } from 'sharp';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ReadImagesOptions, readImages } from './read-images.js';

let base: string;
beforeEach(async () => {
  base = await realpath(await mkdtemp(join(tmpdir(), 'fewtune-images-')));
});
afterEach(() => rm(base, { recursive: true, force: true }));

type Rgb = readonly [number, number, number];
const encoders = {
  png: (image: Sharp) => image.png(),
  jpeg: (image: Sharp) => image.jpeg({ quality: 100, chromaSubsampling: '4:4:4' }),
  webp: (image: Sharp) => image.webp({ lossless: true }),
};

/** An encoded image whose pixels are what `colour` says. */
async function picture(
  width: number,
  height: number,
  colour: (x: number, y: number) => Rgb,
  format: keyof typeof encoders = 'png',
): Promise<Uint8Array> {
  const raw = Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const place = Math.floor(i / 3);
    return colour(place % width, Math.floor(place / width))[i % 3]!;
  });
  return encoders[format](sharp(raw, { raw: { width, height, channels: 3 } })).toBuffer();
}

const grey = (level: number) => () => [level, level, level] as const;

async function write(files: Record<string, string | Uint8Array>): Promise<string> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(base, 'set', path)), { recursive: true });
    await writeFile(join(base, 'set', path), content);
  }
  return join(base, 'set');
}

async function valuesOf(image: Uint8Array, options: ReadImagesOptions): Promise<number[]> {
  const { images } = await readImages(await write({ 'one/image.png': image }), options);
  return [...(images.data as Float32Array)];
}

describe('pixels', () => {
  test('grey: rows of 0 to 1, by class and file name; `invert` makes ink bright', async () => {
    const steps = await picture(2, 2, (x, y) => grey(51 * (2 * y + x))());
    const folder = await write({ 'b/1.png': steps, 'a/2.png': await picture(2, 2, grey(255)), 'a/1.png': steps });
    const { images, labels, classes, files, skipped } = await readImages(folder, { size: 2 });
    expect({ labels, classes, files, skipped }).toEqual({
      labels: Int32Array.of(0, 0, 1),
      classes: ['a', 'b'],
      files: ['a/1.png', 'a/2.png', 'b/1.png'],
      skipped: [],
    });
    expect(images.shape).toEqual([3, 1, 2, 2]);
    const ramp = Float32Array.of(0, 0.2, 0.4, 0.6);
    expect(images.data).toEqual(Float32Array.of(...ramp, 1, 1, 1, 1, ...ramp));
    const inverted = await readImages(folder, { size: 2, invert: true });
    const around = [...(images.data as Float32Array)].map((value) => expect.closeTo(1 - value, 6));
    expect([...(inverted.images.data as Float32Array)]).toEqual(around);
  });

  test.each(['png', 'jpeg', 'webp'] as const)('%s in colour: planes of red, green, blue', async (format) => {
    const image = await picture(8, 8, (x) => (x < 4 ? [255, 0, 0] : [0, 0, 255]), format);
    const values = await valuesOf(image, { size: 8, channels: 3 });
    const at = (channel: number, x: number) => values[channel * 64 + 3 * 8 + x]!;
    for (const [x, wanted] of [
      [1, [1, 0, 0]],
      [6, [0, 0, 1]],
    ] as const) {
      // A JPEG keeps colours in YCbCr, within rounding.
      for (const channel of [0, 1, 2]) expect(Math.abs(at(channel, x) - wanted[channel]!)).toBeLessThan(0.02);
    }
  });

  test('a grey file fills three channels, a colour file gives its luma', async () => {
    const level = await sharp(Uint8Array.of(102), { raw: { width: 1, height: 1, channels: 1 } })
      .png()
      .toBuffer();
    expect(await valuesOf(level, { size: 1, channels: 3 })).toEqual([0.4, 0.4, 0.4].map(Math.fround));
    const [green] = await valuesOf(await picture(1, 1, () => [0, 255, 0]), { size: 1 });
    const [blue] = await valuesOf(await picture(1, 1, () => [0, 0, 255]), { size: 1 });
    expect(green).toBeGreaterThan(0.5);
    expect(blue).toBeLessThan(0.3);
  });

  test('1 bit, 16 bit, transparent, and turned by EXIF', async () => {
    const dots = sharp(await picture(2, 1, (x) => grey(255 * x)()));
    expect(
      await valuesOf(await dots.clone().greyscale().png({ palette: true, colours: 2 }).toBuffer(), {
        size: { height: 1, width: 2 },
      }),
    ).toEqual([0, 1]);
    const deep = await dots.clone().toColourspace('rgb16').png().toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe('ushort');
    expect(await valuesOf(deep, { size: { height: 1, width: 2 } })).toEqual([0, 1]);
    const clear = await sharp({ create: { width: 1, height: 1, channels: 4, background: '#00000000' } })
      .png()
      .toBuffer();
    expect(await valuesOf(clear, { size: 1 })).toEqual([1]);
    expect(await valuesOf(clear, { size: 1, background: 'black' })).toEqual([0]);
    const turned = await dots.clone().withMetadata({ orientation: 6 }).png().toBuffer(); // to be shown 90° clockwise
    expect(await valuesOf(turned, { size: { height: 2, width: 1 }, resize: false })).toEqual([0, 1]);
  });
});

describe('other sizes', () => {
  const bar = () => picture(8, 4, (x) => grey(x < 4 ? 0 : 102)());

  test('contain pads, cover cuts, fill stretches', async () => {
    const at = async (fit: 'contain' | 'cover' | 'fill') =>
      (await valuesOf(await bar(), { size: 4, fit })).map((value) => Math.round(value * 10) / 10);
    const contained = await at('contain'); // 4 × 2 in the middle, white above and below
    expect(contained.slice(0, 4)).toEqual([1, 1, 1, 1]);
    expect(contained.slice(12)).toEqual([1, 1, 1, 1]);
    expect([contained[4], contained[7]]).toEqual([0, 0.4]);
    expect(await at('cover')).toEqual([0, 0, 0.4, 0.4, 0, 0, 0.4, 0.4, 0, 0, 0.4, 0.4, 0, 0, 0.4, 0.4]);
    expect((await at('fill')).filter((_, i) => i % 4 === 3)).toEqual([0.4, 0.4, 0.4, 0.4]);
  });

  test('shrinking averages: a chess board becomes grey', async () => {
    const board = await picture(64, 64, (x, y) => grey(((x + y) % 2) * 255)());
    for (const value of await valuesOf(board, { size: 8 })) expect(Math.abs(value - 0.5)).toBeLessThan(0.03);
  });

  test('refused with `resize: false`, with the file and both sizes', async () => {
    const folder = await write({ 'a/good.png': await picture(4, 4, grey(0)), 'b/wide.png': await bar() });
    await expect(readImages(folder, { size: 4, resize: false })).rejects.toMatchObject({
      code: 'IMAGE_SIZE',
      message: expect.stringMatching(/b\/wide\.png: the image is 8 × 4 pixels, wanted are 4 × 4/),
    });
  });

  test.each([0, -1, 2.5])('size %d', async (size) => {
    await expect(readImages(base, { size })).rejects.toMatchObject({ code: 'OPTION_INVALID' });
  });
});

describe('broken files', () => {
  test('are listed, with their class when it has no other', async () => {
    const good = await picture(16, 16, (x, y) => grey((x * y) % 256)());
    const folder = await write({
      'a/cut.png': good.subarray(0, good.length - 40),
      'a/good.png': good,
      'a/notes.txt': 'x',
      'b/text.png': 'no image',
      'loose.png': good,
    });
    const { labels, classes, skipped } = await readImages(folder, { size: 16 });
    expect({ labels, classes }).toEqual({ labels: Int32Array.of(0), classes: ['a'] });
    expect(skipped.map(({ path }) => path)).toEqual(['a/cut.png', 'a/notes.txt', 'b', 'b/text.png', 'loose.png']);
    await expect(readImages(folder, { size: 16, strict: true })).rejects.toMatchObject({
      code: 'FILE_UNREADABLE',
      message: expect.stringMatching(/^(a\/cut|b\/text)\.png: no image, or damaged/),
    });
  });

  test('nothing readable, no folder', async () => {
    const folder = await write({ 'a/x.png': 'x', 'b/y.png': 'y' });
    await expect(readImages(folder, { size: 4 })).rejects.toMatchObject({
      code: 'ROWS_EMPTY',
      message: expect.stringContaining('no image of 2 can be read: a/x.png'),
    });
    await expect(readImages(join(base, 'gone'), { size: 4 })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});

describe('class names', () => {
  test('nested folders, a folder with images and folders, links in a circle', async () => {
    const image = await picture(2, 2, grey(0));
    const folder = await write({
      'Greek/alpha/1.png': image,
      'Greek/beta/1.png': image,
      'ひらがな/あ/1.png': image,
      'Greek/0.png': image,
    });
    await symlink(join(folder, 'Greek'), join(folder, 'Greek/again'));
    const { classes, labels, skipped } = await readImages(folder, { size: 2 });
    expect(classes).toEqual(['Greek', 'Greek/alpha', 'Greek/beta', 'ひらがな/あ']);
    expect(labels).toEqual(Int32Array.of(0, 1, 2, 3));
    expect(skipped).toEqual([{ path: 'Greek/again', reason: 'a link to a folder that is read already' }]);
  });

  test('one name in two Unicode forms', async () => {
    const image = await picture(2, 2, grey(0));
    const folder = await write({ 'caf\u00e9/1.png': image, 'cafe\u0301/1.png': image });
    await expect(readImages(folder, { size: 2 })).rejects.toMatchObject({ code: 'LABELS_CONFLICT' });
  });
});

describe('ZIP archives', () => {
  const archive = async (bytes: Uint8Array) => {
    await writeFile(join(base, 'images.zip'), bytes);
    return join(base, 'images.zip');
  };

  test.each([0, 6] as const)('compression level %i: the same as the folder', async (level) => {
    const ramp = (step: number) => picture(4, 4, (x, y) => grey((step * (x + 4 * y)) % 256)());
    const files = { 'b/1.png': await ramp(3), 'a/é/2.png': await ramp(11), 'a/é/1.png': await ramp(7) };
    const zip = await archive(
      zipSync({ ...files, 'a/.hidden.png': new Uint8Array(1), 'README.md': new Uint8Array(1) }, { level }),
    );
    const [packed, loose] = [await readImages(zip, { size: 4 }), await readImages(await write(files), { size: 4 })];
    expect(packed).toEqual({
      ...loose,
      skipped: [{ path: 'README.md', reason: expect.stringContaining('not one of') }],
    });
    expect(packed.classes).toEqual(['a/é', 'b']);
  });

  test('names in UTF-8 without the mark that says so', async () => {
    const bytes = zipSync({ 'caf\u00e9/1.png': await picture(2, 2, grey(0)) }, { level: 0 });
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + 4 <= bytes.length; at++) {
      const signature = view.getUint32(at, true);
      // Bit 11 of the flags, in the local header and in the central directory.
      if (signature === 0x04034b50) view.setUint16(at + 6, view.getUint16(at + 6, true) & ~0x800, true);
      if (signature === 0x02014b50) view.setUint16(at + 8, view.getUint16(at + 8, true) & ~0x800, true);
    }
    expect((await readImages(await archive(bytes), { size: 2 })).classes).toEqual(['café']);
  });

  test('one damaged entry is listed; what is no archive is refused', async () => {
    const noise = await picture(32, 32, (x, y) => grey((x * 37 + y * y * 11) % 256)());
    const bytes = zipSync({ 'a/1.png': noise, 'a/2.png': noise }, { level: 6 });
    bytes.fill(0xff, 50, 60); // inside the first entry's data
    const { files, skipped } = await readImages(await archive(bytes), { size: 32 });
    expect(files).toEqual(['a/2.png']);
    expect(skipped.map(({ path }) => path)).toEqual(['a/1.png']);
    await expect(readImages(await archive(new Uint8Array(100)), { size: 4 })).rejects.toMatchObject({
      code: 'FILE_UNREADABLE',
    });
    await expect(readImages(await archive(zipSync({ 'a.png': noise })), { size: 4 })).rejects.toMatchObject({
      code: 'ROWS_EMPTY',
    });
  });
});
