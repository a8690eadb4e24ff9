/* Runs in: parent. Purpose: the lines of bars on a terminal; render.h. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/base/decimal.h"
#include "width.h"

enum {
  HEAD = 8,       /* " 100.00%" */
  BAR = 40,       /* cells of a bar, as in the original */
  BAR_LEAST = 4,  /* a shorter one tells nothing */
  DIGITS = 8,     /* of a count, as in the original */
  NAME_LEAST = 8, /* of a name that wants more */
  RATE = 8,       /* "1234.5/s" */
  CLOCK = 5,      /* "00:12" */
  CLOCK_MOST = 40 /* more than any time takes */
};

/* What stands between bar and name, from the most to the least. */
struct step {
  int counts; /* 2: as wide as in the original, 1: as they need, 0: none */
  int times;  /* as in struct mch_tty_layout */
};
static const struct step plain_steps[] = {{2, 0}, {1, 0}, {0, 0}};
static const struct step eta_steps[] = {{2, 2}, {1, 2}, {0, 2}, {0, 1}, {0, 0}};

double mch_render_percent(uint64_t done, uint64_t total) {
  if (total == MCH_BAR_UNKNOWN)
    return -1;
  return total == 0 ? 100 : (double)done / (double)total * 100;
}

uint64_t mch_render_queued(const struct mch_report *report) {
  uint64_t begun = report->done + report->running;
  return begun < report->total ? report->total - begun : 0;
}

/* ": 3 running, 12 queued, 1 failed", or ": 3r 12q 1f". */
static size_t tell_tasks(char mark[MCH_MARK_MOST], const struct mch_report *report, size_t room) {
  uint64_t queued = mch_render_queued(report);
  int length = 0;
  if (report->how != MCH_BAR_RUNNING)
    return (size_t)snprintf(mark, MCH_MARK_MOST, ": %" PRIu64 " failed", report->failed);
  length =
      snprintf(mark, MCH_MARK_MOST, ": %" PRIu64 " running, %" PRIu64 " queued, %" PRIu64 " failed",
               report->running, queued, report->failed);
  if ((size_t)length > room)
    length = snprintf(mark, MCH_MARK_MOST, ": %" PRIu64 "r %" PRIu64 "q %" PRIu64 "f",
                      report->running, queued, report->failed);
  return (size_t)length;
}

size_t mch_render_mark(char mark[MCH_MARK_MOST], const struct mch_report *report, size_t room) {
  size_t length = report->of_tasks ? tell_tasks(mark, report, room) : 0;
  return length + (size_t)snprintf(mark + length, MCH_MARK_MOST - length, "%s",
                                   mch_bar_end_mark(report->how));
}

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

static size_t most(size_t a, size_t b) {
  return a > b ? a : b;
}

static size_t digits_of(uint64_t count) {
  size_t digits = 1;
  for (; count >= 10; count /= 10)
    digits++;
  return digits;
}

/* --- times --- */

/* Seconds that remain if it goes on like this; -1: not known. */
static double remaining(const struct mch_report *report) {
  if (report->total == MCH_BAR_UNKNOWN)
    return -1;
  if (report->done >= report->total)
    return 0;
  if (report->done == 0 || report->how != MCH_BAR_RUNNING)
    return -1;
  return (double)report->elapsed_ns / 1e9 / (double)report->done *
         (double)(report->total - report->done);
}

/* "00:12", "1:02:03", "4d05h", and "--:--" for what is not known or too long. */
static void put_clock(char text[CLOCK_MOST], double seconds) {
  int known = seconds >= 0 && seconds < 1000 * 86400.0;
  unsigned whole = known ? (unsigned)(seconds + 0.5) : 0;
  unsigned minutes = whole / 60, hours = minutes / 60;
  if (!known)
    snprintf(text, CLOCK_MOST, "--:--");
  else if (hours >= 100)
    snprintf(text, CLOCK_MOST, "%ud%02uh", hours / 24, hours % 24);
  else if (hours > 0)
    snprintf(text, CLOCK_MOST, "%u:%02u:%02u", hours, minutes % 60, whole % 60);
  else
    snprintf(text, CLOCK_MOST, "%02u:%02u", minutes, whole % 60);
}

static void put_clocks(char elapsed[CLOCK_MOST], char rest[CLOCK_MOST],
                       const struct mch_report *report) {
  put_clock(elapsed, (double)(report->elapsed_ns / 1000000000));
  put_clock(rest, remaining(report));
}

void mch_render_rate(char *text, size_t size, const struct mch_report *report) {
  static const char units[] = "kMGTPE";
  double seconds = (double)report->elapsed_ns / 1e9;
  double value = seconds > 0 ? (double)report->done / seconds : 0;
  char number[MCH_DECIMAL_ROOM];
  size_t unit = 0;
  if (value > 0 && value < 1) {
    int few = value * 60 < 1;
    mch_decimal_fixed(number, value * (few ? 3600 : 60), 1);
    snprintf(text, size, few ? "%6s/h" : "%4s/min", number);
    return;
  }
  if (value < 9999.95) {
    mch_decimal_fixed(number, value, 1);
    snprintf(text, size, "%6s/s", number);
    return;
  }
  for (value /= 1000; value >= 999.95 && units[unit + 1] != '\0'; value /= 1000)
    unit++;
  mch_decimal_fixed(number, value, 1);
  snprintf(text, size, "%5s%c/s", number, units[unit]);
}

/* --- layout --- */

static size_t excess(uint64_t count) {
  size_t digits = digits_of(count);
  return digits > DIGITS ? digits - DIGITS : 0;
}

void mch_render_measure(struct mch_tty_needs *needs, const struct mch_report *report) {
  size_t name = mch_width_cells(report->name, report->name_length) + excess(report->done);
  size_t total = DIGITS;
  char elapsed[CLOCK_MOST], rest[CLOCK_MOST];
  if (report->total != MCH_BAR_UNKNOWN) {
    name += excess(report->total);
    total = digits_of(report->total);
  }
  put_clocks(elapsed, rest, report);
  needs->name = most(needs->name, name);
  needs->digits = most(needs->digits, most(digits_of(report->done), total));
  needs->clock = most(needs->clock, most(strlen(elapsed), strlen(rest)));
}

/* Cells of a line besides its bar and its name: " |", then " 28094 / 39421 |" and
 * " 00:12 < 00:05 2341.2/s |", then ":  " if there was any of them, else ": ". */
static size_t fixed(const struct mch_tty_layout *layout) {
  size_t cells = HEAD + 2 + 2;
  if (layout->digits > 0)
    cells += 1 + layout->digits + 3 + layout->digits + 2;
  if (layout->times == 2)
    cells += 1 + layout->clock + 3 + layout->clock + 1 + RATE + 2;
  else if (layout->times == 1)
    cells += 1 + layout->clock + 2;
  return cells + (layout->digits > 0 || layout->times > 0);
}

static void take_step(struct mch_tty_layout *layout, const struct step *step,
                      const struct mch_tty_needs *needs) {
  size_t digits[] = {0, least(needs->digits, DIGITS), DIGITS};
  layout->digits = digits[step->counts];
  layout->times = step->times;
  layout->clock = most(needs->clock, CLOCK);
  layout->fixed = fixed(layout);
}

void mch_render_layout(struct mch_tty_layout *layout, enum mch_tty_style style, unsigned columns,
                       const struct mch_tty_needs *needs) {
  const struct step *step = style == MCH_TTY_ETA ? eta_steps : plain_steps;
  size_t name = least(needs->name, NAME_LEAST);
  size_t taken;
  layout->width = columns > 1 ? columns - 1 : 1;
  take_step(layout, step, needs);
  while (step->counts + step->times > 0 && layout->fixed + 1 + BAR_LEAST + name > layout->width)
    take_step(layout, ++step, needs);
  layout->bar = 0;
  taken = layout->fixed + 1;
  if (taken + BAR_LEAST + name > layout->width)
    return;
  layout->bar = BAR_LEAST;
  if (layout->width > taken + BAR_LEAST + needs->name)
    layout->bar = least(layout->width - taken - needs->name, BAR);
}

/* --- the line --- */

static void put(struct mch_buf *to, const char *text) {
  mch_buf_append(to, text, strlen(text));
}

static void fill(struct mch_buf *to, char with, size_t count) {
  while (count-- > 0)
    mch_buf_u8(to, (uint8_t)with);
}

/* "  71.27% ::::::::::::::::::::::::::::             " */
static void put_bar(struct mch_buf *to, size_t cells, double percent) {
  double whole = percent > 100 ? 100 : percent < 0 ? 0 : percent;
  size_t full = (size_t)(whole / 100 * (double)cells);
  mch_buf_u8(to, ' ');
  fill(to, ':', full);
  fill(to, ' ', cells - full);
}

static void put_right(struct mch_buf *to, const char *text, size_t width) {
  size_t length = strlen(text);
  fill(to, ' ', length < width ? width - length : 0);
  put(to, text);
}

static void put_count(struct mch_buf *to, uint64_t count, size_t width) {
  char text[32];
  snprintf(text, sizeof text, "%" PRIu64, count);
  put_right(to, text, width);
}

/* " 28094 / 39421 |", or without a total " 28094   1234.5/s |". */
static void put_counts(struct mch_buf *to, const struct mch_tty_layout *layout,
                       const struct mch_report *report) {
  char rate[32] = "?";
  int known = report->total != MCH_BAR_UNKNOWN;
  put(to, " ");
  put_count(to, report->done, layout->digits);
  put(to, known || layout->times == 2 ? " / " : "   ");
  if (!known && layout->times < 2)
    mch_render_rate(rate, sizeof rate, report);
  if (known)
    put_count(to, report->total, layout->digits);
  else
    put_right(to, rate, layout->digits);
  put(to, " |");
}

/* " 00:12 < 00:05 2341.2/s |", or " 00:05 |". */
static void put_times(struct mch_buf *to, const struct mch_tty_layout *layout,
                      const struct mch_report *report) {
  char elapsed[CLOCK_MOST], rest[CLOCK_MOST], rate[32];
  put_clocks(elapsed, rest, report);
  mch_render_rate(rate, sizeof rate, report);
  put(to, " ");
  if (layout->times == 2) {
    put_right(to, elapsed, layout->clock);
    put(to, " < ");
  }
  put_right(to, rest, layout->clock);
  if (layout->times == 2) {
    put(to, " ");
    put(to, rate);
  }
  put(to, " |");
}

/* The percentage; without a total nothing, or the count if it stands nowhere else. */
static void put_head(struct mch_buf *to, const struct mch_tty_layout *layout,
                     const struct mch_report *report) {
  char text[32], number[MCH_DECIMAL_ROOM];
  double percent = mch_render_percent(report->done, report->total);
  if (percent >= 0) {
    mch_decimal_fixed(number, percent, 2);
    snprintf(text, sizeof text, " %6.6s%%", number);
  } else if (layout->digits > 0)
    snprintf(text, sizeof text, "%*s", HEAD, "");
  else
    snprintf(text, sizeof text, "%*" PRIu64, HEAD, report->done);
  put(to, text);
}

/* A mark may take more of the bar than the layout does, for its own line only: so the columns of
 * the others stay where they were. */
static size_t bar_of(const struct mch_tty_layout *layout, const struct mch_report *report) {
  char text[MCH_MARK_MOST];
  size_t taken = layout->fixed + 1 + mch_width_cells(report->name, report->name_length);
  size_t room = layout->width > taken + BAR_LEAST ? layout->width - taken - BAR_LEAST : 0;
  size_t mark = mch_render_mark(text, report, room);
  size_t needed = taken + layout->bar + mark;
  if (mark == 0 || layout->bar == 0 || needed <= layout->width)
    return layout->bar;
  return layout->bar - least(needed - layout->width, layout->bar - BAR_LEAST);
}

/* The name, cut if need be so that the mark stays (if there is room for more than a mark), and a
 * space if there is room for one. */
static size_t put_name(struct mch_buf *to, const struct mch_report *report, size_t room) {
  char mark[MCH_MARK_MOST];
  size_t name = mch_width_cells(report->name, report->name_length);
  size_t tail = mch_render_mark(mark, report, name < room ? room - name : 0);
  size_t cells =
      mch_width_put(to, report->name, report->name_length, tail < room ? room - tail : room);
  tail = least(tail, room - cells);
  mch_buf_append(to, mark, tail);
  cells += tail;
  if (cells < room)
    mch_buf_u8(to, ' ');
  return cells < room ? cells + 1 : cells;
}

size_t mch_render_tty(struct mch_buf *to, const struct mch_tty_layout *layout,
                      const struct mch_report *report) {
  struct mch_buf line = {0};
  size_t cells;
  put_head(&line, layout, report);
  if (layout->bar > 0)
    put_bar(&line, bar_of(layout, report), mch_render_percent(report->done, report->total));
  put(&line, " |");
  if (layout->digits > 0)
    put_counts(&line, layout, report);
  if (layout->times > 0)
    put_times(&line, layout, report);
  put(&line, layout->digits > 0 || layout->times > 0 ? ":  " : ": ");
  /* All of it so far is one cell a byte; counts beyond eight digits push the name. */
  cells = least(mch_buf_unread(&line), layout->width);
  mch_buf_append(to, line.data, cells);
  if (line.failed != 0)
    to->failed = line.failed;
  mch_buf_free(&line);
  return cells + put_name(to, report, layout->width - cells);
}
