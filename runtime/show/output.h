/* Runs in: both.
 *
 * Everything that a person sees: the owner of standard output and error, and of the terminal.
 * Lines of tasks and of the log are written whole; on a terminal they go above the bars.
 *
 * How it is used:
 *   - one struct mch_output per Lua state; all pools of the state share it. Any thread may call
 *     unless said otherwise: each call takes its lock. "The Lua thread" is the one which at that
 *     moment runs Lua code of that state: it alone may flush the host's own stdout.
 *   - bars: mch_output_bar_start(), then stores into the bar's counters (mch_bar_set()), then
 *     mch_output_bar_end(). Lines: mch_output_lines().
 *   - nothing appears by itself. Somebody calls mch_output_pump() at mch_output_next(): a waiting
 *     call, the helper thread; or mch_output_tick() is called by the loop whose bar it is.
 *   - before results are handed over: mch_output_flush(); before an error is raised out of a
 *     waiting call: mch_output_detach(); at the end: mch_output_release().
 *   - before a fork: mch_output_flush(), which empties the host's stdout; after it, in the child:
 *     mch_output_become_child().
 *
 * MANTICHORA_PROGRESS = auto | bar | text | json | off | eta says how progress is shown; it is read
 * when the first bar starts. auto: bars if standard error is a terminal (and TERM is not dumb),
 * else text. eta: the same, and bars show elapsed and remaining time and rate. */
#ifndef MCH_OUTPUT_H
#define MCH_OUTPUT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/error.h"
#include "progress.h"
#include "render.h"

struct mch_buf;
struct mch_hub;
struct mch_output;

/* Where time, size and descriptors come from. Zeroes: from the system. The rest is for tests. */
struct mch_output_config {
  void *ud;                                                  /* given to the functions */
  uint64_t (*now)(void *ud);                                 /* monotonic nanoseconds */
  double (*wall)(void *ud);                                  /* seconds since the epoch */
  void (*size)(void *ud, unsigned *columns, unsigned *rows); /* of the terminal */
  /* As write(2). With it, the host's stdio is left alone. */
  ssize_t (*write)(void *ud, int fd, const void *bytes, size_t count);
  int files; /* with `write`: what standard output and error are, MCH_FILES_... */
};

enum {
  MCH_FILES_TERMINAL = 1, /* standard error is a terminal */
  MCH_FILES_SAME = 2      /* both are the same file */
};

/* How progress is shown. */
enum mch_progress_mode {
  MCH_PROGRESS_AUTO, /* to be decided at the first bar */
  MCH_PROGRESS_BAR,
  MCH_PROGRESS_TEXT,
  MCH_PROGRESS_JSON,
  MCH_PROGRESS_OFF,
  MCH_PROGRESS_ETA,    /* a wish of the user: AUTO, and bars show times */
  MCH_PROGRESS_REPORTS /* nothing is shown; somebody takes mch_output_report() */
};

/* NULL (and `error` filled) if there is no memory. `config` may be NULL. */
struct mch_output *mch_output_new(const struct mch_output_config *config, struct mch_error *error);
struct mch_output *mch_output_ref(struct mch_output *out);

/* Where those are told who observe what happens (observe.h); lives as long as this. */
struct mch_hub *mch_output_hub(struct mch_output *out);

/* The last one leaves the screen clean (Lua thread only) and frees. */
void mch_output_unref(struct mch_output *out);

/* The time by the clock that mch_output_pump() expects. */
uint64_t mch_output_now(const struct mch_output *out);

/* Over MANTICHORA_PROGRESS. BAR, TEXT, JSON, OFF, REPORTS; AUTO: as the environment says. */
void mch_output_set_mode(struct mch_output *out, enum mch_progress_mode mode);

/* What the lines of bars show, unless MANTICHORA_PROGRESS = eta asks for more. */
void mch_output_set_style(struct mch_output *out, enum mch_tty_style style);

/* Never start a helper thread. Else there is one while bars stand on the terminal and nobody pumps
 * from a thread of his own: the host's text, which is held then, must appear whatever the host
 * does. */
void mch_output_no_thread(struct mch_output *out);

/* Somebody looks at bars by mch_output_each_bar(), or may do so: from now on (`on`) there are bars
 * though none are shown, here and in processes that are forked from this one. */
void mch_output_watch_bars(struct mch_output *out, int on);

/* "auto", "bar", ...: the mode, or -1. */
int mch_progress_mode_of(const char *word);

/* A bar begins. NULL if there is no memory, or progress is off and nobody watches; all functions
 * take a NULL bar. The bar may be used until mch_output_bar_end(). */
struct mch_bar *mch_output_bar_start(struct mch_output *out, const struct mch_bar_spec *spec);

/* It has ended, with these counters (done = MCH_BAR_UNKNOWN: as sampled for the last time now). The
 * slot is read no more when this returns. */
void mch_output_bar_end(struct mch_output *out, struct mch_bar *bar, uint64_t done, uint64_t total,
                        enum mch_bar_end how);

/* While bars are ended by finalizers (nonzero): what the host has printed since the last frame
 * stands below them. It may be the message of an error, and the state closes. */
void mch_output_finalize(struct mch_output *out, int on);

/* Another name for a running bar; copied. */
void mch_output_bar_name(struct mch_output *out, struct mch_bar *bar, const char *name,
                         size_t length);

/* By the Lua thread: a task of this process has ended, whose first bar had this key. Its bars that
 * nobody has ended end here, as `how` says if they are not whole. Who holds one may go on, without
 * effect, and must end it. */
void mch_output_leave_bars(struct mch_output *out, uint64_t first, enum mch_bar_end how);

/* One call or signal begins to stop tasks, and these are bars of theirs: those that end by that
 * move up together, in their order, when the last of them has ended or after a time. */
void mch_output_begin_stop(struct mch_output *out);
void mch_output_bar_stopping(struct mch_output *out, struct mch_bar *bar);

/* Count. If bar->ticking, call mch_output_tick() as well. One thread at a time. */
static inline void mch_bar_set(struct mch_bar *bar, uint64_t done) {
  atomic_store_explicit(&bar->slot->done, done, memory_order_relaxed);
}
static inline void mch_bar_set_total(struct mch_bar *bar, uint64_t total) {
  atomic_store_explicit(&bar->slot->total, total, memory_order_relaxed);
}

/* Draw if it is time: some nanoseconds if it is not. Lua thread only. Returns a sum of these. */
enum {
  MCH_TICK_OWNER = 1, /* mch_output_wants_owner() */
  MCH_TICK_SOON = 2   /* less than a millisecond since the tick before: some may be left out */
};
int mch_output_tick(struct mch_output *out);

/* Whole lines, each with its newline, to stream 1 or 2; written in order, at the next pump. */
void mch_output_lines(struct mch_output *out, int stream, const char *bytes, size_t length);

/* The same for lines that a task has printed, which observers are told of. */
void mch_output_task_lines(struct mch_output *out, int stream, const char *bytes, size_t length);

/* Call f with each running bar as it counts now, and at last with NULL; under the output's lock. It
 * may lock the hub, and call nothing else here. */
void mch_output_each_bar(struct mch_output *out, uint64_t now_ns,
                         void (*f)(void *ud, const struct mch_report *report), void *ud);

/* Bytes of lines that wait to be written. Whoever reads them from somewhere should pause when this
 * is large: they are never dropped. */
size_t mch_output_backlog(struct mch_output *out);

/* Write and draw what is due. Blocks as long as a terminal or pipe that is full does.
 * `now_ns`: CLOCK_MONOTONIC; `on_lua_thread`: may the host's stdout be flushed? */
void mch_output_pump(struct mch_output *out, uint64_t now_ns, int on_lua_thread);

/* When to pump next; 0: now, UINT64_MAX: when something new has come. */
uint64_t mch_output_next(struct mch_output *out);

/* Write all lines now; on a non-blocking descriptor wait for room, up to a second each time. What
 * the host has printed before comes first. Lua thread only. */
void mch_output_flush(struct mch_output *out);

/* mch_output_flush(), and draw the bars as they are now. Lua thread only. */
void mch_output_draw(struct mch_output *out);

/* mch_output_draw(), and be ready for somebody who prints an error message: what the host prints
 * next stands under the bars as they are now. If they still run, they are drawn anew below. Before
 * an error is raised out of a waiting call. Lua thread only. */
void mch_output_detach(struct mch_output *out);

/* mch_output_draw(), and leave the terminal to somebody else at once, who may write to it in his
 * own way: the cursor is in column 0 under the bars. Before a prompt, before another program runs,
 * at the end. Lua thread only. */
void mch_output_release(struct mch_output *out);

/* mch_output_release(), and draw nothing until mch_output_resume(): lines and ended bars wait. For
 * a prompt at which somebody types and that is not edited by mch_output_edit(). Lua thread only. */
void mch_output_pause(struct mch_output *out);
void mch_output_resume(struct mch_output *out);

/* Can somebody edit a line under the bars? Standard output and error must be one terminal that
 * knows more than a typewriter. */
int mch_output_can_edit(struct mch_output *out);

/* Somebody edits a line: from now on it stands at the bottom of every frame, under the bars, with
 * the cursor before byte `cursor`. It is drawn at once, with all that waits. The host's text is
 * held all the time, and lines appear above, whatever the mode. UTF-8, copied; newlines begin new
 * rows, what is too wide is wrapped, control characters are made harmless. Lua thread only. */
void mch_output_edit(struct mch_output *out, const char *text, size_t length, size_t cursor);

/* It is ended: this text stays on the screen as lines above the bars. Lua thread only. */
void mch_output_edit_end(struct mch_output *out, const char *text, size_t length);

/* Columns of the terminal now. */
unsigned mch_output_columns(const struct mch_output *out);

/* Begin anew at the top of an empty screen. Lua thread only. */
void mch_output_clear(struct mch_output *out);

/* The next thing to tell about a bar, with MCH_PROGRESS_REPORTS. 0: nothing now. Its strings hold
 * until the next call. One consumer, on the Lua thread. */
int mch_output_report(struct mch_output *out, uint64_t now_ns, struct mch_report *report);

/* From now on lines are not written but kept for mch_output_take_line(). 0: written again, also
 * those that are there. */
void mch_output_keep_lines(struct mch_output *out, int keep);

/* The oldest line that was kept, without its newline, into `line` (cleared first), terminated by a
 * zero; its stream, or 0: there is none. Without memory its text is lost. */
int mch_output_take_line(struct mch_output *out, struct mch_buf *line);

/* What somebody on the Lua thread should log, once each. Returns one of these, or 0; with `cause`
 * filled, an errno. */
enum { MCH_TROUBLE_MODE = 1, MCH_TROUBLE_STDOUT, MCH_TROUBLE_STDERR, MCH_TROUBLES };
int mch_output_trouble(struct mch_output *out, int *cause);

/* May this process end by SIGPIPE when what tasks print cannot be written, since nobody reads it?
 * Not at first; and in no case where the host handles or ignores SIGPIPE. */
void mch_output_may_die(struct mch_output *out, int may);

/* Are standard output and error one file, and is what tasks print written there? Then they may
 * write to it in their order. */
int mch_output_is_joined(struct mch_output *out);

/* Are bars shown, on the terminal or as text? */
int mch_output_shows_bars(struct mch_output *out);

/* Nonzero if there are lines or reports for somebody to take on the Lua thread. Takes no lock. */
int mch_output_wants_owner(struct mch_output *out, uint64_t now_ns);

/* Where a worker's bars go. Called with the output's lock held, from whichever thread starts, ends
 * or pumps; must not call back. `key` tells this process's bars apart. */
struct mch_upstream {
  void *ud;
  /* A bar begins. Returns the slot in shared memory where its counters will be stored, or NULL:
   * then bar_update is called for it, at most ten times a second. NULL function: bars are not
   * shown. */
  struct mch_bar_slot *(*bar_start)(void *ud, uint64_t key, const struct mch_bar_spec *spec);
  void (*bar_update)(void *ud, uint64_t key, uint64_t done, uint64_t total);
  void (*bar_name)(void *ud, uint64_t key, const char *name, size_t length);
  void (*bar_end)(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how);
  /* Whole lines of tasks, in their order with bars. NULL: they go to descriptors 1 and 2. */
  void (*lines)(void *ud, int stream, const char *bytes, size_t length);
  int joined; /* with `lines`: what mch_output_is_joined() says */
};

/* After a fork, in the worker, by its only thread: what waits to be written is the parent's and is
 * forgotten, the streams of the host are let go; bars go to `upstream` (copied) from now on, lines
 * to this process's descriptors 1 and 2. Bars of the parent stay valid objects that do nothing. */
void mch_output_become_child(struct mch_output *out, const struct mch_upstream *upstream);

#endif
