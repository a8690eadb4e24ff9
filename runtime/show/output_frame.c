/* Runs in: parent. Purpose: bars on a terminal, and the host's text above them; output_state.h. */
#define _POSIX_C_SOURCE 200809L
#include "output_state.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "width.h"

static const uint64_t absence = SECOND / 4; /* who has not pumped for so long is away */

/* Lines of tasks that wait while somebody types. */
enum { MOST_WAITING = 65536 };

/* Nonzero if exit() will let go what is held. */
static int anchored(struct mch_output *out) {
  if (out->anchor == NULL)
    out->anchor = mch_anchor_cast(mch_output_leave, out);
  return out->anchor != NULL;
}

/* Which streams of the host print into our bars? */
static int disturbing(const struct mch_output *out) {
  if (!mch_output_real(out) || !out->terminal)
    return 0;
  return out->same ? MCH_HOLD_STDOUT | MCH_HOLD_STDERR : MCH_HOLD_STDERR;
}

int mch_output_lock_stdout(const struct mch_output *out, int on_lua_thread) {
  int locked = mch_output_real(out) ? mch_hold_lock(MCH_HOLD_STDOUT, on_lua_thread) : 0;
  if (locked <= 0)
    return locked;
  if (on_lua_thread)
    mch_hold_flush_stdout();
  if (on_lua_thread || !mch_platform_stdout_pending())
    return locked;
  mch_hold_unlock(locked);
  return -1;
}

/* Running bars that are drawn, if there is room. */
static size_t drawable(const struct mch_output *out) {
  return out->mode != MCH_PROGRESS_BAR || out->away || out->asking ? 0
                                                                   : out->progress.running.count;
}

/* Keep the host from printing while we draw: -1 if it is printing just now. While there are bars,
 * its text is held. */
static int lock_host(struct mch_output *out, int on_lua_thread) {
  int locked;
  if (disturbing(out) == 0 || (drawable(out) == 0 && !out->edit.active && out->hold.streams == 0))
    return out->same ? mch_output_lock_stdout(out, on_lua_thread) : 0;
  locked = mch_hold_lock(disturbing(out), on_lua_thread);
  if (locked > 0 && anchored(out))
    mch_hold_begin(&out->hold, locked);
  return locked;
}

/* Whole lines of the host join the others. Its unfinished line stays, if it can be drawn as a live
 * line: else it is finished. */
static void split_host(struct mch_output *out, unsigned columns) {
  const char *text = (const char *)out->host.data + out->host.read;
  size_t length = mch_buf_unread(&out->host), whole = length;
  unsigned column;
  while (whole > 0 && text[whole - 1] != '\n')
    whole--;
  mch_buf_append(&out->above, text, whole);
  mch_buf_consume(&out->host, whole);
  length -= whole;
  if (length == 0 ||
      (mch_width_travel(text + whole, length, columns, &column) == 0 && column < columns))
    return;
  mch_buf_append(&out->above, text + whole, length);
  mch_buf_u8(&out->above, '\n');
  mch_buf_clear(&out->host);
}

static void take_host(struct mch_output *out, unsigned columns, int on_lua_thread) {
  size_t before = mch_buf_unread(&out->host);
  mch_hold_take(&out->hold, &out->host);
  if (out->leaving && !out->edit.active && mch_buf_unread(&out->host) > before)
    mch_screen_detach(&out->screen);
  if (on_lua_thread)
    out->leaving = 0; /* it has come back */
  if (mch_buf_unread(&out->host) > 0)
    split_host(out, columns);
}

void mch_output_take_host(struct mch_output *out, int wait) {
  unsigned columns, rows;
  int locked;
  if (out->hold.streams == 0 || (locked = mch_hold_lock(out->hold.streams, wait)) < 0)
    return;
  mch_output_size(out, &columns, &rows);
  take_host(out, columns, 0);
  mch_hold_unlock(locked);
}

static void measure(struct mch_tty_needs *needs, const struct mch_bar *bar, size_t count,
                    uint64_t now) {
  struct mch_report report;
  for (; bar != NULL && count > 0; bar = bar->next, count--) {
    mch_output_describe(bar, now, &report);
    mch_render_measure(needs, &report);
  }
}

static size_t line_of(struct mch_output *out, const struct mch_tty_layout *layout,
                      const struct mch_bar *bar, uint64_t now) {
  struct mch_report report;
  mch_buf_clear(&out->scratch);
  mch_output_describe(bar, now, &report);
  return mch_render_tty(&out->scratch, layout, &report);
}

static void add_line(struct mch_output *out, size_t cells) {
  mch_screen_line(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), cells);
}

/* Lines from byte `from` to `to` of those that wait. A colour that they leave on ends here, if a
 * bar comes next. */
static void add_lines(struct mch_output *out, size_t from, size_t to, int bar_follows) {
  const unsigned char *text = out->above.data + out->above.read + from;
  if (to == from)
    return;
  mch_screen_above(&out->screen, text, to - from, 0);
  if (bar_follows && memchr(text, '\033', to - from) != NULL)
    mch_screen_above(&out->screen, "\033[m", 3, 0);
}

/* What stays on the screen: lines, and among them the bars that have ended, in their order. */
static void add_above(struct mch_output *out, const struct mch_tty_layout *layout, uint64_t now) {
  const struct mch_bar *bar = out->mode == MCH_PROGRESS_BAR ? out->progress.ended.first : NULL;
  size_t at = 0, length = mch_buf_unread(&out->above);
  for (; bar != NULL; bar = bar->next) {
    size_t place = bar->place < length ? bar->place : length;
    if (place > at)
      add_lines(out, at, place, 1);
    at = place > at ? place : at;
    line_of(out, layout, bar, now);
    mch_buf_u8(&out->scratch, '\n');
    mch_screen_above(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), 1);
  }
  add_lines(out, at, length, 0);
}

static void add_running(struct mch_output *out, const struct mch_tty_layout *layout, size_t count,
                        uint64_t now) {
  const struct mch_bar *bar = out->progress.running.first;
  for (; bar != NULL && count > 0; bar = bar->next, count--)
    add_line(out, line_of(out, layout, bar, now));
}

static void add_more(struct mch_output *out, size_t count, size_t width) {
  char text[64];
  int length = snprintf(text, sizeof text, "... and %zu more", count);
  size_t cells = (size_t)length < width ? (size_t)length : width;
  mch_screen_line(&out->screen, text, cells, cells);
}

/* The host's unfinished line: above the bars while there are some; else the cursor stays behind it.
 */
static void add_host(struct mch_output *out, int live, unsigned columns) {
  const char *text = (const char *)out->host.data + out->host.read;
  size_t length = mch_buf_unread(&out->host);
  unsigned column = 0;
  if (length == 0)
    return;
  mch_width_travel(text, length, columns, &column);
  if (live)
    mch_screen_line(&out->screen, text, length, column);
  else
    mch_screen_above(&out->screen, text, length, 0);
}

/* Lines for running bars: the last of the window is for the cursor, or for what somebody edits, and
 * one is for what the host left unfinished. */
static size_t room_for_bars(const struct mch_output *out, unsigned columns, unsigned rows) {
  size_t edited = mch_output_edit_rows(out, columns, rows);
  size_t room = rows - (edited > 0 ? edited : 1);
  return room > 0 && mch_buf_unread(&out->host) > 0 ? room - 1 : room;
}

/* Put the next frame together. */
static void collect(struct mch_output *out, uint64_t now, unsigned columns, unsigned rows) {
  struct mch_progress *progress = &out->progress;
  struct mch_tty_needs needs = {0, 0, 0, 0};
  struct mch_tty_layout layout;
  struct mch_bar *bar;
  size_t running = drawable(out);
  size_t room = room_for_bars(out, columns, rows);
  size_t shown = running <= room ? running : room > 0 ? room - 1 : 0;
  for (bar = progress->running.first; bar != NULL; bar = bar->next)
    mch_progress_sample_at(bar, now);
  measure(&needs, progress->ended.first, progress->ended.count, now);
  measure(&needs, progress->running.first, shown, now);
  mch_render_layout(&layout, out->times ? MCH_TTY_ETA : out->style, columns, &needs);
  if (shown + progress->ended.count > 0)
    mch_render_fit(&layout, &out->fit, columns);
  if (!mch_progress_has_work(progress))
    out->fit.known = 0;
  mch_screen_begin(&out->screen, columns, rows);
  add_above(out, &layout, now);
  add_host(out, running > 0 || out->edit.active, columns);
  add_running(out, &layout, shown, now);
  if (shown < running && room > 0)
    add_more(out, running - shown, layout.width);
  mch_output_add_edit(out, columns, rows);
}

static void committed(struct mch_output *out) {
  mch_screen_commit(&out->screen);
  while (out->mode == MCH_PROGRESS_BAR && out->progress.ended.first != NULL)
    mch_progress_drop(&out->progress, out->progress.ended.first);
  mch_buf_clear(&out->above);
  if (mch_screen_live(&out->screen) > 0)
    return;
  mch_buf_clear(&out->host);
  mch_hold_end(&out->hold);
}

/* In the background the shell has written under our bars, and where is not known. */
static void see_who_owns_the_screen(struct mch_output *out) {
  int away = mch_output_in_background(out);
  if (away && !out->away)
    mch_screen_detach(&out->screen);
  out->away = away;
}

/* While the host waits for what is typed, its terminal is as if there were no bars: they go, what
 * it has printed stands before the cursor, and what comes meanwhile waits. Nobody knows in which
 * row the terminal has put what was typed: the next bars begin under it. Whether there is something
 * to draw. */
static int see_who_reads(struct mch_output *out) {
  size_t typed = disturbing(out) != 0 && !out->edit.active && !out->away ? mch_output_typed() : 0;
  int was_asking = out->asking;
  out->asking = disturbing(out) != 0 && !out->edit.active &&
                mch_hold_same_file(STDIN_FILENO, STDERR_FILENO) && mch_hold_is_reading();
  if (was_asking && !out->asking)
    mch_screen_detach(&out->screen);
  if (typed > out->typed) /* one line: how many there were is not known, and frames are frequent */
    mch_screen_lowered(&out->screen);
  out->typed = typed;
  return !was_asking || !out->asking || mch_screen_live(&out->screen) > 0 ||
         mch_buf_unread(&out->above) > MOST_WAITING;
}

int mch_output_helped(const struct mch_output *out, uint64_t now) {
  return now < out->helped_ns + absence;
}

/* See to it that held text is not forgotten. */
static void keep_ticking(struct mch_output *out, uint64_t now) {
  if (out->hold.streams == 0)
    mch_ticker_stop(&out->ticker);
  else if (!out->no_thread && !mch_output_helped(out, now))
    mch_ticker_start(&out->ticker);
}

static void draw(struct mch_output *out, uint64_t now, int on_lua_thread) {
  unsigned columns, rows;
  mch_output_size(out, &columns, &rows);
  take_host(out, columns, on_lua_thread);
  collect(out, now, columns, rows);
  if (mch_screen_compose(&out->screen, &out->frame) == 0) {
    size_t length = mch_buf_unread(&out->frame);
    if (length == 0 || mch_sink_offer(&out->sinks[1], out->frame.data, length) == 0)
      committed(out);
  }
}

/* Draw now. A frame that the terminal does not take is dropped: nothing has changed then, and the
 * lines in it wait for the next one. While it has yet to take the one before, none is made, which
 * would cost as much as all lines that wait are long. */
void mch_output_draw_frame(struct mch_output *out, uint64_t now, int on_lua_thread) {
  int locked;
  if (out->paused)
    return;
  see_who_owns_the_screen(out);
  if (!see_who_reads(out)) {
    out->drawn_ns = now;
    return;
  }
  locked = lock_host(out, on_lua_thread);
  if (locked < 0)
    return;
  out->drawn_ns = now;
  if (mch_sink_push(&out->sinks[1]) == 0)
    draw(out, now, on_lua_thread);
  mch_hold_unlock(locked);
  keep_ticking(out, now);
}
