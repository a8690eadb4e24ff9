/* Runs in: parent. Purpose: the line that somebody edits under the bars; output_state.h. */
#define _POSIX_C_SOURCE 200809L
#include "output_state.h"

#include "width.h"

/* One row of the edited text after the other. */
struct rows {
  const char *text;
  size_t length;
  size_t width;       /* cells of a row */
  size_t at;          /* where the next row begins */
  size_t start, stop; /* the row */
  int done;           /* it was the last one */
};

static struct rows rows_of(const struct mch_edit *edit, unsigned columns) {
  struct rows rows = {0};
  rows.text = (const char *)edit->text.data + edit->text.read;
  rows.length = mch_buf_unread(&edit->text);
  /* The last column stays empty: what a terminal does behind it is not the same everywhere. */
  rows.width = columns > 2 ? columns - 1 : 2;
  return rows;
}

/* The text up to the next colour sequence. */
static size_t plain(const char *text, size_t length) {
  size_t at = 0;
  while (at < length && mch_width_colour(text + at, length - at) == 0)
    at++;
  return at;
}

/* The cells of a row, or of part of one. Colours take none. It is appended to `to`, made harmless,
 * unless that is NULL. */
static size_t put_row(struct mch_buf *to, const char *text, size_t length) {
  size_t cells = 0, at = 0, count;
  while (at < length) {
    count = plain(text + at, length - at);
    cells += to != NULL ? mch_width_put(to, text + at, count, SIZE_MAX)
                        : mch_width_cells(text + at, count);
    at += count;
    count = mch_width_colour(text + at, length - at);
    if (to != NULL)
      mch_buf_append(to, text + at, count);
    at += count;
  }
  return cells;
}

/* The first character, or colour. */
static size_t first(const char *text, size_t length) {
  uint32_t code;
  size_t count = mch_width_colour(text, length);
  return count > 0 ? count : mch_width_decode(text, length, &code);
}

/* Step to the next row: 0 if there is none. */
static int next_row(struct rows *rows) {
  const char *text = rows->text;
  if (rows->done)
    return 0;
  rows->start = rows->at;
  while (rows->at < rows->length && text[rows->at] != '\n') {
    size_t stop = rows->at + first(text + rows->at, rows->length - rows->at);
    /* From the start: what follows a character may widen it. */
    if (put_row(NULL, text + rows->start, stop - rows->start) > rows->width)
      break;
    rows->at = stop;
  }
  rows->stop = rows->at;
  rows->done = rows->at == rows->length;
  if (!rows->done && text[rows->at] == '\n')
    rows->at++;
  return 1;
}

/* Is the cursor in this row? Behind a wrapped one it is at the beginning of the next. */
static int has_cursor(const struct rows *rows, size_t cursor) {
  return cursor >= rows->start && (cursor < rows->at || (cursor == rows->at && rows->done));
}

/* All rows; the one with the cursor in *line. */
static size_t count_rows(const struct mch_edit *edit, unsigned columns, size_t *line) {
  struct rows rows = rows_of(edit, columns);
  size_t count = 0;
  *line = 0;
  while (next_row(&rows)) {
    if (has_cursor(&rows, edit->cursor))
      *line = count;
    count++;
  }
  return count;
}

size_t mch_output_edit_rows(const struct mch_output *out, unsigned columns, unsigned rows) {
  size_t line, count;
  if (!out->edit.active)
    return 0;
  count = count_rows(&out->edit, columns, &line);
  return count < rows ? count : rows;
}

static void add_row(struct mch_output *out, const struct rows *row) {
  const char *text = row->text + row->start;
  size_t cells;
  if (has_cursor(row, out->edit.cursor))
    mch_screen_cursor(&out->screen, (unsigned)put_row(NULL, text, out->edit.cursor - row->start));
  mch_buf_clear(&out->scratch);
  cells = put_row(&out->scratch, text, row->stop - row->start);
  mch_screen_line(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), cells);
}

/* Of a text that is higher than the window, the rows that end with the cursor's. */
void mch_output_add_edit(struct mch_output *out, unsigned columns, unsigned rows) {
  struct rows row = rows_of(&out->edit, columns);
  size_t room = mch_output_edit_rows(out, columns, rows), line, hidden, i;
  if (room == 0)
    return;
  count_rows(&out->edit, columns, &line);
  hidden = line >= room ? line + 1 - room : 0;
  for (i = 0; i < hidden + room && next_row(&row); i++)
    if (i >= hidden)
      add_row(out, &row);
}

void mch_output_keep_edit(struct mch_output *out) {
  struct mch_edit *edit = &out->edit;
  const char *text = (const char *)edit->text.data + edit->text.read;
  size_t length = mch_buf_unread(&edit->text), at, end;
  for (at = 0; at <= length; at = end + 1) {
    for (end = at; end < length && text[end] != '\n'; end++)
      ;
    put_row(&out->above, text + at, end - at);
    mch_buf_u8(&out->above, '\n');
  }
  edit->active = 0;
}
