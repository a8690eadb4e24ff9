/* Runs in: parent.
 *
 * The live lines at the bottom of what a terminal shows: the host's unfinished line, bars, "... and
 * 37 more", a line that is being edited. They are overwritten again and again; everything else is
 * written once, above them. The cursor waits in column 0 of the row under them, so that whatever
 * ends the process leaves the prompt on a line of its own; or inside, where somebody edits. Pure:
 * bytes come out, the caller writes them and says if they went out (a frame that was not written
 * has changed nothing). */
#ifndef MCH_SCREEN_H
#define MCH_SCREEN_H

#include <stddef.h>

#include "runtime/base/buf.h"

/* Lines of the next or the last frame: their bytes in one run, and where each ends. */
struct mch_screen_lines {
  struct mch_buf bytes;
  struct mch_buf ends; /* where each line ends: struct end of screen.c */
  int edited;          /* the cursor is inside: in this line and column, both from 0 */
  size_t line;
  unsigned column;
};

struct mch_screen {
  unsigned columns, rows;
  unsigned drawn_columns; /* when the last frame was */
  size_t lowered;         /* rows that the cursor is further down: see mch_screen_lowered() */
  int cuts;               /* a narrower window cuts lines; else it folds them */
  struct mch_screen_lines shown, next;
  struct mch_buf above; /* of the next frame: whole lines that stay */
  int aligned;          /* they must begin in column 0 */
};

/* Begin to collect the next frame. */
void mch_screen_begin(struct mch_screen *screen, unsigned columns, unsigned rows);

/* Whole lines, each with its newline, to be written above the live ones. `aligned`: they must begin
 * in column 0, wherever the host has left the cursor. (Where there are live lines they always do.)
 */
void mch_screen_above(struct mch_screen *screen, const void *bytes, size_t length, int aligned);

/* One live line without its newline, `cells` wide. */
void mch_screen_line(struct mch_screen *screen, const void *bytes, size_t length, size_t cells);

/* The cursor shall be in this column of the live line that comes next, rather than under them. */
void mch_screen_cursor(struct mch_screen *screen, unsigned column);

/* The bytes that turn what is shown into the next frame; none if it is the same. MCH_NOMEM if one
 * of the buffers could not grow. */
int mch_screen_compose(struct mch_screen *screen, struct mch_buf *to);

/* They have been written: the next frame is what is shown. */
void mch_screen_commit(struct mch_screen *screen);

/* The number of live lines that are shown. */
size_t mch_screen_live(const struct mch_screen *screen);

/* Somebody has typed Enter, and the terminal has moved the cursor down by a row, under what was
 * shown.
 */
void mch_screen_lowered(struct mch_screen *screen);

/* Leave what is shown where it is; the next frame begins anew under it. */
void mch_screen_detach(struct mch_screen *screen);

void mch_screen_free(struct mch_screen *screen);

#endif
