/* Runs in: parent. Purpose: the line that somebody edits under the bars; output_state.h. */
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

/* Step to the next row: 0 if there is none. */
static int next_row(struct rows *rows) {
  if (rows->done)
    return 0;
  rows->start = rows->at;
  while (rows->at < rows->length && rows->text[rows->at] != '\n') {
    uint32_t code;
    size_t bytes = mch_width_decode(rows->text + rows->at, rows->length - rows->at, &code);
    /* From the start: what follows a character may widen it. */
    if (mch_width_cells(rows->text + rows->start, rows->at + bytes - rows->start) > rows->width)
      break;
    rows->at += bytes;
  }
  rows->stop = rows->at;
  rows->done = rows->at == rows->length;
  if (!rows->done && rows->text[rows->at] == '\n')
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
  const struct mch_edit *edit = &out->edit;
  size_t cells;
  if (has_cursor(row, edit->cursor))
    mch_screen_cursor(&out->screen,
                      (unsigned)mch_width_cells(row->text + row->start, edit->cursor - row->start));
  mch_buf_clear(&out->scratch);
  cells = mch_width_put(&out->scratch, row->text + row->start, row->stop - row->start, row->width);
  mch_screen_line(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), cells);
}

/* Of a text that is higher than the window, the rows that end with the cursor's. */
void mch_output_add_edit(struct mch_output *out, unsigned columns, unsigned rows) {
  struct rows row = rows_of(&out->edit, columns);
  size_t room = mch_output_edit_rows(out, columns, rows), line, first, i;
  if (room == 0)
    return;
  count_rows(&out->edit, columns, &line);
  first = line >= room ? line + 1 - room : 0;
  for (i = 0; i < first + room && next_row(&row); i++)
    if (i >= first)
      add_row(out, &row);
}

void mch_output_keep_edit(struct mch_output *out) {
  struct mch_edit *edit = &out->edit;
  const char *text = (const char *)edit->text.data + edit->text.read;
  size_t length = mch_buf_unread(&edit->text), at, end;
  for (at = 0; at <= length; at = end + 1) {
    for (end = at; end < length && text[end] != '\n'; end++)
      ;
    mch_width_put(&out->above, text + at, end - at, SIZE_MAX);
    mch_buf_u8(&out->above, '\n');
  }
  edit->active = 0;
}
