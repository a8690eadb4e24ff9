/* Runs in: both.
 *
 * The inside of struct mch_output, shared by the files that make it up: output.c (the functions of
 * output.h, and when what is due), output_frame.c (bars on a terminal, and the host's text above
 * them), output_edit.c (the line that somebody edits under them), output_report.c (the reports for
 * text, JSON and other renderers), output_system.c (time, size, what the descriptors are). All of
 * it is called under its lock, unless said. */
#ifndef MCH_OUTPUT_STATE_H
#define MCH_OUTPUT_STATE_H

#include <pthread.h>

#include "runtime/base/buf.h"
#include "anchor.h"
#include "hold.h"
#include "observe.h"
#include "output.h"
#include "runtime/base/platform.h"
#include "screen.h"
#include "sink.h"
#include "ticker.h"

#define NEVER UINT64_MAX
#define SECOND UINT64_C(1000000000)
#define FRAME_INTERVAL (SECOND / 10) /* between frames, and between reports of one bar */
#define TEXT_INTERVAL (SECOND * 60)  /* between plain lines of one bar */

enum { WANTED_FOR_LINES = 1, WANTED_FOR_REPORTS = 2, WANTED_FOR_TROUBLE = 4 };

/* A line that somebody edits. */
struct mch_edit {
  int active;
  struct mch_buf text;
  size_t cursor; /* in bytes */
};

struct mch_output {
  atomic_int refs;
  struct mch_hub *hub;
  pthread_mutex_t lock; /* for all below but the next three */
  struct mch_output_config config;
  struct mch_mark mark; /* a fork that we do not know of must not draw */
  _Atomic uint64_t due; /* when to pump next */
  uint64_t ticked_ns;   /* the last tick; of the Lua thread */

  int looked;   /* are the next two known? */
  int terminal; /* standard error is one */
  int same;     /* standard output is the same file */
  enum mch_progress_mode mode;
  enum mch_tty_style style; /* as the script wants it */
  int times;                /* the user wants times */
  int watched;              /* there are bars though none are shown */

  struct mch_progress progress;
  struct mch_bar *reported; /* ended, and its report has been taken */
  struct mch_screen screen;
  struct mch_tty_fit fit; /* the width of bars so far */
  uint64_t stop;          /* of the last call that has stopped tasks, and since when */
  uint64_t stop_ns;
  size_t waiting;       /* bars that have ended, and wait for others that were stopped with them */
  struct mch_buf above; /* lines that wait for the next frame */
  struct mch_buf host;  /* text of the host, unless it is in `above` yet: an unfinished line */
  struct mch_buf scratch; /* one line */
  struct mch_edit edit;
  struct mch_buf frame;
  struct mch_hold hold;      /* of the host's streams, while bars stand on the terminal */
  struct mch_ticker ticker;  /* while it is held and nobody pumps */
  int no_thread;             /* there must be none */
  uint64_t helped_ns;        /* when somebody pumped last, not by a loop's tick */
  struct mch_anchor *anchor; /* for the end of the process; NULL: not needed yet */
  struct mch_sink sinks[2];  /* descriptors 1 and 2 */
  int mixed;                 /* sinks[1] holds lines for standard output */
  atomic_int may_die;
  unsigned troubled, untold; /* bits of MCH_TROUBLE_... */
  int causes[MCH_TROUBLES];
  uint64_t drawn_ns;
  int paused;
  int foreground; /* this process has been seen in the foreground of the terminal */
  int away;       /* and now it is not: only what stays is written */
  size_t typed;   /* bytes of whole lines that waited to be read, when we last looked */
  int asking;     /* the host waits for a line from the terminal: nothing is drawn under it */
  int leaving;    /* what the host prints next comes under the bars */
  int finalizing; /* bars that end now were forgotten: the host's text is left below them */

  struct mch_buf kept; /* lines to be taken: stream, length and text of each */
  int keeps_lines;
  _Atomic int reports; /* the mode is MCH_PROGRESS_REPORTS */
  _Atomic int wanted;  /* whoever takes lines and reports has some to take: a sum of these */

  int child;
  struct mch_upstream upstream;
  size_t forwarded; /* bars whose counters are copied by mch_output_pump() */
};

/* --- output_system.c --- */

/* A clock that costs little and may be some milliseconds late. Without the lock. */
uint64_t mch_output_cheap_now(const struct mch_output *out);

/* Seconds since the epoch. */
double mch_output_wall(const struct mch_output *out);

/* The size of the terminal now. */
void mch_output_size(const struct mch_output *out, unsigned *columns, unsigned *rows);

/* May the host's stdio be touched? */
int mch_output_real(const struct mch_output *out);

/* Is TERM a terminal that can do nothing but print? */
int mch_output_is_dumb(void);

/* Has a shell with job control put this process into the background of its terminal? The screen is
 * the shell's then. (Who has never been in the foreground, as under timeout(1), may draw.) */
int mch_output_in_background(struct mch_output *out);

/* Bytes of whole lines that were typed at the terminal on which we draw, and that nobody has read:
 * it has shown them as they were typed. */
size_t mch_output_typed(void);

/* Learn what standard output and error are; decide how progress is shown. Both once. */
void mch_output_look(struct mch_output *out);
void mch_output_resolve(struct mch_output *out);

/* Something to be logged on the Lua thread, the first time. In output.c. */
void mch_output_complain(struct mch_output *out, int trouble, int cause);

/* --- output_report.c --- */

/* What there is to say about a bar now, as last sampled. */
void mch_output_describe(const struct mch_bar *bar, uint64_t now, struct mch_report *report);

/* Nonzero if there is something that should be told about it: then mch_output_told() afterwards. */
int mch_output_to_tell(const struct mch_output *out, struct mch_bar *bar, uint64_t now,
                       struct mch_report *report);
void mch_output_told(struct mch_bar *bar, uint64_t now, const struct mch_report *report);

/* Queue the lines of text or JSON that are due. */
void mch_output_write_reports(struct mch_output *out, uint64_t now);

/* --- output_edit.c --- */

/* The rows that the line takes in a window of this size: none if nobody edits. */
size_t mch_output_edit_rows(const struct mch_output *out, unsigned columns, unsigned rows);

/* Add them to the next frame. */
void mch_output_add_edit(struct mch_output *out, unsigned columns, unsigned rows);

/* Move it to the lines that stay. */
void mch_output_keep_edit(struct mch_output *out);

/* --- output_frame.c --- */

/* What the host has printed so far joins the lines above the bars; `wait`: even if it is printing
 * just now. */
void mch_output_take_host(struct mch_output *out, int wait);

/* Draw a frame now, due or not. */
void mch_output_draw_frame(struct mch_output *out, uint64_t now, int on_lua_thread);

/* Lock the host's stdout with nothing in its buffer: what the host has printed comes first. Returns
 * the streams that are locked, -1: not now. */
int mch_output_lock_stdout(const struct mch_output *out, int on_lua_thread);

/* Did somebody pump a moment ago? */
int mch_output_helped(const struct mch_output *out, uint64_t now);

/* What exit() does: the text that is held must get out. Without the lock. In output.c. */
void mch_output_leave(void *output);

#endif
