/* Runs in: both. Purpose: output.h. */
#define _POSIX_C_SOURCE 200809L
#include "output.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "buf.h"
#include "hold.h"
#include "screen.h"
#include "sink.h"
#include "ticker.h"
#include "width.h"

#define NEVER UINT64_MAX
#define SECOND UINT64_C(1000000000)

static const uint64_t interval = SECOND / 10;      /* between frames */
static const uint64_t absence = SECOND / 4;        /* who has not pumped for so long is away */
static const uint64_t text_interval = 60 * SECOND; /* between plain lines of one bar */
enum { MANY_LINES = 65536, PATIENCE = 1000 }; /* bytes that do not wait for the next frame; ms */

struct mch_output {
  atomic_int refs;
  pthread_mutex_t lock; /* for all below but the next three */
  struct mch_output_config config;
  pid_t owner;          /* a fork that we do not know of must not draw */
  _Atomic uint64_t due; /* when to pump next */
  uint64_t ticked_ns;   /* the last tick; of the Lua thread */

  int looked;   /* are the next two known? */
  int terminal; /* standard error is one */
  int same;     /* standard output is the same file */
  enum mch_progress_mode mode;

  struct mch_progress progress;
  struct mch_bar *reported; /* ended, and its report has been taken */
  struct mch_screen screen;
  struct mch_buf above;   /* lines that wait for the next frame */
  struct mch_buf host;    /* text of the host, unless it is in `above` yet: an unfinished line */
  struct mch_buf scratch; /* one line */
  struct mch_buf frame;
  struct mch_hold hold;     /* of the host's streams, while bars stand on the terminal */
  struct mch_ticker ticker; /* while it is held and nobody pumps */
  int no_thread;            /* there must be none */
  uint64_t helped_ns;       /* when somebody pumped last, not by a loop's tick */
  struct anchor *anchor;    /* for the end of the process; NULL: not needed yet */
  struct mch_sink sinks[2]; /* descriptors 1 and 2 */
  int mixed;                /* sinks[1] holds lines for standard output */
  uint64_t drawn_ns;
  int paused;
  int leaving; /* what the host prints next comes under the bars */

  int child;
  struct mch_upstream upstream;
  size_t forwarded; /* bars whose counters are copied by mch_output_pump() */
};

/* --- who may --- */

static int ours(const struct mch_output *out) {
  return out->owner == getpid();
}

/* Lock. 0: not in this process, a fork that we do not know of; the lock may be held there for ever.
 */
static int enter(struct mch_output *out) {
  if (!ours(out))
    return 0;
  pthread_mutex_lock(&out->lock);
  return 1;
}

/* Unlock. On the Lua thread a helper thread of ours that is to end is seen off. */
static void quit(struct mch_output *out, int on_lua_thread) {
  pthread_mutex_unlock(&out->lock);
  if (on_lua_thread)
    mch_ticker_join(&out->ticker);
}

/* --- time, size, files --- */

static uint64_t system_now(clockid_t clock) {
  struct timespec time = {0, 0};
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

uint64_t mch_output_now(const struct mch_output *out) {
  return out->config.now != NULL ? out->config.now(out->config.ud) : system_now(CLOCK_MONOTONIC);
}

#if defined(CLOCK_MONOTONIC_COARSE)
#define CHEAP_CLOCK CLOCK_MONOTONIC_COARSE
#else
#define CHEAP_CLOCK CLOCK_MONOTONIC
#endif

static uint64_t cheap_now(const struct mch_output *out) {
  return out->config.now != NULL ? out->config.now(out->config.ud) : system_now(CHEAP_CLOCK);
}

static double wall_of(const struct mch_output *out) {
  struct timespec time = {0, 0};
  if (out->config.wall != NULL)
    return out->config.wall(out->config.ud);
  clock_gettime(CLOCK_REALTIME, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void size_of(const struct mch_output *out, unsigned *columns, unsigned *rows) {
  struct winsize size = {0, 0, 0, 0};
  *columns = *rows = 0;
  if (out->config.size != NULL) {
    out->config.size(out->config.ud, columns, rows);
  } else if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) {
    *columns = size.ws_col;
    *rows = size.ws_row;
  }
  *columns = *columns == 0 ? 80 : *columns;
  *rows = *rows == 0 ? 24 : *rows;
}

/* May the host's stdio be touched? */
static int real(const struct mch_output *out) {
  return out->config.write == NULL;
}

static int same_file(int a, int b) {
  struct stat first, second;
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

/* Terminals that are known not to fold lines when the window becomes narrower. */
static int cuts_lines(void) {
  return getenv("XTERM_VERSION") != NULL || getenv("STY") != NULL;
}

/* What are standard output and error? */
static void look(struct mch_output *out) {
  if (out->looked)
    return;
  out->looked = 1;
  out->screen.cuts = real(out) && cuts_lines();
  out->terminal = real(out) ? isatty(STDERR_FILENO) : out->config.files & MCH_FILES_TERMINAL;
  out->same =
      real(out) ? same_file(STDOUT_FILENO, STDERR_FILENO) : out->config.files & MCH_FILES_SAME;
}

int mch_progress_mode_of(const char *word) {
  static const char *const words[] = {"auto", "bar", "text", "json", "off"};
  int i;
  for (i = 0; i < (int)(sizeof words / sizeof *words); i++)
    if (strcmp(word, words[i]) == 0)
      return i;
  return -1;
}

static enum mch_progress_mode usual_mode(const struct mch_output *out) {
  const char *term = getenv("TERM");
  if (!out->terminal || (term != NULL && strcmp(term, "dumb") == 0))
    return MCH_PROGRESS_TEXT;
  return MCH_PROGRESS_BAR;
}

/* Decide how progress is shown. */
static void resolve(struct mch_output *out) {
  const char *word;
  int mode = MCH_PROGRESS_AUTO;
  look(out);
  if (out->mode != MCH_PROGRESS_AUTO)
    return;
  word = getenv("MANTICHORA_PROGRESS");
  if (word != NULL)
    mode = mch_progress_mode_of(word);
  out->mode = mode > MCH_PROGRESS_AUTO ? (enum mch_progress_mode)mode : usual_mode(out);
}

/* --- reports: what text, JSON and other people's renderers are told --- */

static void describe(const struct mch_bar *bar, uint64_t now, struct mch_report *report) {
  uint64_t end = bar->how == MCH_BAR_RUNNING ? now : bar->ended_ns;
  report->event = MCH_REPORT_UPDATE;
  report->how = bar->how;
  report->key = bar->key;
  report->done = bar->done;
  report->total = bar->total;
  report->elapsed_ns = end > bar->started_ns ? end - bar->started_ns : 0;
  report->runid = bar->runid;
  report->name = bar->text;
  report->name_length = bar->name_length;
  report->task = bar->task_length > 0 ? bar->text + bar->name_length : NULL;
  report->task_length = bar->task_length;
}

/* Is there something to tell about this bar? A line of text is due even if nothing has changed:
 * it says that the task lives. */
static int to_tell(const struct mch_output *out, struct mch_bar *bar, uint64_t now,
                   struct mch_report *report) {
  uint64_t step = out->mode == MCH_PROGRESS_TEXT ? text_interval : interval;
  describe(bar, now, report);
  if (!bar->told) {
    report->event = MCH_REPORT_START;
    report->how = MCH_BAR_RUNNING;
    report->done = 0;
    return 1;
  }
  if (bar->how != MCH_BAR_RUNNING) {
    report->event = MCH_REPORT_END;
    return 1;
  }
  if (now < bar->told_ns + step)
    return 0;
  mch_progress_sample(bar);
  describe(bar, now, report);
  return out->mode == MCH_PROGRESS_TEXT || bar->done != bar->told_done ||
         bar->total != bar->told_total;
}

static void told(struct mch_bar *bar, uint64_t now, const struct mch_report *report) {
  bar->told = 1;
  bar->told_ns = now;
  bar->told_done = report->done;
  bar->told_total = report->total;
}

static void write_report(struct mch_output *out, const struct mch_report *report) {
  double wall = wall_of(out);
  time_t seconds = (time_t)wall;
  struct tm when;
  if (out->mode == MCH_PROGRESS_JSON)
    mch_render_json(&out->sinks[1].unsent, report, wall);
  else if (localtime_r(&seconds, &when) != NULL)
    mch_render_text(&out->sinks[1].unsent, report, &when);
}

static void write_reports(struct mch_output *out, uint64_t now) {
  struct mch_report report;
  struct mch_bar *bar;
  while ((bar = out->progress.ended.first) != NULL) {
    while (to_tell(out, bar, now, &report)) {
      write_report(out, &report);
      told(bar, now, &report);
      if (report.event == MCH_REPORT_END)
        break;
    }
    mch_progress_drop(&out->progress, bar);
  }
  for (bar = out->progress.running.first; bar != NULL; bar = bar->next) {
    if (!to_tell(out, bar, now, &report))
      continue;
    write_report(out, &report);
    told(bar, now, &report);
  }
}

/* --- bars on a terminal --- */

/* At the end of the process the text that is held must get out. */
struct anchor {
  struct mch_output *out; /* NULL: gone before */
};

static void leave(void *arg);

static void drop_anchor(struct mch_output *out) {
  if (out->anchor != NULL)
    out->anchor->out = NULL; /* it is freed when the process ends */
  out->anchor = NULL;
}

/* Nonzero if exit() will let go what is held. */
static int anchored(struct mch_output *out) {
  if (out->anchor != NULL)
    return 1;
  out->anchor = malloc(sizeof *out->anchor);
  if (out->anchor == NULL)
    return 0;
  out->anchor->out = out;
  if (mch_hold_at_exit(leave, out->anchor) == 0)
    return 1;
  free(out->anchor);
  out->anchor = NULL;
  return 0;
}

/* Which streams of the host print into our bars? */
static int disturbing(const struct mch_output *out) {
  if (!real(out) || !out->terminal)
    return 0;
  return out->same ? MCH_HOLD_STDOUT | MCH_HOLD_STDERR : MCH_HOLD_STDERR;
}

/* Lock the host's stdout with nothing in its buffer: what the host has printed comes first. Returns
 * the streams that are locked, -1: not now. */
static int lock_stdout(const struct mch_output *out, int on_lua_thread) {
  int locked = real(out) ? mch_hold_lock(MCH_HOLD_STDOUT, on_lua_thread) : 0;
  if (locked <= 0)
    return locked;
  if (on_lua_thread)
    mch_hold_flush_stdout();
  if (on_lua_thread || !mch_hold_pending_stdout())
    return locked;
  mch_hold_unlock(locked);
  return -1;
}

/* Keep the host from printing while we draw: -1 if it is printing just now. While there are bars,
 * its text is held. */
static int lock_host(struct mch_output *out, int on_lua_thread) {
  int locked;
  if (disturbing(out) == 0 || (out->progress.running.count == 0 && out->hold.streams == 0))
    return out->same ? lock_stdout(out, on_lua_thread) : 0;
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
  if (out->leaving && mch_buf_unread(&out->host) > before)
    mch_screen_detach(&out->screen);
  if (on_lua_thread)
    out->leaving = 0; /* it has come back */
  if (mch_buf_unread(&out->host) > 0)
    split_host(out, columns);
}

static void measure(struct mch_tty_needs *needs, const struct mch_bar *bar, size_t count) {
  struct mch_report report;
  for (; bar != NULL && count > 0; bar = bar->next, count--) {
    describe(bar, 0, &report);
    mch_render_measure(needs, &report);
  }
}

static size_t line_of(struct mch_output *out, const struct mch_tty_layout *layout,
                      const struct mch_bar *bar, uint64_t now) {
  struct mch_report report;
  mch_buf_clear(&out->scratch);
  describe(bar, now, &report);
  return mch_render_tty(&out->scratch, layout, &report);
}

static void add_line(struct mch_output *out, size_t cells) {
  mch_screen_line(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), cells);
}

static void add_ended(struct mch_output *out, const struct mch_tty_layout *layout, uint64_t now) {
  const struct mch_bar *bar;
  for (bar = out->progress.ended.first; bar != NULL; bar = bar->next) {
    line_of(out, layout, bar, now);
    mch_buf_u8(&out->scratch, '\n');
    mch_screen_above(&out->screen, out->scratch.data, mch_buf_unread(&out->scratch), 1);
  }
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

/* Put the next frame together. */
static void collect(struct mch_output *out, uint64_t now, unsigned columns, unsigned rows) {
  struct mch_progress *progress = &out->progress;
  struct mch_tty_needs needs = {0, 0};
  struct mch_tty_layout layout;
  struct mch_bar *bar;
  size_t running = progress->running.count;
  size_t room = rows - 1u - (mch_buf_unread(&out->host) > 0 && rows > 1);
  size_t shown = running <= room ? running : room > 0 ? room - 1 : 0;
  for (bar = progress->running.first; bar != NULL; bar = bar->next)
    mch_progress_sample(bar);
  measure(&needs, progress->ended.first, progress->ended.count);
  measure(&needs, progress->running.first, shown);
  mch_render_layout(&layout, columns, &needs);
  mch_screen_begin(&out->screen, columns, rows);
  mch_screen_above(&out->screen, out->above.data, mch_buf_unread(&out->above), 0);
  add_ended(out, &layout, now);
  add_host(out, running > 0, columns);
  add_running(out, &layout, shown, now);
  if (shown < running && room > 0)
    add_more(out, running - shown, layout.width);
}

static void committed(struct mch_output *out) {
  mch_screen_commit(&out->screen);
  while (out->progress.ended.first != NULL)
    mch_progress_drop(&out->progress, out->progress.ended.first);
  mch_buf_clear(&out->above);
  if (mch_screen_live(&out->screen) > 0)
    return;
  mch_buf_clear(&out->host);
  mch_hold_end(&out->hold);
}

static int helped(const struct mch_output *out, uint64_t now) {
  return now < out->helped_ns + absence;
}

/* See to it that held text is not forgotten. */
static void keep_ticking(struct mch_output *out, uint64_t now) {
  if (out->hold.streams == 0)
    mch_ticker_stop(&out->ticker);
  else if (!out->no_thread && !helped(out, now))
    mch_ticker_start(&out->ticker);
}

/* Draw now. A frame that the terminal does not take is dropped: nothing has changed then, and the
 * lines in it wait for the next one. */
static void draw(struct mch_output *out, uint64_t now, int on_lua_thread) {
  unsigned columns, rows;
  int locked = out->paused ? -1 : lock_host(out, on_lua_thread);
  if (locked < 0)
    return;
  out->drawn_ns = now;
  size_of(out, &columns, &rows);
  take_host(out, columns, on_lua_thread);
  collect(out, now, columns, rows);
  if (mch_screen_compose(&out->screen, &out->frame) == 0) {
    size_t length = mch_buf_unread(&out->frame);
    if (length == 0 || mch_sink_offer(&out->sinks[1], out->frame.data, length) == 0)
      committed(out);
  }
  mch_hold_unlock(locked);
  keep_ticking(out, now);
}

/* --- lines --- */

static void push(struct mch_sink *sink, int patience) {
  if (patience > 0)
    mch_sink_finish(sink, patience);
  else
    mch_sink_push(sink);
}

/* Send what waits for descriptor 1 or 2, if it needs the host's stdout not to be in the way. */
static void push_after_host(struct mch_output *out, struct mch_sink *sink, int on_lua_thread,
                            int patience) {
  int locked;
  if (mch_buf_unread(&sink->unsent) == 0)
    return;
  locked = lock_stdout(out, on_lua_thread);
  if (locked < 0)
    return;
  push(sink, patience);
  mch_hold_unlock(locked);
}

static void push_sinks(struct mch_output *out, int on_lua_thread, int patience) {
  push_after_host(out, &out->sinks[0], on_lua_thread, patience);
  if (out->mixed)
    push_after_host(out, &out->sinks[1], on_lua_thread, patience);
  else
    push(&out->sinks[1], patience);
  if (mch_buf_unread(&out->sinks[1].unsent) == 0)
    out->mixed = 0;
}

static int bars_on_screen(const struct mch_output *out) {
  return out->mode == MCH_PROGRESS_BAR && !out->child;
}

static void route(struct mch_output *out, int stream, const char *bytes, size_t length) {
  look(out);
  if (bars_on_screen(out) && (stream == 2 || out->same))
    mch_buf_append(&out->above, bytes, length);
  else
    mch_sink_put(&out->sinks[out->same || stream == 2], bytes, length);
  out->mixed |= stream == 1 && out->same;
}

/* --- when --- */

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

static uint64_t frame_due(const struct mch_output *out) {
  size_t waiting = mch_buf_unread(&out->above);
  if (waiting > MANY_LINES)
    return 0;
  if (out->progress.running.count > 0 || mch_screen_live(&out->screen) > 0)
    return out->progress.running.count > 0 ? out->drawn_ns + interval : 0;
  return waiting > 0 || out->progress.ended.count > 0 ? 0 : NEVER;
}

static uint64_t report_due(const struct mch_output *out) {
  uint64_t due = out->progress.ended.count > 0 ? 0 : NEVER;
  uint64_t step = out->mode == MCH_PROGRESS_TEXT ? text_interval : interval;
  const struct mch_bar *bar;
  for (bar = out->progress.running.first; bar != NULL && due > 0; bar = bar->next)
    due = sooner(due, bar->told ? bar->told_ns + step : 0);
  return due;
}

static uint64_t progress_due(const struct mch_output *out) {
  if (out->child)
    return out->forwarded > 0 ? out->drawn_ns + interval : NEVER;
  switch (out->mode) {
  case MCH_PROGRESS_BAR:
    return out->paused ? NEVER : frame_due(out);
  case MCH_PROGRESS_TEXT:
  case MCH_PROGRESS_JSON:
  case MCH_PROGRESS_REPORTS:
    return report_due(out);
  default:
    return NEVER;
  }
}

/* What could not be sent at the last try is tried again at the pace of frames. */
static void schedule(struct mch_output *out, uint64_t now) {
  uint64_t due = progress_due(out);
  if (mch_buf_unread(&out->sinks[0].unsent) + mch_buf_unread(&out->sinks[1].unsent) > 0)
    due = sooner(due, now + interval);
  if (due <= now && now > 0) /* the host was printing, or the terminal takes nothing */
    due = now + interval / 10;
  atomic_store_explicit(&out->due, due, memory_order_relaxed);
}

/* Something new has come; `immediate`: it need not wait for the next frame. */
static void hasten(struct mch_output *out, int immediate) {
  uint64_t due = atomic_load_explicit(&out->due, memory_order_relaxed);
  uint64_t wanted = immediate ? 0 : progress_due(out);
  if (wanted < due)
    atomic_store_explicit(&out->due, wanted, memory_order_relaxed);
}

/* --- in a worker --- */

static void forward(struct mch_output *out, uint64_t now) {
  struct mch_bar *bar;
  out->drawn_ns = now;
  for (bar = out->progress.running.first; bar != NULL; bar = bar->next) {
    if (!bar->forwarded || !mch_progress_sample(bar))
      continue;
    if (bar->upstream != NULL) {
      atomic_store_explicit(&bar->upstream->total, bar->total, memory_order_relaxed);
      atomic_store_explicit(&bar->upstream->done, bar->done, memory_order_relaxed);
    } else {
      out->upstream.bar_update(out->upstream.ud, bar->key, bar->done, bar->total);
    }
  }
}

/* The loop's stores go to the upstream slot at once, if there is one. */
static void start_upstream(struct mch_output *out, struct mch_bar *bar,
                           const struct mch_bar_spec *spec) {
  struct mch_bar_slot *slot = out->upstream.bar_start(out->upstream.ud, bar->key, spec);
  if (slot != NULL && spec->slot == NULL) {
    bar->slot = slot;
    bar->slot_id = atomic_load_explicit(&slot->id, memory_order_relaxed);
    bar->ticking = 0;
    return;
  }
  bar->upstream = slot;
  bar->forwarded = 1;
  out->forwarded++;
}

static void end_upstream(struct mch_output *out, struct mch_bar *bar, enum mch_bar_end how) {
  out->upstream.bar_end(out->upstream.ud, bar->key, bar->done, bar->total, how);
  out->forwarded -= bar->forwarded;
  mch_progress_drop(&out->progress, bar);
}

/* --- bars --- */

static int shows_bars(const struct mch_output *out) {
  return out->mode != MCH_PROGRESS_OFF && !(out->child && out->upstream.bar_start == NULL);
}

struct mch_bar *mch_output_bar_start(struct mch_output *out, const struct mch_bar_spec *spec) {
  struct mch_bar *bar = NULL;
  if (!enter(out))
    return NULL;
  resolve(out);
  if (shows_bars(out))
    bar = mch_progress_start(&out->progress, spec, mch_output_now(out));
  if (bar != NULL) {
    bar->ticking = bar->loop;
    if (out->child)
      start_upstream(out, bar, spec);
    hasten(out, 0);
  }
  quit(out, 0);
  return bar;
}

static void pump(struct mch_output *out, uint64_t now, int on_lua_thread);

/* The last of this process's own bars is shown at once: its loop goes on to print. */
static void ended(struct mch_output *out, int loop) {
  if (out->mode == MCH_PROGRESS_OFF)
    mch_progress_drop(&out->progress, out->progress.ended.last);
  if (loop && out->progress.running.count == 0 && out->mode != MCH_PROGRESS_REPORTS)
    pump(out, mch_output_now(out), 1);
  else
    hasten(out, 0);
}

void mch_output_bar_end(struct mch_output *out, struct mch_bar *bar, uint64_t done, uint64_t total,
                        enum mch_bar_end how) {
  int loop = 0;
  if (bar == NULL || !enter(out))
    return;
  if (bar->foreign) {
    mch_progress_release(&out->progress, bar);
  } else {
    loop = bar->loop;
    mch_progress_end(&out->progress, bar, done, total, how, mch_output_now(out));
    if (out->child)
      end_upstream(out, bar, how);
    else
      ended(out, loop);
  }
  quit(out, loop);
}

/* --- pumping --- */

static void pump_progress(struct mch_output *out, uint64_t now, int on_lua_thread) {
  if (progress_due(out) > now)
    return;
  if (out->child)
    forward(out, now);
  else if (out->mode == MCH_PROGRESS_BAR)
    draw(out, now, on_lua_thread);
  else if (out->mode != MCH_PROGRESS_REPORTS)
    write_reports(out, now);
}

static void pump(struct mch_output *out, uint64_t now, int on_lua_thread) {
  pump_progress(out, now, on_lua_thread);
  push_sinks(out, on_lua_thread, 0);
  schedule(out, now);
}

void mch_output_pump(struct mch_output *out, uint64_t now_ns, int on_lua_thread) {
  if (!enter(out))
    return;
  out->helped_ns = now_ns;
  pump(out, now_ns, on_lua_thread);
  quit(out, on_lua_thread);
}

uint64_t mch_output_next(struct mch_output *out) {
  return atomic_load_explicit(&out->due, memory_order_relaxed);
}

static int tick(struct mch_output *out, uint64_t now) {
  int reports = out->mode == MCH_PROGRESS_REPORTS && !out->child;
  if (reports)
    return progress_due(out) <= now ? MCH_TICK_REPORTS : 0;
  pump(out, now, 1);
  return 0;
}

int mch_output_tick(struct mch_output *out) {
  uint64_t now = cheap_now(out);
  int soon = now < out->ticked_ns + SECOND / 1000 ? MCH_TICK_SOON : 0;
  int due;
  out->ticked_ns = now;
  if (now < atomic_load_explicit(&out->due, memory_order_relaxed) || !ours(out))
    return soon;
  if (pthread_mutex_trylock(&out->lock) != 0)
    return soon; /* somebody is drawing */
  due = tick(out, now);
  quit(out, 1);
  return due | soon;
}

void mch_output_lines(struct mch_output *out, int stream, const char *bytes, size_t length) {
  if (!enter(out))
    return;
  route(out, stream, bytes, length);
  hasten(out, !bars_on_screen(out));
  quit(out, 0);
}

size_t mch_output_backlog(struct mch_output *out) {
  size_t backlog;
  if (!enter(out))
    return 0;
  backlog = mch_buf_unread(&out->above) + mch_buf_unread(&out->sinks[0].unsent) +
            mch_buf_unread(&out->sinks[1].unsent);
  quit(out, 0);
  return backlog;
}

/* Draw until no line and no ended bar is left, or the terminal takes none for a second. */
static void draw_out(struct mch_output *out, uint64_t now) {
  draw(out, now, 1);
  while (!out->paused && mch_buf_unread(&out->above) + out->progress.ended.count > 0 &&
         mch_sink_wait(&out->sinks[1], PATIENCE) == 0)
    draw(out, now, 1);
}

/* The host's own text: nonzero if it must be drawn above the bars, else it is flushed. */
static int flush_host(struct mch_output *out) {
  int locked, waiting;
  if (out->hold.streams == 0) {
    if (real(out))
      mch_hold_flush_stdout();
    return 0;
  }
  locked = mch_hold_lock(out->hold.streams, 1);
  waiting = mch_hold_waiting(&out->hold);
  mch_hold_unlock(locked);
  return waiting;
}

/* `all`: the bars as they are now, too. */
static void flush(struct mch_output *out, int all) {
  uint64_t now = mch_output_now(out);
  int waiting = flush_host(out);
  if (bars_on_screen(out) && (all || waiting || mch_buf_unread(&out->above) > 0))
    draw_out(out, now);
  else
    pump_progress(out, now, 1);
  push_sinks(out, 1, PATIENCE);
  schedule(out, now);
}

void mch_output_flush(struct mch_output *out) {
  if (!enter(out))
    return;
  flush(out, 0);
  quit(out, 1);
}

void mch_output_draw(struct mch_output *out) {
  if (!enter(out))
    return;
  flush(out, 1);
  quit(out, 1);
}

/* The streams are the host's again. */
static void let_go(struct mch_output *out) {
  int locked = mch_hold_lock(out->hold.streams, 1);
  mch_screen_detach(&out->screen);
  mch_buf_clear(&out->host);                        /* it stays on the screen as a whole line */
  mch_hold_take(&out->hold, &out->sinks[1].unsent); /* another thread's, of just now */
  mch_hold_end(&out->hold);
  mch_hold_unlock(locked);
  mch_ticker_stop(&out->ticker);
}

static void release(struct mch_output *out) {
  flush(out, 1);
  if (out->hold.streams != 0 || mch_screen_live(&out->screen) > 0)
    let_go(out);
  push_sinks(out, 1, PATIENCE);
  schedule(out, mch_output_now(out));
}

void mch_output_release(struct mch_output *out) {
  if (!enter(out))
    return;
  release(out);
  quit(out, 1);
}

void mch_output_pause(struct mch_output *out) {
  if (!enter(out))
    return;
  release(out);
  out->paused = 1;
  schedule(out, mch_output_now(out));
  quit(out, 1);
}

void mch_output_resume(struct mch_output *out) {
  if (!enter(out))
    return;
  out->paused = 0;
  hasten(out, 0);
  quit(out, 1);
}

/* Where the host's text is not held, we would not see it. */
static void detach(struct mch_output *out) {
  flush(out, 1);
  if (out->hold.streams == 0)
    mch_screen_detach(&out->screen);
  out->leaving = 1;
}

void mch_output_detach(struct mch_output *out) {
  if (!enter(out))
    return;
  detach(out);
  quit(out, 1);
}

/* By exit(): any thread may hold the lock, and may be ended while it does. */
static void leave(void *arg) {
  struct anchor *anchor = arg;
  struct timespec limit = {0, 0};
  clock_gettime(CLOCK_REALTIME, &limit);
  limit.tv_sec++;
  if (anchor->out != NULL && ours(anchor->out) &&
      pthread_mutex_timedlock(&anchor->out->lock, &limit) == 0) {
    release(anchor->out);
    anchor->out->mode = MCH_PROGRESS_OFF; /* a helper thread does not hold it again */
    pthread_mutex_unlock(&anchor->out->lock);
  }
  if (anchor->out != NULL)
    anchor->out->anchor = NULL;
  free(anchor);
}

static void drop_reported(struct mch_output *out) {
  if (out->reported != NULL)
    mch_progress_drop(&out->progress, out->reported);
  out->reported = NULL;
}

int mch_output_report(struct mch_output *out, uint64_t now_ns, struct mch_report *report) {
  struct mch_bar *bar;
  if (!enter(out))
    return 0;
  drop_reported(out);
  bar = out->child ? NULL : out->progress.ended.first;
  if (bar == NULL && !out->child)
    bar = out->progress.running.first;
  while (bar != NULL && !to_tell(out, bar, now_ns, report))
    bar = bar->next;
  if (bar != NULL) {
    told(bar, now_ns, report);
    out->reported = report->event == MCH_REPORT_END ? bar : NULL;
  } else {
    schedule(out, now_ns);
  }
  quit(out, 1);
  return bar != NULL;
}

/* --- life --- */

/* By our own helper thread. */
static void tick_alone(void *ud) {
  struct mch_output *out = ud;
  uint64_t now = mch_output_now(out);
  pthread_mutex_lock(&out->lock);
  if (out->hold.streams == 0 || out->no_thread || helped(out, now))
    mch_ticker_stop(&out->ticker);
  else
    pump(out, now, 0);
  pthread_mutex_unlock(&out->lock);
}

static void set_up(struct mch_output *out) {
  int i;
  for (i = 0; i < 2; i++) {
    out->sinks[i].fd = i + 1;
    out->sinks[i].write = real(out) ? mch_sink_write : out->config.write;
    out->sinks[i].ud = out->config.ud;
  }
  out->owner = getpid();
  atomic_store_explicit(&out->due, NEVER, memory_order_relaxed);
  pthread_mutex_init(&out->lock,
                     NULL); /* in a child: another thread may have held it at the fork */
  mch_ticker_init(&out->ticker, tick_alone, out);
}

struct mch_output *mch_output_new(const struct mch_output_config *config, struct mch_error *error) {
  struct mch_output *out = calloc(1, sizeof *out);
  if (out == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory");
    return NULL;
  }
  if (config != NULL)
    out->config = *config;
  atomic_init(&out->refs, 1);
  set_up(out);
  return out;
}

struct mch_output *mch_output_ref(struct mch_output *out) {
  atomic_fetch_add(&out->refs, 1);
  return out;
}

void mch_output_unref(struct mch_output *out) {
  int i;
  if (out == NULL || atomic_fetch_sub(&out->refs, 1) > 1)
    return;
  if (!ours(out))
    return; /* its thread and its lock are another process's */
  mch_output_release(out);
  mch_ticker_free(&out->ticker);
  drop_anchor(out);
  mch_progress_free(&out->progress);
  mch_screen_free(&out->screen);
  mch_buf_free(&out->above);
  mch_buf_free(&out->host);
  mch_buf_free(&out->scratch);
  mch_buf_free(&out->frame);
  for (i = 0; i < 2; i++)
    mch_buf_free(&out->sinks[i].unsent);
  pthread_mutex_destroy(&out->lock);
  free(out);
}

void mch_output_set_mode(struct mch_output *out, enum mch_progress_mode mode) {
  if (!enter(out))
    return;
  if (bars_on_screen(out) && mode != MCH_PROGRESS_BAR)
    release(out);
  drop_reported(out);
  out->mode = mode;
  if (mode == MCH_PROGRESS_AUTO && out->progress.running.count > 0)
    resolve(out);
  hasten(out, 0);
  quit(out, 1);
}

void mch_output_no_thread(struct mch_output *out) {
  if (!enter(out))
    return;
  out->no_thread = 1;
  mch_ticker_stop(&out->ticker);
  quit(out, 1);
}

void mch_output_become_child(struct mch_output *out, const struct mch_upstream *upstream) {
  int i;
  for (i = 0; i < 2; i++) {
    mch_buf_clear(&out->sinks[i].unsent);
    out->sinks[i].dead = 0;
  }
  mch_hold_drop(&out->hold);
  drop_anchor(out);
  mch_progress_disown(&out->progress);
  mch_screen_detach(&out->screen);
  mch_buf_clear(&out->above);
  mch_buf_clear(&out->host);
  out->reported = NULL;
  out->forwarded = 0;
  out->looked = out->mixed = out->paused = out->leaving = 0;
  out->child = 1;
  out->upstream = *upstream;
  set_up(out);
}
