/* Lines of bars, plain lines, JSON, widths and frames: byte for byte. */
#include "runtime/show/render.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/show/screen.h"
#include "runtime/show/width.h"

static int failures;

static void show(const char *label, const char *bytes, size_t length) {
  size_t i;
  fprintf(stderr, "  %s \"", label);
  for (i = 0; i < length; i++)
    fprintf(stderr, bytes[i] >= 0x20 && bytes[i] < 0x7f ? "%c" : "\\x%02x",
            (unsigned char)bytes[i]);
  fprintf(stderr, "\"\n");
}

static void same(int line, const struct mch_buf *got, const char *wanted) {
  if (mch_buf_unread(got) == strlen(wanted) &&
      (wanted[0] == '\0' || memcmp(got->data, wanted, strlen(wanted)) == 0))
    return;
  failures++;
  fprintf(stderr, "%s:%d: not the same\n", __FILE__, line);
  show("wanted", wanted, strlen(wanted));
  show("got   ", (const char *)got->data, mch_buf_unread(got));
}

static void equal(int line, const char *what, long got, long wanted) {
  if (got == wanted)
    return;
  failures++;
  fprintf(stderr, "%s:%d: %s is %ld, not %ld\n", __FILE__, line, what, got, wanted);
}

#define SAME(got, wanted) same(__LINE__, got, wanted)
#define EQUAL(got, wanted) equal(__LINE__, #got, (long)(got), (long)(wanted))

static struct mch_report report_of(const char *name, uint64_t done, uint64_t total) {
  struct mch_report report;
  memset(&report, 0, sizeof report);
  report.event = MCH_REPORT_UPDATE;
  report.key = 1;
  report.name = name;
  report.name_length = strlen(name);
  report.done = done;
  report.total = total;
  report.elapsed_ns = 2000000000;
  report.runid = -1;
  return report;
}

static size_t styled(struct mch_buf *to, enum mch_tty_style style, unsigned columns,
                     const struct mch_report *report) {
  struct mch_tty_needs needs = {0, 0, 0, 0};
  struct mch_tty_layout layout;
  mch_render_measure(&needs, report);
  mch_render_layout(&layout, style, columns, &needs);
  mch_buf_clear(to);
  return mch_render_tty(to, &layout, report);
}

static size_t tty(struct mch_buf *to, unsigned columns, const struct mch_report *report) {
  return styled(to, MCH_TTY_PLAIN, columns, report);
}

static size_t eta(struct mch_buf *to, unsigned columns, const struct mch_report *report) {
  return styled(to, MCH_TTY_ETA, columns, report);
}

static void the_original_line(struct mch_buf *to) {
  struct mch_report report = report_of("func1", 28094, 39421);
  EQUAL(tty(to, 100, &report), 82);
  SAME(to, "  71.27% ::::::::::::::::::::::::::::             |    28094 /    39421 |:  func1 ");
  report = report_of("func1", 12559, 12559);
  tty(to, 100, &report);
  SAME(to, " 100.00% :::::::::::::::::::::::::::::::::::::::: |    12559 /    12559 |:  func1 ");
  report = report_of("nothing to do", 0, 0);
  tty(to, 100, &report);
  SAME(
      to,
      " 100.00% :::::::::::::::::::::::::::::::::::::::: |        0 /        0 |:  nothing to do ");
  report = report_of("begins", 0, 10);
  tty(to, 100, &report);
  SAME(to, "   0.00%                                          |        0 /       10 |:  begins ");
  report = report_of("more than all", 15, 10);
  tty(to, 100, &report);
  SAME(
      to,
      "                                                  |       15      7.5/s |:  more than all ");
}

static void no_total(struct mch_buf *to) {
  struct mch_report report = report_of("lines", 1234, MCH_BAR_UNKNOWN);
  EQUAL(tty(to, 100, &report), 82);
  SAME(to, "                                                  |     1234    617.0/s |:  lines ");
  report.elapsed_ns = 0;
  tty(to, 100, &report);
  SAME(to, "                                                  |     1234      0.0/s |:  lines ");
  report = report_of("lines", 24690000, MCH_BAR_UNKNOWN);
  tty(to, 100, &report);
  SAME(to, "                                                  | 24690000    12.3M/s |:  lines ");
  report = report_of("lines", 19999000, MCH_BAR_UNKNOWN);
  report.elapsed_ns = 1000;
  tty(to, 100, &report);
  SAME(to, "                                                  | 19999000    20.0T/s |:  lines ");
}

static void marks(struct mch_buf *to) {
  struct mch_report report = report_of("a rather long name of a task", 5, 10);
  report.how = MCH_BAR_KILLED;
  tty(to, 120, &report);
  SAME(to, "  50.00% ::::::::::::::::::::              killed |        5 /       10 |:  "
           "a rather long name of a task ");
  tty(to, 60, &report); /* the name is cut, the mark stays */
  SAME(to, "  50.00% :::: killed |        5 /       10 |:  a rath\xE2\x80\xA6 task");
  tty(to, 40, &report);
  SAME(to, "  50.00% ::: killed |  5 / 10 |:  a \xE2\x80\xA6sk");
  tty(to, 26, &report); /* behind the name where the bar is too short */
  SAME(to, "  50.00% ::   |: (killed)");
  report.name_length = 4;
  tty(to, 20, &report); /* as much of the mark as there is room for */
  SAME(to, "  50.00% |: a ra (k");
  report = report_of("name", 5, 10);
  report.how = MCH_BAR_TIMEOUT;
  tty(to, 84, &report);
  SAME(to, "  50.00% ::::::::::::::::::::             timeout |        5 /       10 |:  name ");
  report.done = 9; /* whatever stood there */
  tty(to, 84, &report);
  SAME(to, "  90.00% :::::::::::::::::::::::::::::::: timeout |        9 /       10 |:  name ");
  report = report_of("a rather long name of a task", 5, 10);
  report.how = MCH_BAR_BROKEN;
  tty(to, 120, &report);
  SAME(to, "  50.00% ::::::::::::::::::::                     |        5 /       10 |:  "
           "a rather long name of a task ");
}

static void narrow(struct mch_buf *to) {
  struct mch_report report = report_of("another task", 5, 10);
  unsigned columns;
  EQUAL(tty(to, 80, &report), 79);
  SAME(to, "  50.00% :::::::::::::::                 |        5 /       10 |:  another task");
  tty(to, 40, &report);
  SAME(to, "  50.00% :::::      |  5 / 10 |:  an\xE2\x80\xA6sk");
  tty(to, 30, &report);
  SAME(to, "  50.00% :::::      |: ano\xE2\x80\xA6sk");
  tty(to, 20, &report);
  SAME(to, "  50.00% |: ano\xE2\x80\xA6"
           "ask");
  for (columns = 1; columns <= 130; columns++) {
    size_t cells = tty(to, columns, &report);
    EQUAL(mch_width_cells((const char *)to->data, mch_buf_unread(to)), (long)cells);
    EQUAL(cells < columns || columns == 1, 1);
  }
}

static void times(struct mch_buf *to) {
  struct mch_report report = report_of("func1", 28094, 39421);
  unsigned columns;
  report.elapsed_ns = UINT64_C(12400000000);
  EQUAL(eta(to, 120, &report), 107);
  SAME(to, "  71.27% ::::::::::::::::::::::::::::             |    28094 /    39421 | "
           "00:12 < 00:05 2265.6/s |:  func1 ");
  eta(to, 80, &report); /* the bar shrinks */
  SAME(to, "  71.27% :::::::::     |    28094 /    39421 | 00:12 < 00:05 2265.6/s |:  func1");
  eta(to, 60, &report); /* then the counts go */
  SAME(to, "  71.27% ::::::::::      | 00:12 < 00:05 2265.6/s |:  func1");
  eta(to, 40, &report); /* then what matters less */
  SAME(to, "  71.27% ::::::::     | 00:05 |:  func1");
  eta(to, 20, &report);
  SAME(to, "  71.27% |: func1 ");
  for (columns = 1; columns <= 150; columns++)
    EQUAL(eta(to, columns, &report) < columns || columns == 1, 1);
  report.done = report.total;
  report.how = MCH_BAR_FINISHED;
  eta(to, 60, &report);
  SAME(to, " 100.00% ::::::::::::::: | 00:12 < 00:00 3179.1/s |:  func1");
  report.done = 5;
  report.how = MCH_BAR_KILLED;
  eta(to, 60, &report);
  SAME(to, "   0.01%          killed | 00:12 < --:-- 24.2/min |:  func1");
}

static void odd_times(struct mch_buf *to) {
  struct mch_report report = report_of("x", 0, 10);
  eta(to, 60, &report); /* nobody knows yet */
  SAME(to, "   0.00%                     | 00:02 < --:--    0.0/s |:  x");
  report = report_of("x", 30, MCH_BAR_UNKNOWN);
  eta(to, 100, &report);
  SAME(to, "                                               |       30 /        ? | "
           "00:02 < --:--   15.0/s |:  x");
  eta(to, 40, &report); /* without counts and percentage there is still something to see */
  SAME(to, "      30                  | --:-- |:  x");
  report = report_of("x", 1, 1000);
  report.elapsed_ns = UINT64_C(7322000000000); /* columns as wide as the widest time */
  eta(to, 60, &report);
  SAME(to, "   0.10%                 | 2:02:02 <  84d15h    0.5/h |:  x");
  report.total = 20;
  eta(to, 60, &report);
  SAME(to, "   5.00%               |  2:02:02 < 38:38:38    0.5/h |:  x");
  report.total = UINT64_C(1000000000000);
  eta(to, 60, &report);
  SAME(to, "   0.00%            | 2:02:02 <   --:--    0.5/h |:  x ");
}

/* The bar of a pool: what becomes of its tasks takes room of its own bar only, then fewer words. */
static void tasks(struct mch_buf *to) {
  struct mch_report report = report_of("tasks", 8, 20);
  struct tm when;
  unsigned columns;
  report.of_tasks = 1;
  report.running = 3;
  report.failed = 1;
  EQUAL(tty(to, 120, &report), 113);
  SAME(to, "  40.00% ::::::::::::::::                         |        8 /       20 |:  "
           "tasks: 3 running, 9 queued, 1 failed ");
  tty(to, 80, &report);
  SAME(to, "  40.00% :::::::::::                  |        8 /       20 |:  tasks: 3r 9q 1f");
  tty(to, 60, &report);
  SAME(to, "  40.00% ::::        |        8 /       20 |:  ta: 3r 9q 1f");
  tty(to, 20, &report);
  SAME(to, "  40.00% |: tasks: ");
  for (columns = 1; columns <= 130; columns++)
    EQUAL(tty(to, columns, &report) < columns || columns == 1, 1);
  memset(&when, 0, sizeof when);
  mch_buf_clear(to);
  report.event = MCH_REPORT_END;
  report.how = MCH_BAR_FINISHED;
  report.running = 0;
  report.done = 20;
  mch_render_text(to, &report, &when);
  SAME(to, "01/00 00:00 :       20 /       20 (100.00%): tasks: 1 failed\n");
  mch_buf_clear(to);
  mch_render_json(to, &report, 0);
  SAME(to, "{\"event\":\"end\",\"time\":0.000,\"id\":1,\"name\":\"tasks\",\"done\":20,\"total\":20,"
           "\"elapsed\":2.000,\"running\":0,\"queued\":0,\"failed\":1,\"cancelled\":0,"
           "\"state\":\"finished\"}\n");
}

/* Counts that do not fit push the name, and the bar makes room for it. */
static void bytes(struct mch_buf *to) {
  struct mch_report report = report_of("copy", 3000000, 1000000000);
  struct tm when;
  report.unit = MCH_UNIT_BYTES;
  tty(to, 100, &report);
  SAME(to, "   0.30%                                          |    3.00M /    1.00G |:  copy ");
  report.unit = MCH_UNIT_BINARY;
  report.done = 1536;
  report.total = 1 << 20;
  tty(to, 100, &report);
  SAME(to, "   0.15%                                          |    1.50k /    1.00M |:  copy ");
  report.unit = MCH_UNIT_BYTES;
  report.done = 999;
  report.total = MCH_BAR_UNKNOWN;
  tty(to, 100, &report);
  SAME(to, "                                                  |      999     500B/s |:  copy ");
  report.done = 24690000;
  eta(to, 100, &report);
  SAME(to, "                                            |    24.7M /        ? | "
           "00:02 < --:-- 12.3MB/s |:  copy");
  memset(&when, 0, sizeof when);
  mch_buf_clear(to);
  report.total = 100000000;
  mch_render_text(to, &report, &when);
  SAME(to, "01/00 00:00 :    24.7M /     100M ( 24.69%): copy\n");
}

/* One width: as narrow as it was, unless the window is wider or nothing stood. */
static void fits(struct mch_buf *to) {
  struct mch_report small = report_of("a", 1, 2),
                    large = report_of("a/long/path/to/some/file.png", 1, 2);
  struct mch_tty_needs needs = {0, 0, 0, 0};
  struct mch_tty_layout layout;
  struct mch_tty_fit fit = {0, 0, 0};
  mch_render_measure(&needs, &large);
  mch_render_layout(&layout, MCH_TTY_PLAIN, 80, &needs);
  mch_render_fit(&layout, &fit, 80);
  EQUAL(layout.bar, 20);
  mch_buf_clear(to);
  EQUAL(mch_render_tty(to, &layout, &large), 79);
  SAME(
      to,
      "  50.00% ::::::::::           |        1 /        2 |:  a/long/path\xE2\x80\xA6me/file.png");
  memset(&needs, 0, sizeof needs);
  mch_render_measure(&needs, &small);
  mch_render_layout(&layout, MCH_TTY_PLAIN, 80, &needs);
  mch_render_fit(&layout, &fit, 80);
  EQUAL(layout.bar, 20);
  mch_render_layout(&layout, MCH_TTY_PLAIN, 81, &needs);
  mch_render_fit(&layout, &fit, 81);
  EQUAL(layout.bar, 40);
  mch_render_layout(&layout, MCH_TTY_PLAIN, 60, &needs);
  mch_render_fit(&layout, &fit, 60);
  EQUAL(layout.bar, 22);
}

static void middles(void) {
  struct mch_buf to = {0};
  mch_render_name(&to, "a/long/path/to/file.png", 23, 19);
  SAME(&to, "a/long/pa\xE2\x80\xA6/file.png");
  mch_buf_clear(&to);
  EQUAL(mch_render_name(&to, "\033[1;31mred\033[m", 13, 3), 3);
  SAME(&to, "red");
  mch_buf_clear(&to);
  EQUAL(mch_render_name(&to,
                        "abcde\xcc\x81"
                        "fghi",
                        11, 5),
        5);
  SAME(&to, "ab\xE2\x80\xA6hi");
  mch_buf_free(&to);
}

static void large_counts(struct mch_buf *to) {
  struct mch_report report = report_of("huge", 120000000000, 123456789012);
  tty(to, 60, &report);
  SAME(to, "  97.20% ::::::::::  | 120000000000 / 123456789012 |:  huge");
  report = report_of("unknown", 123, MCH_BAR_UNKNOWN);
  tty(to, 30, &report);
  SAME(to, "     123            |: unk\xE2\x80\xA6wn");
}

static void wide_names(struct mch_buf *to) {
  struct mch_report report = report_of("日本語のとても長い名前", 5, 10);
  unsigned columns;
  for (columns = 2; columns < 100; columns++) {
    size_t cells = tty(to, columns, &report);
    EQUAL(cells < columns, 1);
    EQUAL(mch_width_cells((const char *)to->data, mch_buf_unread(to)), (long)cells);
  }
  tty(to, 20, &report); /* 7 cells: three wide ones and a space */
  SAME(to, "  50.00% |: 日\xE2\x80\xA6前 ");
}

static size_t harmless(struct mch_buf *to, const char *name, size_t length, size_t room) {
  mch_buf_clear(to);
  return mch_width_put(to, name, length, room);
}

#define HARMLESS(name, room) harmless(&to, name, sizeof(name) - 1, room)

static void names(void) {
  struct mch_buf to = {0};
  EQUAL(HARMLESS("two\nlines\r\tx", 99), 12);
  SAME(&to, "two lines  x");
  EQUAL(HARMLESS("\033[2Jred\033[31m\007\177", 99), 9);
  SAME(&to, "?[2Jred??");
  EQUAL(HARMLESS("\xff\xc3y\xe2\x82\xed\xa0\x80\xc0\x80\xf5z", 99), 12);
  SAME(&to, "??y????????z");
  EQUAL(HARMLESS("\xc2\x9b"
                 "5A c1",
                 99),
        6); /* CSI of eight bits */
  SAME(&to, "?5A c1");
  EQUAL(HARMLESS("a\xe2\x80\xae"
                 "b\xe2\x80\xa8"
                 "c",
                 99),
        4); /* turned around; line separator */
  SAME(&to, "ab c");
  EQUAL(HARMLESS("e\xcc\x81te\xcc\x81", 3), 3); /* combining marks belong to the letter before */
  SAME(&to, "e\xcc\x81te\xcc\x81");
  EQUAL(HARMLESS("日本", 3), 2);
  SAME(&to, "日");
  EQUAL(HARMLESS("👍🏽x", 99), 5);
  EQUAL(HARMLESS("❤️", 99), 2);
  EQUAL(HARMLESS("", 0), 0);
  mch_buf_free(&to);
}

static void travels(void) {
  unsigned column;
#define TRAVEL(text) mch_width_travel(text, sizeof(text) - 1, 10, &column)
  EQUAL(TRAVEL("abc"), 0);
  EQUAL(column, 3);
  EQUAL(TRAVEL("abc\nde"), 1);
  EQUAL(column, 2);
  EQUAL(TRAVEL("0123456789"), 0); /* waits in the last column */
  EQUAL(column, 10);
  EQUAL(TRAVEL("01234567890"), 1);
  EQUAL(column, 1);
  EQUAL(TRAVEL("012345678日"), 1);
  EQUAL(column, 2);
  EQUAL(TRAVEL("a\tb"), 0);
  EQUAL(column, 9);
  EQUAL(TRAVEL("\033[1;31mred\033[m"), 0);
  EQUAL(column, 3);
  EQUAL(TRAVEL("\033[2A"), -1);
  EQUAL(TRAVEL("\r"), -1);
#undef TRAVEL
}

static void plain_lines(struct mch_buf *to) {
  struct mch_report report = report_of("na\nme", 1173, 7685);
  struct tm when;
  memset(&when, 0, sizeof when);
  when.tm_mon = 2;
  when.tm_mday = 4;
  when.tm_hour = 9;
  when.tm_min = 17;
  mch_buf_clear(to);
  mch_render_text(to, &report, &when);
  SAME(to, "03/04 09:17 :     1173 /     7685 ( 15.26%): na me\n");
  report.total = MCH_BAR_UNKNOWN;
  report.how = MCH_BAR_TIMEOUT;
  report.elapsed_ns = 500000000;
  mch_buf_clear(to);
  mch_render_text(to, &report, &when);
  SAME(to, "03/04 09:17 :     1173 (2346.0/s): na me (timeout)\n");
}

static void json(struct mch_buf *to) {
  struct mch_report report = report_of("a \"b\"\\\n\x01\xff日", 5, 10);
  mch_buf_clear(to);
  mch_render_json(to, &report, 1700000000.5);
  SAME(to, "{\"event\":\"update\",\"time\":1700000000.500,\"id\":1,\"name\":\"a "
           "\\\"b\\\"\\\\\\u000a\\u0001"
           "\\ufffd日\",\"done\":5,\"total\":10,\"elapsed\":2.000}\n");
  report = report_of("x", 5, MCH_BAR_UNKNOWN);
  report.event = MCH_REPORT_END;
  report.how = MCH_BAR_CANCELLED;
  report.runid = 7;
  report.task = "t";
  report.task_length = 1;
  mch_buf_clear(to);
  mch_render_json(to, &report, 0);
  SAME(to, "{\"event\":\"end\",\"time\":0.000,\"id\":1,\"name\":\"x\",\"done\":5,\"total\":null,"
           "\"elapsed\":2.000,\"runid\":7,\"task\":\"t\",\"state\":\"cancelled\"}\n");
}

/* --- frames --- */

static void frame(struct mch_screen *screen, struct mch_buf *to, unsigned columns,
                  const char *above, const char *first, const char *second) {
  mch_screen_begin(screen, columns, 24);
  mch_screen_above(screen, above, strlen(above), 0);
  if (first != NULL)
    mch_screen_line(screen, first, strlen(first), strlen(first));
  if (second != NULL)
    mch_screen_line(screen, second, strlen(second), strlen(second));
  EQUAL(mch_screen_compose(screen, to), 0);
}

#define BEGIN "\033[?2026h"
#define END "\033[?2026l"
#define ERASE "\033[K\n\033[J\033[A" /* from here on, in any row but the last */

static void frames(struct mch_buf *to) {
  struct mch_screen screen;
  memset(&screen, 0, sizeof screen);
  frame(&screen, to, 10, "a line\n", NULL, NULL); /* without bars: as any program prints */
  SAME(to, "a line\n");
  mch_screen_commit(&screen);
  frame(&screen, to, 10, "", "one", NULL); /* the first: from column 0, wherever the cursor is */
  SAME(to, BEGIN "          \r" ERASE "one\n" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 10, "", "one", NULL); /* nothing new */
  SAME(to, "");
  frame(&screen, to, 10, "", "oné", "two"); /* in place; dropped, so it counts for nothing */
  SAME(to, BEGIN "\r\033[1Aoné\033[K\ntwo\033[K\n" END);
  frame(&screen, to, 10, "", "one", "two");
  SAME(to, BEGIN "\r\033[1Aone\033[K\ntwo\033[K\n" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 10, "line\n", "one", "two");
  SAME(to, BEGIN "\r\033[2A" ERASE "line\none\ntwo\n" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 10, "\033[31mred\n", "two", NULL); /* a colour left on ends */
  SAME(to, BEGIN "\r\033[2A" ERASE "\033[31mred\n\033[mtwo\n" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 2, "", "o", "p"); /* narrower: "two" is folded into two rows */
  SAME(to, BEGIN "\r\033[2A" ERASE "o\np\n" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 2, "", "o", NULL); /* one line less */
  SAME(to, BEGIN "\r\033[2Ao\033[K\n\033[J" END);
  mch_screen_commit(&screen);
  frame(&screen, to, 2, "", NULL, NULL);
  SAME(to, BEGIN "\r\033[1A" ERASE END);
  mch_screen_commit(&screen);
  EQUAL(mch_screen_live(&screen), 0);
  frame(&screen, to, 10, "", "again", NULL);
  mch_screen_commit(&screen);
  mch_screen_detach(&screen); /* left where it is */
  frame(&screen, to, 10, "", "again", NULL);
  SAME(to, BEGIN "          \r" ERASE "again\n" END);
  mch_screen_free(&screen);
}

int main(void) {
  struct mch_buf to = {0};
  the_original_line(&to);
  no_total(&to);
  marks(&to);
  narrow(&to);
  times(&to);
  odd_times(&to);
  tasks(&to);
  large_counts(&to);
  bytes(&to);
  fits(&to);
  middles();
  wide_names(&to);
  names();
  travels();
  plain_lines(&to);
  json(&to);
  frames(&to);
  mch_buf_free(&to);
  if (failures > 0)
    fprintf(stderr, "%d failed\n", failures);
  return failures > 0;
}
