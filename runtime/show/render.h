/* Runs in: parent.
 *
 * Numbers, a width and a time in; characters out. No renderer reads a clock, a terminal or the
 * registry, so that all of them can be tested byte for byte. */
#ifndef MCH_RENDER_H
#define MCH_RENDER_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "progress.h"

struct mch_buf;

enum mch_report_event { MCH_REPORT_START, MCH_REPORT_UPDATE, MCH_REPORT_END };

/* What there is to say about one bar at one moment. */
struct mch_report {
  enum mch_report_event event;
  enum mch_bar_end how;
  uint64_t key; /* tells this process's bars apart */
  uint64_t done, total;
  uint64_t elapsed_ns;
  int of_tasks; /* it counts tasks: the next four are known */
  uint64_t running, failed, cancelled, found;
  double pace; /* things done in a second of late; -1: not known */
  enum mch_bar_unit unit;
  int64_t runid; /* -1: of no task */
  const char *name;
  size_t name_length;
  const char *task; /* NULL: of no task, or it has no name */
  size_t task_length;
};

/* 0 to 100; an empty bar is complete. Of an unknown total: -1. */
double mch_render_percent(uint64_t done, uint64_t total);

/* Is the total of no use, as it is not known or was passed? */
int mch_render_is_open(const struct mch_report *report);

/* A count as it is, or of bytes in four significant characters: "512", "3.00M". */
enum { MCH_COUNT_MOST = 32 };
void mch_render_count(char text[MCH_COUNT_MOST], enum mch_bar_unit unit, uint64_t count);

/* Things done in a second, or in a minute or an hour if they are few, in eight cells: "1234.5/s",
 * " 12.3M/s", " 4.2/min", "12.3MB/s". Of late; of a bar that has ended over its whole time. */
void mch_render_rate(char *text, size_t size, const struct mch_report *report);

/* The original's line, or with times: elapsed, remaining, and things done per second. */
enum mch_tty_style { MCH_TTY_PLAIN, MCH_TTY_ETA };

/* Tasks that wait, of a report about tasks. */
uint64_t mch_render_queued(const struct mch_report *report);

/* What stands behind the name where there is no bar that it could stand over: how it was stopped,
 * or what becomes of the tasks, in few words if there is room for few cells. Its length. */
enum { MCH_MARK_MOST = 160 };
size_t mch_render_mark(char mark[MCH_MARK_MOST], const struct mch_report *report, size_t room);

/* Append a name, harmless, in so many cells at most; a longer one loses its middle. Returns the
 * cells used. */
size_t mch_render_name(struct mch_buf *to, const char *name, size_t length, size_t room);

/* What the lines of one frame want at most. Begin with zeroes, measure each line. */
struct mch_tty_needs {
  size_t name;   /* cells of a name, with a pool's short counts, and of counts that push it */
  size_t digits; /* of a count */
  size_t clock;  /* cells of a time */
  size_t counts; /* a pool's short ones */
};

void mch_render_measure(struct mch_tty_needs *needs, const struct mch_report *report);

/* How they share the screen's width, so that their columns agree. */
struct mch_tty_layout {
  size_t width;  /* cells of a line at most */
  size_t fixed;  /* cells besides the bar, with the space before it, and the name */
  size_t bar;    /* cells of the bar: 40, or fewer */
  size_t digits; /* cells of a count: 8, or fewer; 0: the counts are left out */
  size_t clock;  /* cells of a time */
  int times;     /* 2: elapsed, remaining and rate; 1: remaining; 0: none */
};

/* The last column stays empty: a line that fills it wraps on some terminals. When room is short,
 * the bar shrinks to 20 cells, then names are cut, then the bar shrinks further, then counts move
 * together, and at last counts and times are left out. */
void mch_render_layout(struct mch_tty_layout *layout, enum mch_tty_style style, unsigned columns,
                       const struct mch_tty_needs *needs);

/* The bars of one frame are not wider than those of the frame before, unless the window is: else
 * they would jump whenever a name comes or goes. */
struct mch_tty_fit {
  int known;
  size_t bar;
  unsigned columns;
};
void mch_render_fit(struct mch_tty_layout *layout, struct mch_tty_fit *fit, unsigned columns);

/* One line without a newline:
 *   "  71.27% ::::::::::::::::::::::::::::             |    28094 /    39421 |:  func1 "
 *   "  71.27% ::::::::::::::::::::::::::::             |    28094 /    39421 |
 *    00:12 < 00:05 2341.2/s |:  func1 "                                     (the same line)
 * Without a total: count and rate. Returns its cells. */
size_t mch_render_tty(struct mch_buf *to, const struct mch_tty_layout *layout,
                      const struct mch_report *report);

/* One line with its newline: "03/04 09:17 :     1173 /     7685 ( 15.26%): name\n". */
void mch_render_text(struct mch_buf *to, const struct mch_report *report, const struct tm *when);

/* One JSON object and a newline. `when`: seconds since the epoch. */
void mch_render_json(struct mch_buf *to, const struct mch_report *report, double when);

#endif
