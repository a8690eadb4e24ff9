/* Runs in: parent. Purpose: screen.h. */
#include "screen.h"

#include <stdio.h>
#include <string.h>

struct end {
  size_t offset; /* in bytes, behind the line */
  size_t cells;
};

static void put(struct mch_buf *to, const char *text) {
  mch_buf_append(to, text, strlen(text));
}

static size_t count(const struct mch_screen_lines *lines) {
  return mch_buf_unread(&lines->ends) / sizeof(struct end);
}

static struct end end_of(const struct mch_screen_lines *lines, size_t index) {
  struct end end;
  memcpy(&end, lines->ends.data + index * sizeof end, sizeof end);
  return end;
}

static void clear(struct mch_screen_lines *lines) {
  mch_buf_clear(&lines->bytes);
  mch_buf_clear(&lines->ends);
  lines->edited = 0;
}

static int failed(const struct mch_screen *screen) {
  const struct mch_screen_lines *next = &screen->next;
  return screen->above.failed != 0 ? screen->above.failed
         : next->bytes.failed != 0 ? next->bytes.failed
                                   : next->ends.failed;
}

/* The rows that the first of the shown lines take now. When the window has become narrower, most
 * terminals fold lines that do not fit any more. */
static size_t height(const struct mch_screen *screen, size_t lines) {
  size_t i, rows = 0;
  if (screen->cuts)
    return lines;
  for (i = 0; i < lines; i++) {
    size_t cells = end_of(&screen->shown, i).cells;
    rows += cells <= screen->columns ? 1 : (cells + screen->columns - 1) / screen->columns;
  }
  return rows;
}

/* The rows between the first of the shown lines and the cursor. */
static size_t rows_to_cursor(const struct mch_screen *screen) {
  const struct mch_screen_lines *shown = &screen->shown;
  if (!shown->edited)
    return height(screen, count(shown));
  return height(screen, shown->line) + (screen->cuts ? 0 : shown->column / screen->columns);
}

static int same(const struct mch_screen_lines *a, const struct mch_screen_lines *b) {
  size_t length = mch_buf_unread(&a->bytes);
  if (a->edited != b->edited || (a->edited && (a->line != b->line || a->column != b->column)))
    return 0;
  return count(a) == count(b) && length == mch_buf_unread(&b->bytes) &&
         (length == 0 || memcmp(a->bytes.data, b->bytes.data, length) == 0);
}

void mch_screen_begin(struct mch_screen *screen, unsigned columns, unsigned rows) {
  screen->columns = columns;
  screen->rows = rows;
  clear(&screen->next);
  mch_buf_clear(&screen->above);
  screen->aligned = 0;
}

void mch_screen_above(struct mch_screen *screen, const void *bytes, size_t length, int aligned) {
  mch_buf_append(&screen->above, bytes, length);
  screen->aligned |= aligned;
}

void mch_screen_line(struct mch_screen *screen, const void *bytes, size_t length, size_t cells) {
  struct end end;
  mch_buf_append(&screen->next.bytes, bytes, length);
  end.offset = screen->next.bytes.length;
  end.cells = cells;
  mch_buf_append(&screen->next.ends, &end, sizeof end);
}

void mch_screen_cursor(struct mch_screen *screen, unsigned column) {
  screen->next.edited = 1;
  screen->next.line = count(&screen->next);
  screen->next.column = column;
}

/* Where the cursor is, is not known: fill a row with spaces. From column 0 they end in its last
 * column, from elsewhere in the row below; the carriage return then leads to an empty column 0. */
static void put_fresh_line(const struct mch_screen *screen, struct mch_buf *to) {
  unsigned i;
  for (i = 0; i < screen->columns; i++)
    mch_buf_u8(to, ' ');
  put(to, "\r");
}

static void put_up(struct mch_buf *to, size_t rows) {
  char text[32];
  snprintf(text, sizeof text, "\033[%zuA", rows);
  if (rows > 0)
    put(to, text);
}

/* To the first column of the first shown line. Where nothing is shown, the host may have left the
 * cursor anywhere. */
static void put_home(const struct mch_screen *screen, struct mch_buf *to) {
  int shown = count(&screen->shown) > 0;
  if (!shown && (screen->aligned || count(&screen->next) > 0))
    put_fresh_line(screen, to);
  if (!shown)
    return;
  put(to, "\r");
  put_up(to, rows_to_cursor(screen) + screen->lowered);
}

/* Live lines. `over`: there may be older text under them. */
static void put_lines(const struct mch_screen *screen, struct mch_buf *to, int over) {
  size_t i, at = 0, total = count(&screen->next);
  for (i = 0; i < total; i++) {
    struct end end = end_of(&screen->next, i);
    mch_buf_append(to, screen->next.bytes.data + at, end.offset - at);
    if (over && end.cells < screen->columns)
      put(to, "\033[K");
    if (i + 1 < total || !screen->next.edited)
      put(to, "\n");
    at = end.offset;
  }
}

/* From the end of the last live line to where somebody edits. */
static void put_cursor(const struct mch_screen *screen, struct mch_buf *to) {
  const struct mch_screen_lines *next = &screen->next;
  char text[32];
  if (!next->edited)
    return;
  put(to, "\r");
  put_up(to, count(next) - 1 - next->line);
  snprintf(text, sizeof text, "\033[%uC", next->column);
  if (next->column > 0)
    put(to, text);
}

/* Whole lines. A colour that they leave on ends here. */
static void put_above(const struct mch_screen *screen, struct mch_buf *to) {
  const unsigned char *text = screen->above.data + screen->above.read;
  size_t length = mch_buf_unread(&screen->above);
  mch_buf_append(to, text, length);
  if (length > 0 && memchr(text, '\033', length) != NULL)
    put(to, "\033[m");
}

/* Erase from column 0 of this row to the end. Not by one "erase below": where it would empty the
 * whole window some terminals keep what was there in their history, and that fills with old bars.
 */
static void put_erase(struct mch_buf *to) {
  put(to, "\033[K\n\033[J\033[A");
}

/* Live lines are written over the old ones, which does not flicker. Other lines need an empty
 * screen (tabs do not erase). So do live lines after a new width: rows that the terminal has folded
 * stay joined in its memory until they are erased.
 *
 * A terminal that knows mode 2026 shows nothing until the frame is complete; others ignore modes
 * that they do not know. To ask first would mean to read the answer out of the host's input. */
static void put_frame(const struct mch_screen *screen, struct mch_buf *to) {
  size_t rows = height(screen, count(&screen->shown));
  int over = mch_buf_unread(&screen->above) == 0 && count(&screen->shown) > 0 &&
             count(&screen->next) > 0 && screen->drawn_columns == screen->columns &&
             screen->lowered == 0;
  put(to, "\033[?2026h");
  put_home(screen, to);
  if (!over && rows < 2 && screen->next.edited)
    put(to, "\033[J"); /* the line that is edited may be in the last row of the window */
  else if (!over)
    put_erase(to);
  put_above(screen, to);
  put_lines(screen, to, over);
  if (over && rows > count(&screen->next))
    put(to, "\033[J");
  put_cursor(screen, to);
  put(to, "\033[?2026l");
}

static int is_new(const struct mch_screen *screen) {
  return mch_buf_unread(&screen->above) > 0 || screen->lowered > 0 ||
         !same(&screen->shown, &screen->next) ||
         (count(&screen->next) > 0 && screen->drawn_columns != screen->columns);
}

int mch_screen_compose(struct mch_screen *screen, struct mch_buf *to) {
  mch_buf_clear(to);
  if (failed(screen) != 0)
    return failed(screen);
  if (!is_new(screen))
    return 0;
  if (count(&screen->shown) > 0 || count(&screen->next) > 0) {
    put_frame(screen, to);
  } else {
    put_home(screen, to);
    put_above(screen, to);
  }
  return to->failed;
}

void mch_screen_commit(struct mch_screen *screen) {
  struct mch_screen_lines shown = screen->shown;
  screen->drawn_columns = screen->columns;
  screen->lowered = 0;
  screen->shown = screen->next;
  screen->next = shown;
  clear(&screen->next);
  mch_buf_clear(&screen->above);
}

size_t mch_screen_live(const struct mch_screen *screen) {
  return count(&screen->shown);
}

void mch_screen_lowered(struct mch_screen *screen) {
  screen->lowered += count(&screen->shown) > 0;
}

void mch_screen_detach(struct mch_screen *screen) {
  screen->lowered = 0;
  clear(&screen->shown);
}

void mch_screen_free(struct mch_screen *screen) {
  mch_buf_free(&screen->shown.bytes);
  mch_buf_free(&screen->shown.ends);
  mch_buf_free(&screen->next.bytes);
  mch_buf_free(&screen->next.ends);
  mch_buf_free(&screen->above);
}
