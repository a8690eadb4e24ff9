/* Runs in: parent. Purpose: the lines of bars on a terminal; render.h. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/base/decimal.h"
#include "width.h"

enum {
  HEAD = 8,        /* " 100.00%" */
  BAR = 40,        /* cells of a bar, as in the original */
  BAR_GOOD = 20,   /* names are cut before it becomes shorter */
  BAR_MARKED = 10, /* any mark fits into it */
  BAR_LEAST = 4,   /* a shorter one tells nothing */
  DIGITS = 8,      /* of a count, as in the original */
  NAME_LEAST = 8,  /* of a name that wants more */
  NAME_GOOD = 12,  /* bars shrink before it becomes shorter */
  RATE = 8,        /* "1234.5/s" */
  CLOCK = 5,       /* "00:12" */
  CLOCK_MOST = 40  /* more than any time takes */
};

/* What stands between bar and name, from the most to the least. */
struct step {
  int counts; /* 2: as wide as in the original, 1: as they need, 0: none */
  int times;  /* as in struct mch_tty_layout */
};
static const struct step plain_steps[] = {{2, 0}, {1, 0}, {0, 0}};
static const struct step eta_steps[] = {{2, 2}, {1, 2}, {0, 2}, {0, 1}, {0, 0}};

int mch_render_is_open(const struct mch_report *report) {
  return report->total == MCH_BAR_UNKNOWN || report->done > report->total;
}

double mch_render_percent(uint64_t done, uint64_t total) {
  if (total == MCH_BAR_UNKNOWN || done > total)
    return -1;
  return total == 0 ? 100 : (double)done / (double)total * 100;
}

uint64_t mch_render_queued(const struct mch_report *report) {
  uint64_t begun = report->done + report->running + report->cancelled;
  return begun < report->total ? report->total - begun : 0;
}

/* One count behind those before it: " 3 running", or " 3r". */
static void add_count(char mark[MCH_MARK_MOST], uint64_t count, const char *word, int whole) {
  size_t length = strlen(mark);
  snprintf(mark + length, MCH_MARK_MOST - length, whole ? "%s%" PRIu64 " %s" : "%s%" PRIu64 "%.1s",
           length < 2 ? " "
           : whole    ? ", "
                      : " ",
           count, word);
}

/* ": 3 running, 12 queued, 1 failed", or ": 3r 12q 1f"; of an ended one ": 1 failed". Cancelled
 * ones if there are any. */
static size_t tell_tasks(char mark[MCH_MARK_MOST], const struct mch_report *report, int whole) {
  strcpy(mark, ":");
  if (report->how == MCH_BAR_RUNNING) {
    add_count(mark, report->running, "running", whole);
    add_count(mark, mch_render_queued(report), "queued", whole);
  }
  if (report->found > 0) { /* in full: the letter is that of `failed` */
    add_count(mark, report->found, " ", whole);
    strcpy(mark + strlen(mark) - 1, whole ? "found" : " found");
  }
  add_count(mark, report->failed, "failed", whole);
  if (report->cancelled > 0)
    add_count(mark, report->cancelled, "cancelled", whole);
  return strlen(mark);
}

size_t mch_render_mark(char mark[MCH_MARK_MOST], const struct mch_report *report, size_t room) {
  const char *word = mch_bar_end_mark(report->how);
  size_t length;
  if (report->of_tasks)
    return (length = tell_tasks(mark, report, 1)) <= room ? length : tell_tasks(mark, report, 0);
  return (size_t)snprintf(mark, MCH_MARK_MOST, *word != '\0' ? " (%s)" : "%s", word);
}

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

static size_t most(size_t a, size_t b) {
  return a > b ? a : b;
}

/* --- times --- */

/* Things done in a second: of late, or over the whole time where that is all that is known. */
static double pace_of(const struct mch_report *report) {
  double seconds = (double)report->elapsed_ns / 1e9;
  if (report->how == MCH_BAR_RUNNING && report->pace > 0)
    return report->pace;
  return seconds > 0 ? (double)report->done / seconds : 0;
}

/* Seconds that remain if it goes on like this; -1: not known. */
static double remaining(const struct mch_report *report) {
  double pace = pace_of(report);
  if (mch_render_is_open(report))
    return -1;
  if (report->done == report->total)
    return 0;
  if (report->done == 0 || report->how != MCH_BAR_RUNNING || pace <= 0)
    return -1;
  return (double)(report->total - report->done) / pace;
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

/* Three significant digits and the power: "3.00M", "12.3M", "123M"; less than 1000 as it is. */
static void put_scaled(char text[MCH_COUNT_MOST], double value, double power) {
  static const char units[] = "kMGTPE";
  char number[MCH_DECIMAL_ROOM];
  size_t unit = 0;
  int places;
  for (value /= power; value >= 999.5 && units[unit + 1] != '\0'; value /= power)
    unit++;
  places = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  mch_decimal_fixed(number, value, places);
  snprintf(text, MCH_COUNT_MOST, "%.20s%c", number, units[unit]);
}

static double power_of(enum mch_bar_unit unit) {
  return unit == MCH_UNIT_BINARY ? 1024 : 1000;
}

void mch_render_count(char text[MCH_COUNT_MOST], enum mch_bar_unit unit, uint64_t count) {
  if (unit == MCH_UNIT_NONE || count < 1000)
    snprintf(text, MCH_COUNT_MOST, "%" PRIu64, count);
  else
    put_scaled(text, (double)count, power_of(unit));
}

static void put_byte_rate(char *text, size_t size, enum mch_bar_unit unit, double value) {
  char number[MCH_COUNT_MOST];
  if (value < 999.5)
    snprintf(number, sizeof number, "%u", (unsigned)(value + 0.5));
  else
    put_scaled(number, value, power_of(unit));
  strcat(number, "B/s");
  snprintf(text, size, "%8s", number);
}

void mch_render_rate(char *text, size_t size, const struct mch_report *report) {
  static const char units[] = "kMGTPE";
  double value = pace_of(report);
  char number[MCH_DECIMAL_ROOM];
  size_t unit = 0;
  if (report->unit != MCH_UNIT_NONE) {
    put_byte_rate(text, size, report->unit, value);
    return;
  }
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

static size_t digits_of(const struct mch_report *report, uint64_t count) {
  char text[MCH_COUNT_MOST];
  mch_render_count(text, report->unit, count);
  return strlen(text);
}

static size_t excess(size_t digits) {
  return digits > DIGITS ? digits - DIGITS : 0;
}

void mch_render_measure(struct mch_tty_needs *needs, const struct mch_report *report) {
  size_t done = digits_of(report, report->done), total = DIGITS;
  size_t name = mch_width_cells(report->name, report->name_length) + excess(done);
  char elapsed[CLOCK_MOST], rest[CLOCK_MOST], mark[MCH_MARK_MOST];
  if (!mch_render_is_open(report)) {
    total = digits_of(report, report->total);
    name += excess(total);
  }
  if (report->of_tasks) {
    needs->counts = most(needs->counts, tell_tasks(mark, report, 0));
    name += tell_tasks(mark, report, 0);
  }
  put_clocks(elapsed, rest, report);
  needs->name = most(needs->name, name);
  needs->digits = most(needs->digits, most(done, total));
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

/* What a name can be cut to, with the counts of a pool. */
static size_t short_of(size_t name, size_t tail) {
  return most(least(name, NAME_LEAST / 2), tail > 0 ? least(name, tail + 2) : 0);
}

/* Does a step leave enough for bar and name: for a bar that any mark fits into, above all? */
static int has_room(const struct mch_tty_layout *layout, size_t name, size_t tail) {
  size_t some = most(BAR_LEAST + least(name, NAME_LEAST), BAR_MARKED + short_of(name, tail));
  return layout->fixed + 1 + some <= layout->width;
}

/* How bar and name share what is left for both. */
static size_t share(size_t room, size_t name, size_t tail) {
  if (room >= BAR_GOOD + name)
    return least(room - name, BAR);
  if (room >= BAR_MARKED + most(least(name, NAME_GOOD), short_of(name, tail)))
    return least(room - most(least(name, NAME_GOOD), short_of(name, tail)), BAR_GOOD);
  if (room >= BAR_MARKED + short_of(name, tail))
    return BAR_MARKED;
  return room >= BAR_LEAST + least(name, NAME_LEAST) ? room - least(name, NAME_LEAST) : 0;
}

void mch_render_layout(struct mch_tty_layout *layout, enum mch_tty_style style, unsigned columns,
                       const struct mch_tty_needs *needs) {
  const struct step *step = style == MCH_TTY_ETA ? eta_steps : plain_steps;
  layout->width = columns > 1 ? columns - 1 : 1;
  take_step(layout, step, needs);
  while (step->counts + step->times > 0 && !has_room(layout, needs->name, needs->counts))
    take_step(layout, ++step, needs);
  layout->bar = 0;
  if (layout->width > layout->fixed + 1)
    layout->bar = share(layout->width - layout->fixed - 1, needs->name, needs->counts);
}

void mch_render_fit(struct mch_tty_layout *layout, struct mch_tty_fit *fit, unsigned columns) {
  if (fit->known && columns <= fit->columns && layout->bar > fit->bar)
    layout->bar = fit->bar;
  fit->known = 1;
  fit->bar = layout->bar;
  fit->columns = columns;
}

/* --- the line --- */

static void put(struct mch_buf *to, const char *text) {
  mch_buf_append(to, text, strlen(text));
}

static void fill(struct mch_buf *to, char with, size_t count) {
  while (count-- > 0)
    mch_buf_u8(to, (uint8_t)with);
}

/* Does the mark stand over the bar? */
static int is_over_bar(const struct mch_tty_layout *layout, const char *mark) {
  return *mark != '\0' && layout->bar > strlen(mark);
}

/* "  71.27% ::::::::::::::::::::::::::::             ", or with a mark over its end. */
static void put_bar(struct mch_buf *to, const struct mch_tty_layout *layout,
                    const struct mch_report *report) {
  double percent = mch_render_percent(report->done, report->total);
  const char *mark = report->of_tasks ? "" : mch_bar_end_mark(report->how);
  size_t full = (size_t)((percent < 0 ? 0 : percent) / 100 * (double)layout->bar);
  size_t over = is_over_bar(layout, mark) ? strlen(mark) + 1 : 0;
  full = least(full, layout->bar - over);
  mch_buf_u8(to, ' ');
  fill(to, ':', full);
  fill(to, ' ', layout->bar - full - (over > 0 ? over - 1 : 0));
  if (over > 0)
    put(to, mark);
}

static void put_right(struct mch_buf *to, const char *text, size_t width) {
  size_t length = strlen(text);
  fill(to, ' ', length < width ? width - length : 0);
  put(to, text);
}

static void put_count(struct mch_buf *to, const struct mch_report *report, uint64_t count,
                      size_t width) {
  char text[MCH_COUNT_MOST];
  mch_render_count(text, report->unit, count);
  put_right(to, text, width);
}

/* " 28094 / 39421 |", or without a total " 28094   1234.5/s |". */
static void put_counts(struct mch_buf *to, const struct mch_tty_layout *layout,
                       const struct mch_report *report) {
  char rate[32] = "?";
  int known = !mch_render_is_open(report);
  put(to, " ");
  put_count(to, report, report->done, layout->digits);
  put(to, known || layout->times == 2 ? " / " : "   ");
  if (!known && layout->times < 2)
    mch_render_rate(rate, sizeof rate, report);
  if (known)
    put_count(to, report, report->total, layout->digits);
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
  char text[64], number[MCH_DECIMAL_ROOM];
  double percent = mch_render_percent(report->done, report->total);
  if (percent >= 0) {
    mch_decimal_fixed(number, percent, 2);
    snprintf(text, sizeof text, " %6.6s%%", number);
  } else if (layout->digits > 0)
    snprintf(text, sizeof text, "%*s", HEAD, "");
  else {
    char count[MCH_COUNT_MOST];
    mch_render_count(count, report->unit, report->done);
    snprintf(text, sizeof text, "%*s", HEAD, count);
  }
  put(to, text);
}

/* Names often begin alike, and end in what tells them apart: so both ends stay. */
size_t mch_render_name(struct mch_buf *to, const char *name, size_t length, size_t room) {
  size_t cells = mch_width_cells(name, length), head, at, tail;
  uint32_t code;
  if (cells <= room || room < 5)
    return mch_width_put(to, name, length, room);
  tail = (room - 1) / 2;
  head = mch_width_put(to, name, length, room - 1 - tail);
  put(to, "\xE2\x80\xA6"); /* an ellipsis */
  for (at = 0; at < length && mch_width_cells(name + at, length - at) > tail;) {
    size_t colour = mch_width_colour(name + at, length - at);
    at += colour > 0 ? colour : mch_width_decode(name + at, length - at, &code);
  }
  while (at < length && mch_width_decode(name + at, length - at, &code) > 0 && code >= 0x300 &&
         code != MCH_UTF8_INVALID && mch_width_code(code) == 0) /* of the character before */
    at += mch_width_decode(name + at, length - at, &code);
  return head + 1 + mch_width_put(to, name + at, length - at, tail);
}

/* The name, cut if need be so that what stands behind it stays, and a space if there is room for
 * one. A mark may leave no room for any of it. */
static size_t put_name(struct mch_buf *to, const struct mch_tty_layout *layout,
                       const struct mch_report *report, size_t room) {
  char mark[MCH_MARK_MOST] = "";
  size_t name = mch_width_cells(report->name, report->name_length), tail = 0, cells;
  if (report->of_tasks || !is_over_bar(layout, mch_bar_end_mark(report->how)))
    tail = mch_render_mark(mark, report, name < room ? room - name : 0);
  if (!report->of_tasks && tail >= room && tail <= room + 1 && tail > 0) {
    mch_buf_append(to, mark + 1, tail - 1); /* without its space */
    return tail - 1;
  }
  cells = mch_render_name(to, report->name, report->name_length, tail < room ? room - tail : room);
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
    put_bar(&line, layout, report);
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
  return cells + put_name(to, layout, report, layout->width - cells);
}
