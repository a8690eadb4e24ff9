/* Runs in: both.
 *
 * How wide text is on a terminal, and how to make text of unknown origin harmless there.
 *
 * Widths are counted in cells: 2 for East Asian wide characters and emoji, 0 for combining marks,
 * 1 for the rest. The table is our own (Unicode 14), so that widths depend neither on the locale of
 * the host nor on its libc. Where terminals differ (joined emoji), the larger width is counted: a
 * line may end too early, but never wraps. */
#ifndef MCH_WIDTH_H
#define MCH_WIDTH_H

#include <stddef.h>
#include <stdint.h>

struct mch_buf;

#define MCH_UTF8_INVALID UINT32_MAX

/* Take one character off the front of `text` (length > 0): the number of its bytes, its code point
 * in *code. A byte that begins no valid character is taken alone, as MCH_UTF8_INVALID. */
size_t mch_width_decode(const char *text, size_t length, uint32_t *code);

/* The cells of one code point that is not a control character. */
unsigned mch_width_code(uint32_t code);

/* The cells that mch_width_put() would use, had it room without end. */
size_t mch_width_cells(const char *text, size_t length);

/* Append `text` to `to`, made harmless, as far as `room` cells hold it; returns the cells used.
 * White space of any kind becomes a space, control characters and invalid bytes become '?';
 * colours, and what would turn the direction of the line, are dropped. */
size_t mch_width_put(struct mch_buf *to, const char *text, size_t length, size_t room);

/* The length of the colour sequence (ESC [ ... m) at the front of `text`, 0 if there is none. */
size_t mch_width_colour(const char *text, size_t length);

/* How far the cursor of a terminal with `columns` columns travels when it shows `text` as it is,
 * starting in column 0: the number of rows down, and the column then in *column. -1 when that is
 * not known (`text` holds control characters other than newlines, tabs and colours). */
long mch_width_travel(const char *text, size_t length, unsigned columns, unsigned *column);

#endif
