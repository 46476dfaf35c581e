import { FewtuneError } from '../errors.js';

/** What becomes of an image whose width is not its height, when it is brought to the wanted size. */
export type ImageFit = 'contain' | 'cover' | 'fill';

export interface ImageOptions {
  /** Height and width of the result in pixels. */
  readonly size: number | { readonly height: number; readonly width: number };
  /** 1: grey (luma of sRGB values), 3: red, green, blue. 1 when left out. */
  readonly channels?: 1 | 3;
  /** 1 − x, so that ink on white paper is bright and the paper 0, as the Omniglot protocol has it. */
  readonly invert?: boolean;
  /**
   * Images of another size are resampled with the Lanczos kernel (a = 3, which averages over the pixels that fall on one).
   * `false` refuses them.
   */
  readonly resize?: boolean;
  /**
   * `contain` (default) keeps the proportions and pads with `background`, `cover` keeps them and cuts off what is over, at
   * both ends alike, `fill` stretches.
   */
  readonly fit?: ImageFit;
  /** Colour of padding and of what is transparent, any CSS colour; white when left out. */
  readonly background?: string;
}

/** Extensions that are read, lower case. */
export const imageExtensions: readonly string[] = ['.png', '.jpg', '.jpeg', '.webp', '.gif', '.tif', '.tiff', '.avif'];

/** A file that is no image, or a damaged one. */
export class BrokenImage extends Error {}

export interface Size {
  readonly height: number;
  readonly width: number;
}

export function imageSize({ size }: ImageOptions): Size {
  const { height, width } = typeof size === 'number' ? { height: size, width: size } : size;
  for (const side of [height, width]) {
    if (!Number.isSafeInteger(side) || side < 1) {
      throw new FewtuneError('OPTION_INVALID', `size: ${side} is not a whole number of pixels, 1 or more.`);
    }
  }
  return { height, width };
}

/**
 * One image as numbers from 0 to 1, [channels, height, width]. Turned upright where its EXIF data say so; of an animation
 * the first picture. Everything is computed on 8-bit sRGB values.
 *
 * @param name of the file, for messages
 * @throws BrokenImage when the bytes are no image or a damaged one; FewtuneError IMAGE_SIZE when `resize` is false and the
 *   size is another, OPTION_INVALID
 */
export async function decodeImage(bytes: Uint8Array, name: string, options: ImageOptions): Promise<Float32Array> {
  const { default: sharp } = await import('sharp');
  const { channels = 1, resize = true, fit = 'contain', background = 'white', invert = false } = options;
  const { height, width } = imageSize(options);
  const decoded = async () => {
    const image = sharp(bytes, { failOn: 'error' }).autoOrient();
    const found = (await image.metadata()).autoOrient;
    if (!resize && (found.height !== height || found.width !== width)) {
      throw new FewtuneError(
        'IMAGE_SIZE',
        `${name}: the image is ${found.width} × ${found.height} pixels, wanted are ${width} × ${height} (width × height). ` +
          'Bring it to that size, or allow resizing.',
      );
    }
    const sized = image.flatten({ background }).resize({ width, height, fit, background });
    const coloured = channels === 1 ? sized.greyscale().toColourspace('b-w') : sized.toColourspace('srgb');
    return coloured.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  };
  const { data, info } = await decoded().catch((cause: Error) => {
    if (cause instanceof FewtuneError) throw cause;
    throw new BrokenImage(cause.message.split('\n')[0], { cause });
  });
  const places = height * width;
  const values = new Float32Array(channels * places);
  for (let place = 0; place < places; place++) {
    for (let channel = 0; channel < channels; channel++) {
      const value = data[place * info.channels + channel]! / 255;
      values[channel * places + place] = invert ? 1 - value : value;
    }
  }
  return values;
}
