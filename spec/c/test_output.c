/* The output facade with a clock, a terminal and descriptors of our own: what is written when. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/show/output.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/show/output_state.h"

static int failures;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                      \
    }                                                                                              \
  } while (0)

#define MS UINT64_C(1000000)
#define BEGIN "\033[?2026h"
#define END "\033[?2026l"
#define ERASE "\033[K\n\033[J\033[A" /* from here on, in any row but the last */
#define ERASE_ROW "\033[J"           /* where nothing but what is edited is there, if anything */
#define SPACES "                                                            " /* 60 columns */

struct rig {
  struct mch_output *out;
  struct mch_buf written[2];
  uint64_t now;
  unsigned columns, rows;
  size_t room; /* bytes that a write takes; 0: EAGAIN */
  int error;   /* that a write fails with */
  int writes;
};

static uint64_t now(void *ud) {
  return ((struct rig *)ud)->now;
}

static double wall(void *ud) {
  return 1700000000 + (double)((struct rig *)ud)->now / 1e9;
}

static void size(void *ud, unsigned *columns, unsigned *rows) {
  *columns = ((struct rig *)ud)->columns;
  *rows = ((struct rig *)ud)->rows;
}

static ssize_t take(void *ud, int fd, const void *bytes, size_t count) {
  struct rig *rig = ud;
  size_t taken = count < rig->room ? count : rig->room;
  rig->writes++;
  if (rig->error != 0 || rig->room == 0) {
    errno = rig->error != 0 ? rig->error : EAGAIN;
    return -1;
  }
  mch_buf_append(&rig->written[fd - 1], bytes, taken);
  if (rig->room != SIZE_MAX)
    rig->room -= taken;
  return (ssize_t)taken;
}

static void set_up(struct rig *rig, int files, enum mch_progress_mode mode) {
  struct mch_output_config config = {rig, now, wall, size, take, files};
  memset(rig, 0, sizeof *rig);
  rig->now = 1000000 * MS;
  rig->columns = 60;
  rig->rows = 10;
  rig->room = SIZE_MAX;
  rig->out = mch_output_new(&config, NULL);
  mch_output_set_mode(rig->out, mode);
}

static void tear_down(struct rig *rig) {
  mch_output_unref(rig->out);
  mch_buf_free(&rig->written[0]);
  mch_buf_free(&rig->written[1]);
}

static void pump(struct rig *rig) {
  mch_output_pump(rig->out, rig->now, 0);
}

static struct mch_bar *start(struct rig *rig, const char *name, uint64_t total) {
  struct mch_bar_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.name = name;
  spec.name_length = strlen(name);
  spec.total = total;
  spec.runid = -1;
  return mch_output_bar_start(rig->out, &spec);
}

static void end(struct rig *rig, struct mch_bar *bar, uint64_t done, uint64_t total) {
  mch_output_bar_end(rig->out, bar, done, total, MCH_BAR_FINISHED);
}

/* What has been written since the last look. */
static void expect(int line, struct rig *rig, int stream, const char *wanted) {
  struct mch_buf *got = &rig->written[stream - 1];
  size_t length = strlen(wanted), i;
  if (mch_buf_unread(got) != length || (length > 0 && memcmp(got->data, wanted, length) != 0)) {
    failures++;
    fprintf(stderr, "%s:%d: stream %d\n  wanted \"%s\"\n  got    \"", __FILE__, line, stream,
            wanted);
    for (i = 0; i < mch_buf_unread(got); i++)
      fprintf(stderr, got->data[i] == '\033' ? "\\e" : "%c", got->data[i]);
    fprintf(stderr, "\"\n");
  }
  mch_buf_clear(got);
}

#define EXPECT(stream, wanted) expect(__LINE__, &rig, stream, wanted)

#define BAR0 "   0.00%                      |        0 /       10 |:  one"
#define BAR5 "  50.00% ::::::::::           |        5 /       10 |:  one"
#define BAR10 " 100.00% :::::::::::::::::::: |       10 /       10 |:  one"

static void a_bar_on_a_terminal(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  CHECK(mch_output_next(rig.out) == UINT64_MAX);
  bar = start(&rig, "one", 10);
  CHECK(mch_output_next(rig.out) <= rig.now);
  pump(&rig);
  EXPECT(2, BEGIN SPACES "\r" ERASE BAR0 "\n" END);
  CHECK(mch_output_next(rig.out) == rig.now + 100 * MS);
  mch_bar_set(bar, 5);
  rig.now += 99 * MS;
  pump(&rig);
  EXPECT(2, "");
  rig.now += MS;
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" BAR5 "\033[K\n" END);
  rig.now += 100 * MS;
  pump(&rig); /* nothing has changed */
  EXPECT(2, "");
  mch_output_lines(rig.out, 1, "task\n", 5);
  mch_output_lines(rig.out, 2, "log\n", 4);
  CHECK(mch_output_next(rig.out) == rig.now + 100 * MS);
  rig.now += 100 * MS;
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" ERASE "task\nlog\n" BAR5 "\n" END);
  end(&rig, bar, 10, 10);
  CHECK(mch_output_next(rig.out) <= rig.now);
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" ERASE BAR10 "\n" END);
  EXPECT(1, "");
  CHECK(mch_output_next(rig.out) == UINT64_MAX);
  CHECK(rig.writes == 4); /* one a frame */
  tear_down(&rig);
}

static void order_of_bars(void) {
  struct rig rig;
  struct mch_bar *a, *b, *c;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  rig.columns = 20;
  a = start(&rig, "a", 2);
  b = start(&rig, "b", 2);
  c = start(&rig, "c", 2);
  end(&rig, b, 2, 2);
  pump(&rig);
  EXPECT(2,
         BEGIN "                    \r" ERASE " 100.00% ::::: |: b\n   0.00%       |: a\n   0.00%  "
               "     |: c\n" END);
  rig.now += 100 * MS;
  end(&rig, c, 2, 2);
  mch_output_bar_end(rig.out, a, 1, 2, MCH_BAR_KILLED);
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[2A" ERASE " 100.00% ::::: |: c\n  50.00% ::    |: a\n" END);
  tear_down(&rig);
}

static void more_than_the_screen_has(void) {
  struct rig rig;
  struct mch_bar *bars[300];
  int i;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  rig.columns = 20;
  rig.rows = 5;
  for (i = 0; i < 300; i++)
    bars[i] = start(&rig, "x", 2);
  pump(&rig);
  EXPECT(2, BEGIN "                    \r" ERASE "   0.00%       |: x\n   0.00%       |: x\n"
                  "   0.00%       |: x\n... and 297 more\n" END);
  rig.rows = 1; /* no room for any */
  rig.now += 100 * MS;
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[4A" ERASE END);
  rig.rows = 2;
  rig.now += 100 * MS;
  pump(&rig);
  EXPECT(2, BEGIN "                    \r" ERASE "... and 300 more\n" END);
  for (i = 0; i < 300; i++)
    end(&rig, bars[i], 2, 2);
  tear_down(&rig);
}

static void a_full_terminal(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  pump(&rig);
  mch_buf_clear(&rig.written[1]);
  rig.room = 0;
  mch_bar_set(bar, 5);
  rig.now += 100 * MS;
  mch_output_lines(rig.out, 1, "line\n", 5);
  pump(&rig); /* dropped, but for the line */
  EXPECT(2, "");
  CHECK(mch_output_backlog(rig.out) == 5);
  CHECK(mch_output_next(rig.out) == rig.now + 100 * MS);
  rig.room = 12; /* half a frame goes out: the rest must follow it */
  rig.now += 100 * MS;
  pump(&rig);
  rig.now += 100 * MS;
  mch_bar_set(bar, 7);
  pump(&rig);
  rig.room = SIZE_MAX;
  rig.now += 100 * MS;
  mch_bar_set(bar, 5);
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" ERASE "line\n" BAR5 "\n" END);
  CHECK(mch_output_backlog(rig.out) == 0);
  end(&rig, bar, 10, 10);
  tear_down(&rig);
}

/* What waits is not put into frames again and again while the terminal has yet to take one. */
static void a_slow_terminal(void) {
  static char line[100000];
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  rig.room = 12;
  rig.now += 100 * MS;
  pump(&rig);
  rig.room = 0;
  memset(line, 'x', sizeof line);
  line[sizeof line - 1] = '\n';
  mch_output_lines(rig.out, 1, line, sizeof line);
  mch_buf_clear(&rig.out->frame);
  rig.now += 100 * MS;
  pump(&rig);
  CHECK(mch_buf_unread(&rig.out->frame) == 0 && rig.out->frame.capacity < sizeof line);
  CHECK(mch_output_backlog(rig.out) > sizeof line);
  rig.room = SIZE_MAX;
  rig.now += 100 * MS;
  pump(&rig);
  CHECK(mch_buf_unread(&rig.out->frame) > sizeof line && mch_output_backlog(rig.out) == 0);
  end(&rig, bar, 10, 10);
  tear_down(&rig);
}

static void a_closed_terminal(void) {
  static const int errors[] = {EBADF, EPIPE, EIO, ENOSPC};
  size_t i;
  for (i = 0; i < sizeof errors / sizeof *errors; i++) {
    struct rig rig;
    struct mch_bar *bar;
    set_up(&rig, MCH_FILES_TERMINAL, MCH_PROGRESS_BAR);
    bar = start(&rig, "one", 10);
    rig.error = errors[i];
    pump(&rig);
    mch_output_lines(rig.out, 1, "line\n", 5);
    mch_output_flush(rig.out);
    CHECK(mch_output_backlog(rig.out) == 0);
    CHECK(rig.writes < 5);
    end(&rig, bar, 10, 10);
    tear_down(&rig);
  }
}

static void output_elsewhere(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  pump(&rig);
  EXPECT(2, BEGIN SPACES "\r" ERASE BAR0 "\n" END);
  mch_output_lines(rig.out, 1, "data\n", 5);
  pump(&rig); /* at once, and the bars are left alone */
  EXPECT(1, "data\n");
  EXPECT(2, "");
  end(&rig, bar, 10, 10);
  tear_down(&rig);
}

static void leaving_the_screen(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  pump(&rig);
  mch_bar_set(bar, 5);
  mch_buf_clear(&rig.written[1]);
  mch_output_detach(rig.out); /* shows the latest */
  EXPECT(2, BEGIN "\r\033[1A" BAR5 "\033[K\n" END);
  pump(&rig);
  EXPECT(2, "");
  rig.now += 100 * MS;
  pump(&rig); /* anew, under what somebody else has written */
  EXPECT(2, BEGIN SPACES "\r" ERASE BAR5 "\n" END);
  mch_output_set_mode(rig.out, MCH_PROGRESS_OFF);
  CHECK(start(&rig, "two", 1) == NULL);
  end(&rig, NULL, 0, 0);
  end(&rig, bar, 10, 10);
  rig.now += 1000 * MS;
  pump(&rig);
  EXPECT(2, "");
  tear_down(&rig);
}

static void a_prompt(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  pump(&rig);
  EXPECT(2, BEGIN SPACES "\r" ERASE BAR0 "\n" END);
  mch_output_pause(rig.out);
  mch_bar_set(bar, 5);
  mch_output_lines(rig.out, 1, "line\n", 5);
  rig.now += 1000 * MS;
  pump(&rig);
  mch_output_flush(rig.out);
  EXPECT(2, "");
  CHECK(mch_output_next(rig.out) == UINT64_MAX);
  mch_output_resume(rig.out);
  CHECK(mch_output_next(rig.out) <= rig.now);
  pump(&rig);
  EXPECT(2, BEGIN SPACES "\r" ERASE "line\n" BAR5 "\n" END);
  end(&rig, bar, 10, 10);
  tear_down(&rig);
}

#define PROMPT_1 "> print(1)"
#define KEYS(text, cursor) mch_output_edit(rig.out, text, strlen(text), cursor)

static void a_line_that_is_edited(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_AUTO);
  CHECK(mch_output_can_edit(rig.out));
  KEYS("> ", 2);
  EXPECT(2, BEGIN SPACES "\r" ERASE_ROW "> \r\033[2C" END);
  CHECK(mch_output_next(rig.out) == UINT64_MAX);
  KEYS("> x", 2);
  EXPECT(2, BEGIN "\r> x\033[K\r\033[2C" END);
  KEYS("> x", 2);
  EXPECT(2, "");
  mch_output_lines(rig.out, 1, "line\n", 5);
  CHECK(mch_output_next(rig.out) <= rig.now);
  pump(&rig);
  EXPECT(2, BEGIN "\r" ERASE_ROW "line\n> x\r\033[2C" END);
  mch_output_set_mode(rig.out, MCH_PROGRESS_BAR);
  bar = start(&rig, "one", 10);
  rig.now += 100 * MS;
  pump(&rig);
  EXPECT(2, BEGIN "\r" BAR0 "\033[K\n> x\033[K\r\033[2C" END);
  KEYS("> xy", 4);
  EXPECT(2, BEGIN "\r\033[1A" BAR0 "\033[K\n> xy\033[K\r\033[4C" END);
  end(&rig, bar, 10, 10);
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" ERASE BAR10 "\n> xy\r\033[4C" END);
  mch_output_edit_end(rig.out, PROMPT_1, strlen(PROMPT_1));
  EXPECT(2, BEGIN "\r" ERASE PROMPT_1 "\n" END);
  pump(&rig);
  EXPECT(2, "");
  tear_down(&rig);
}

/* What is too wide is wrapped, before a character that does not fit and with the cursor behind it
 * in the next row; what is too high shows the cursor's rows. */
static void a_long_line_that_is_edited(void) {
  struct rig rig;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_OFF);
  rig.columns = 6;
  rig.rows = 3;
  KEYS("> abcd", 5);
  EXPECT(2, BEGIN "      \r" ERASE_ROW "> abc\nd\r" END);
  KEYS("> ab\xe6\x97\xa5", 7);
  EXPECT(2, BEGIN "\r\033[1A> ab\033[K\n\xe6\x97\xa5\033[K\r\033[2C" END);
  KEYS("> \033[1mab\033[mc\n\x01\xff", 11);
  EXPECT(2, BEGIN "\r\033[1A> \033[1mab\033[mc\033[K\n?"
                  "?\033[K\r\033[1A\033[4C" END);
  KEYS("1\n2\n3\n4\n5", 9);
  EXPECT(2, BEGIN "\r3\033[K\n4\033[K\n5\033[K\r\033[1C" END);
  KEYS("1\n2\n3\n4\n5", 0);
  EXPECT(2, BEGIN "\r\033[2A1\033[K\n2\033[K\n3\033[K\r\033[2A" END);
  rig.columns = 4; /* the terminal has folded what was wider */
  KEYS("> abcd", 6);
  EXPECT(2, BEGIN "\r" ERASE "> a\nbcd\r\033[3C" END);
  mch_output_release(rig.out);
  EXPECT(2, BEGIN "\r\033[1A" ERASE "> abcd\n" END);
  tear_down(&rig);
}

static void plain_lines(void) {
  struct rig rig;
  struct mch_bar *bar;
  setenv("TZ", "UTC", 1);
  set_up(&rig, 0, MCH_PROGRESS_AUTO);
  bar = start(&rig, "one", 10);
  pump(&rig);
  EXPECT(2, "11/14 22:30 :        0 /       10 (  0.00%): one\n");
  CHECK(mch_output_next(rig.out) == rig.now + 60000 * MS);
  mch_bar_set(bar, 5);
  rig.now += 59999 * MS;
  pump(&rig);
  EXPECT(2, "");
  rig.now += MS;
  pump(&rig);
  EXPECT(2, "11/14 22:31 :        5 /       10 ( 50.00%): one\n");
  mch_output_lines(rig.out, 1, "data\n", 5);
  mch_output_lines(rig.out, 2, "log\n", 4);
  end(&rig, bar, 10, 10);
  CHECK(mch_output_next(rig.out) == 0);
  pump(&rig);
  EXPECT(1, "data\n");
  EXPECT(2, "log\n11/14 22:31 :       10 /       10 (100.00%): one\n");
  bar = start(&rig, "short", 1); /* start and end within one pump */
  end(&rig, bar, 1, 1);
  pump(&rig);
  EXPECT(2, "11/14 22:31 :        0 /        1 (  0.00%): short\n"
            "11/14 22:31 :        1 /        1 (100.00%): short\n");
  tear_down(&rig);
}

/* Both streams into one file keep their order. */
static void one_file(void) {
  struct rig rig;
  set_up(&rig, MCH_FILES_SAME, MCH_PROGRESS_AUTO);
  mch_output_lines(rig.out, 2, "a\n", 2);
  mch_output_lines(rig.out, 1, "b\n", 2);
  mch_output_lines(rig.out, 2, "c\n", 2);
  mch_output_flush(rig.out);
  EXPECT(2, "a\nb\nc\n");
  tear_down(&rig);
}

static void json(void) {
  struct rig rig;
  struct mch_bar *bar;
  set_up(&rig, 0, MCH_PROGRESS_JSON);
  bar = start(&rig, "one", 10);
  pump(&rig);
  EXPECT(2, "{\"event\":\"start\",\"time\":1700001000.000,\"id\":1,\"name\":\"one\",\"done\":0,"
            "\"total\":10,\"elapsed\":0.000}\n");
  rig.now += 100 * MS;
  pump(&rig); /* nothing has changed */
  EXPECT(2, "");
  mch_bar_set_total(bar, 20);
  mch_bar_set(bar, 1);
  pump(&rig);
  EXPECT(2, "{\"event\":\"update\",\"time\":1700001000.100,\"id\":1,\"name\":\"one\",\"done\":1,"
            "\"total\":20,\"elapsed\":0.100}\n");
  mch_output_bar_end(rig.out, bar, MCH_BAR_UNKNOWN, 0, MCH_BAR_EXITED);
  pump(&rig);
  EXPECT(2, "{\"event\":\"end\",\"time\":1700001000.100,\"id\":1,\"name\":\"one\",\"done\":1,"
            "\"total\":20,\"elapsed\":0.100,\"state\":\"exited\"}\n");
  tear_down(&rig);
}

static void reports(void) {
  struct rig rig;
  struct mch_report report;
  struct mch_bar *a, *b;
  set_up(&rig, 0, MCH_PROGRESS_REPORTS);
  a = start(&rig, "a", 10);
  b = start(&rig, "b", 10);
  CHECK(mch_output_report(rig.out, rig.now, &report) && report.event == MCH_REPORT_START &&
        report.key == 1);
  CHECK(mch_output_report(rig.out, rig.now, &report) && report.event == MCH_REPORT_START &&
        report.key == 2);
  CHECK(!mch_output_report(rig.out, rig.now, &report));
  mch_bar_set(b, 3);
  CHECK(mch_output_tick(rig.out) == 0);
  CHECK(mch_output_tick(rig.out) == MCH_TICK_SOON);
  rig.now += 100 * MS;
  CHECK(mch_output_tick(rig.out) == MCH_TICK_OWNER);
  CHECK(mch_output_report(rig.out, rig.now, &report) && report.event == MCH_REPORT_UPDATE &&
        report.key == 2 && report.done == 3);
  CHECK(!mch_output_report(rig.out, rig.now, &report));
  end(&rig, a, 10, 10);
  CHECK(mch_output_report(rig.out, rig.now, &report) && report.event == MCH_REPORT_END &&
        report.name[0] == 'a' && report.how == MCH_BAR_FINISHED);
  CHECK(!mch_output_report(rig.out, rig.now, &report));
  end(&rig, b, 10, 10);
  CHECK(mch_output_report(rig.out, rig.now, &report));
  mch_output_set_mode(rig.out, MCH_PROGRESS_TEXT); /* in the middle of it */
  pump(&rig);
  EXPECT(2, "");
  tear_down(&rig);
}

/* A slot that has been given to somebody else does not count for the bar that had it. */
/* Lines that somebody takes instead of having them written. */
static void kept_lines(void) {
  struct rig rig;
  struct mch_buf line = {0};
  set_up(&rig, 0, MCH_PROGRESS_TEXT);
  CHECK(!mch_output_wants_owner(rig.out, rig.now));
  mch_output_keep_lines(rig.out, 1);
  mch_output_lines(rig.out, 1, "one\n\n", 5);
  mch_output_lines(rig.out, 2, "piece", 5); /* of a line that is too long */
  CHECK(mch_output_wants_owner(rig.out, 0));
  CHECK(mch_output_backlog(rig.out) >= 8);
  pump(&rig);
  CHECK(mch_output_wants_owner(rig.out, 0)); /* whatever a helper thread does */
  CHECK(mch_output_tick(rig.out) & MCH_TICK_OWNER);
  CHECK(mch_output_take_line(rig.out, &line) == 1 && strcmp((char *)line.data, "one") == 0);
  CHECK(mch_output_take_line(rig.out, &line) == 1 && line.length == 1 && line.data[0] == 0);
  CHECK(mch_output_take_line(rig.out, &line) == 2 && strcmp((char *)line.data, "piece") == 0);
  CHECK(mch_output_take_line(rig.out, &line) == 0);
  CHECK(!mch_output_wants_owner(rig.out, rig.now));
  EXPECT(1, "");
  mch_output_lines(rig.out, 1, "two\nthree\n", 10);
  mch_output_keep_lines(rig.out, 0);
  CHECK(!mch_output_wants_owner(rig.out, rig.now));
  pump(&rig);
  EXPECT(1, "two\nthree\n");
  mch_buf_free(&line);
  tear_down(&rig);
}

static void shared_slots(void) {
  struct rig rig;
  struct mch_bar_slot slot;
  struct mch_bar_spec spec;
  struct mch_bar *bar;
  memset(&spec, 0, sizeof spec);
  atomic_init(&slot.id, 7);
  atomic_init(&slot.done, 0);
  atomic_init(&slot.total, 10);
  spec.name = "one";
  spec.name_length = 3;
  spec.total = 10;
  spec.slot = &slot;
  spec.slot_id = 7;
  spec.runid = -1;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  bar = mch_output_bar_start(rig.out, &spec);
  atomic_store(&slot.done, 5);
  pump(&rig);
  EXPECT(2, BEGIN SPACES "\r" ERASE BAR5 "\n" END);
  atomic_store(&slot.id, 8);
  atomic_store(&slot.done, 9);
  rig.now += 100 * MS;
  pump(&rig);
  EXPECT(2, "");
  mch_output_bar_end(rig.out, bar, MCH_BAR_UNKNOWN, MCH_BAR_UNKNOWN, MCH_BAR_FINISHED);
  pump(&rig);
  EXPECT(2, BEGIN "\r\033[1A" ERASE BAR5 "\n" END);
  tear_down(&rig);
}

/* --- in a worker --- */

struct upstream {
  int names;
  struct mch_bar_slot slot;
  int give; /* a slot? */
  int starts, updates, ends;
  uint64_t done, total;
};

static struct mch_bar_slot *up_start(void *ud, uint64_t key, const struct mch_bar_spec *spec) {
  struct upstream *up = ud;
  up->starts++;
  atomic_store(&up->slot.done, 0);
  atomic_store(&up->slot.total, spec->total);
  atomic_store(&up->slot.id, key);
  return up->give ? &up->slot : NULL;
}

static void up_update(void *ud, uint64_t key, uint64_t done, uint64_t total) {
  struct upstream *up = ud;
  (void)key;
  up->updates++;
  up->done = done;
  up->total = total;
}

static void up_end(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how) {
  struct upstream *up = ud;
  (void)key;
  (void)how;
  up->ends++;
  up->done = done;
  up->total = total;
}

static void up_name(void *ud, uint64_t key, const char *name, size_t length) {
  struct upstream *up = ud;
  (void)key;
  up->names += length == 5 && memcmp(name, "other", 5) == 0;
}

static void a_worker(int give) {
  struct rig rig;
  struct upstream up;
  struct mch_upstream upstream = {.ud = &up,
                                  .bar_start = up_start,
                                  .bar_update = up_update,
                                  .bar_name = up_name,
                                  .bar_end = up_end};
  struct mch_bar *inherited, *bar;
  memset(&up, 0, sizeof up);
  up.give = give;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  inherited = start(&rig, "parent's", 10);
  mch_output_lines(rig.out, 1, "parent's\n", 9);
  mch_output_become_child(rig.out, &upstream);
  CHECK(mch_output_backlog(rig.out) == 0);
  mch_bar_set(inherited, 3); /* does nothing, to nobody */
  mch_output_bar_name(rig.out, inherited, "other", 5);
  bar = start(&rig, "mine", 10);
  CHECK(up.starts == 1);
  mch_bar_set(bar, 4);
  CHECK(atomic_load(&up.slot.done) == (give ? 4 : 0));
  CHECK(bar->ticking == 0);
  rig.now += 100 * MS;
  CHECK(give ? mch_output_next(rig.out) == UINT64_MAX : mch_output_next(rig.out) <= rig.now);
  pump(&rig);
  CHECK(up.updates == !give && (give || up.done == 4));
  mch_output_bar_end(rig.out, inherited, 10, 10, MCH_BAR_FINISHED);
  CHECK(up.ends == 0);
  mch_output_bar_name(rig.out, bar, "other", 5);
  CHECK(up.names == 1);
  end(&rig, bar, 9, 10);
  CHECK(up.ends == 1 && up.done == 9);
  CHECK(mch_output_next(rig.out) == UINT64_MAX || rig.now <= mch_output_next(rig.out));
  mch_output_lines(rig.out, 1, "grandchild's\n", 13);
  mch_output_flush(rig.out);
  EXPECT(2, "grandchild's\n"); /* one file: through either descriptor */
  tear_down(&rig);
}

/* A bar of a nested pool: its counters are copied up. */
static void a_grandchild(void) {
  struct rig rig;
  struct upstream up;
  struct mch_upstream upstream = {.ud = &up,
                                  .bar_start = up_start,
                                  .bar_update = up_update,
                                  .bar_name = up_name,
                                  .bar_end = up_end};
  struct mch_bar_slot below;
  struct mch_bar_spec spec;
  struct mch_bar *bar;
  memset(&up, 0, sizeof up);
  memset(&spec, 0, sizeof spec);
  atomic_init(&below.id, 3);
  atomic_init(&below.done, 0);
  atomic_init(&below.total, 10);
  up.give = 1;
  set_up(&rig, 0, MCH_PROGRESS_BAR);
  mch_output_become_child(rig.out, &upstream);
  spec.name = "x";
  spec.name_length = 1;
  spec.total = 10;
  spec.slot = &below;
  spec.slot_id = 3;
  bar = mch_output_bar_start(rig.out, &spec);
  atomic_store(&below.done, 6);
  rig.now += 100 * MS;
  pump(&rig);
  CHECK(atomic_load(&up.slot.done) == 6);
  mch_output_bar_end(rig.out, bar, MCH_BAR_UNKNOWN, 0, MCH_BAR_KILLED);
  CHECK(up.done == 6 && up.total == 10);
  tear_down(&rig);
}

/* --- two threads --- */

enum { ROUNDS = 2000 };

static void *start_and_end(void *ud) {
  struct rig *rig = ud;
  int i, j;
  for (i = 0; i < ROUNDS; i++) {
    struct mch_bar *bar = start(rig, "bar", 10);
    for (j = 0; j < 10; j++)
      mch_bar_set(bar, (uint64_t)j);
    mch_output_lines(rig->out, 2, "line\n", 5);
    end(rig, bar, 10, 10);
    if (i % 16 == 0)
      mch_output_flush(rig->out);
  }
  return NULL;
}

static void *keep_pumping(void *ud) {
  struct rig *rig = ud;
  int i;
  for (i = 0; i < ROUNDS; i++) {
    mch_output_pump(rig->out, rig->now + (uint64_t)i * 100 * MS, 0);
    (void)mch_output_next(rig->out);
  }
  return NULL;
}

static size_t count(const struct mch_buf *text, const char *word) {
  size_t i, found = 0, length = strlen(word);
  for (i = 0; i + length <= mch_buf_unread(text); i++)
    found += memcmp(text->data + i, word, length) == 0;
  return found;
}

static void two_threads(void) {
  struct rig rig;
  pthread_t threads[3];
  int i;
  set_up(&rig, MCH_FILES_TERMINAL | MCH_FILES_SAME, MCH_PROGRESS_BAR);
  pthread_create(&threads[0], NULL, start_and_end, &rig);
  pthread_create(&threads[1], NULL, start_and_end, &rig);
  pthread_create(&threads[2], NULL, keep_pumping, &rig);
  for (i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  mch_output_draw(rig.out);
  CHECK(count(&rig.written[1], "line\n") == 2 * ROUNDS);
  CHECK(count(&rig.written[1], " 100.00% ::") == 2 * ROUNDS);
  tear_down(&rig);
}

int main(void) {
  unsetenv("MANTICHORA_PROGRESS");
  setenv("TERM", "xterm", 1); /* builders of packages have a dumb one */
  a_bar_on_a_terminal();
  order_of_bars();
  more_than_the_screen_has();
  a_full_terminal();
  a_slow_terminal();
  a_closed_terminal();
  output_elsewhere();
  leaving_the_screen();
  a_prompt();
  a_line_that_is_edited();
  a_long_line_that_is_edited();
  plain_lines();
  one_file();
  json();
  reports();
  kept_lines();
  shared_slots();
  a_worker(1);
  a_worker(0);
  a_grandchild();
  two_threads();
  if (failures > 0)
    fprintf(stderr, "%d failed\n", failures);
  return failures > 0;
}
