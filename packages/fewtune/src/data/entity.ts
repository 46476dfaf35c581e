/** A labelled part of a text: UTF-16 code units [start, end), so that `text.slice(start, end)` is what it names. */
export interface Entity {
  readonly start: number;
  readonly end: number;
  readonly label: string;
}
