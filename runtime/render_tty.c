/* Runs in: parent. Purpose: the lines of bars on a terminal; render.h. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "width.h"

enum {
  HEAD = 8,        /* " 100.00%" */
  BAR = 40,        /* cells of a bar, as in the original */
  BAR_LEAST = 4,   /* a shorter one tells nothing */
  DIGITS = 8,      /* of a count, as in the original */
  NAME_LEAST = 8,  /* of a name that wants more */
  AROUND = 11,     /* " |  /  |:  " around two counts */
  AROUND_NONE = 4, /* " |: " */
};

double mch_render_percent(uint64_t done, uint64_t total) {
  if (total == MCH_BAR_UNKNOWN)
    return -1;
  return total == 0 ? 100 : (double)done / (double)total * 100;
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

void mch_render_measure(struct mch_tty_needs *needs, const struct mch_report *report) {
  size_t name = mch_width_cells(report->name, report->name_length);
  size_t total = report->total == MCH_BAR_UNKNOWN ? DIGITS : digits_of(report->total);
  needs->name = most(needs->name, name);
  needs->digits = most(needs->digits, most(digits_of(report->done), total));
}

/* Cells of a line besides its bar and its name. */
static size_t fixed(size_t digits) {
  return HEAD + (digits > 0 ? AROUND + 2 * digits : AROUND_NONE);
}

void mch_render_layout(struct mch_tty_layout *layout, unsigned columns,
                       const struct mch_tty_needs *needs) {
  size_t digits[] = {DIGITS, least(needs->digits, DIGITS), 0};
  size_t name = least(needs->name, NAME_LEAST);
  size_t i = 0, taken;
  layout->width = columns > 1 ? columns - 1 : 1;
  while (i < 2 && fixed(digits[i]) + 1 + BAR_LEAST + name > layout->width)
    i++;
  layout->digits = digits[i];
  layout->bar = 0;
  taken = fixed(digits[i]) + 1;
  if (taken + BAR_LEAST + name > layout->width)
    return;
  layout->bar = BAR_LEAST;
  if (layout->width > taken + BAR_LEAST + needs->name)
    layout->bar = least(layout->width - taken - needs->name, BAR);
}

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

/* Things done per second, in eight cells: "1234.5/s", " 12.3M/s". */
static void rate(char *text, size_t size, const struct mch_report *report) {
  static const char units[] = "kMGTPE";
  double seconds = (double)report->elapsed_ns / 1e9;
  double value = seconds > 0 ? (double)report->done / seconds : 0;
  size_t unit = 0;
  if (value < 9999.95) {
    snprintf(text, size, "%6.1f/s", value);
    return;
  }
  for (value /= 1000; value >= 999.95 && units[unit + 1] != '\0'; value /= 1000)
    unit++;
  snprintf(text, size, "%5.1f%c/s", value, units[unit]);
}

/* " |    28094 /    39421 |:  ", or without a total " |    28094   1234.5/s |:  " */
static void put_counts(struct mch_buf *to, size_t digits, const struct mch_report *report) {
  char text[96], second[32];
  int width = (int)digits;
  if (report->total == MCH_BAR_UNKNOWN)
    rate(second, sizeof second, report);
  else
    snprintf(second, sizeof second, "%*" PRIu64, width, report->total);
  snprintf(text, sizeof text, " | %*" PRIu64 " %c %s |:  ", width, report->done,
           report->total == MCH_BAR_UNKNOWN ? ' ' : '/', second);
  put(to, text);
}

/* A mark may take more of the bar than the layout does, for its own line only: so the columns of
 * the others stay where they were. */
static size_t bar_of(const struct mch_tty_layout *layout, const struct mch_report *report) {
  size_t mark = strlen(mch_bar_end_mark(report->how));
  size_t needed = fixed(layout->digits) + 1 + layout->bar + mark +
                  mch_width_cells(report->name, report->name_length);
  if (mark == 0 || layout->bar == 0 || needed <= layout->width)
    return layout->bar;
  return layout->bar - least(needed - layout->width, layout->bar - BAR_LEAST);
}

/* The name, cut if need be so that the mark stays, and a space if there is room for one. */
static size_t put_name(struct mch_buf *to, const struct mch_report *report, size_t room) {
  const char *mark = mch_bar_end_mark(report->how);
  size_t tail = strlen(mark);
  size_t cells;
  if (tail > room)
    tail = 0;
  cells = mch_width_put(to, report->name, report->name_length, room - tail);
  mch_buf_append(to, mark, tail);
  cells += tail;
  if (cells < room)
    mch_buf_u8(to, ' ');
  return cells < room ? cells + 1 : cells;
}

size_t mch_render_tty(struct mch_buf *to, const struct mch_tty_layout *layout,
                      const struct mch_report *report) {
  struct mch_buf line = {0};
  double percent = mch_render_percent(report->done, report->total);
  char head[32];
  size_t cells;
  if (percent < 0)
    snprintf(head, sizeof head, "%8s", "");
  else
    snprintf(head, sizeof head, " %6.2f%%", percent);
  put(&line, head);
  if (layout->bar > 0)
    put_bar(&line, bar_of(layout, report), percent);
  if (layout->digits > 0)
    put_counts(&line, layout->digits, report);
  else
    put(&line, " |: ");
  /* All of it so far is one cell a byte; counts beyond eight digits push the name. */
  cells = least(mch_buf_unread(&line), layout->width);
  mch_buf_append(to, line.data, cells);
  if (line.failed != 0)
    to->failed = line.failed;
  mch_buf_free(&line);
  return cells + put_name(to, report, layout->width - cells);
}
