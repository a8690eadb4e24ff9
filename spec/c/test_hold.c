/* The host's own streams while they are held: what the host may do to them meanwhile. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "runtime/show/hold.h"

#if defined(__GLIBC__)

static void take(struct mch_hold *hold, struct mch_buf *text) {
  int locked = mch_hold_lock(MCH_HOLD_STDOUT | MCH_HOLD_STDERR, 1);
  mch_hold_take(hold, text);
  mch_hold_unlock(locked);
}

static int is(const struct mch_buf *text, const char *expected) {
  return mch_buf_unread(text) == strlen(expected) &&
         memcmp(text->data + text->read, expected, strlen(expected)) == 0;
}

/* What a file holds, and then nothing. */
static int has(const char *path, const char *expected) {
  char text[256];
  FILE *file = fopen(path, "r");
  size_t length = file != NULL ? fread(text, 1, sizeof text, file) : 0;
  if (file != NULL)
    fclose(file);
  return length == strlen(expected) && memcmp(text, expected, length) == 0;
}

static void begin(struct mch_hold *hold) {
  int locked = mch_hold_lock(MCH_HOLD_STDOUT | MCH_HOLD_STDERR, 1);
  memset(hold, 0, sizeof *hold);
  mch_hold_begin(hold, locked);
  mch_hold_unlock(locked);
}

static void end(struct mch_hold *hold) {
  int locked = mch_hold_lock(MCH_HOLD_STDOUT | MCH_HOLD_STDERR, 1);
  mch_hold_end(hold);
  mch_hold_unlock(locked);
}

static void test_both(void) {
  struct mch_buf text = {0};
  struct mch_hold hold;
  begin(&hold);
  printf("one\n");
  fprintf(stderr, "two\n");
  printf("three");
  take(&hold, &text);
  CHECK(is(&text, "one\ntwo\nthree"));
  end(&hold);
  CHECK(fileno(stdout) == STDOUT_FILENO && fileno(stderr) == STDERR_FILENO);
  mch_buf_free(&text);
}

/* The host's file is its own: it is neither read nor emptied, and its text goes there. */
static void test_reopened(const char *path) {
  struct mch_buf text = {0};
  struct mch_hold hold;
  begin(&hold);
  printf("before\n");
  CHECK(freopen(path, "a", stdout) == stdout);
  printf("in the file\n");
  fflush(stdout);
  fprintf(stderr, "held\n");
  take(&hold, &text);
  take(&hold, &text);
  CHECK(is(&text, "before\nheld\n"));
  end(&hold);
  CHECK(fileno(stderr) == STDERR_FILENO);
  printf("and after\n");
  fflush(stdout);
  CHECK(has(path, "old\nin the file\nand after\n"));
  mch_buf_free(&text);
}

/* Nor what gets the number of a stream that it has closed. */
static void test_closed(const char *path) {
  struct mch_buf text = {0};
  struct mch_hold hold;
  int fd, number;
  begin(&hold);
  number = fileno(stderr);
  CHECK(number > STDERR_FILENO);
  fclose(stderr);
  fd = open(path, O_RDWR);
  CHECK(dup2(fd, number) == number);
  take(&hold, &text);
  CHECK(mch_buf_unread(&text) == 0);
  end(&hold);
  CHECK(fcntl(number, F_GETFD) >= 0);
  CHECK(has(path, "old\nin the file\nand after\n"));
  mch_buf_free(&text);
}

int main(void) {
  char path[] = "/tmp/mch_hold_XXXXXX";
  int fd = mkstemp(path), report = dup(STDOUT_FILENO);
  CHECK(fd >= 0 && write(fd, "old\n", 4) == 4);
  test_both();
  test_reopened(path);
  test_closed(path);
  close(fd);
  unlink(path);
  stdout = fdopen(report, "w");
  return check_report();
}

#else

int main(void) {
  (void)check_report;
  printf("skipped: streams are held with glibc only\n");
  return 0;
}

#endif
