/* Records of tasks of pools inside of tasks: what is put is what is taken, whatever stands between.
 */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/watch/nested.h"

static struct mch_nested make(uint64_t runid, const char *name, size_t report) {
  static unsigned char text[20000];
  struct mch_nested task = {.worker = 4711, .row = 2, .ended = 1, .begun = 1, .at = 99};
  memset(text, 'r', sizeof text);
  task.attempt = (struct mch_attempt){.runid = runid,
                                      .index = 3,
                                      .started = 4,
                                      .elapsed = 5,
                                      .waited = 6,
                                      .cpu = 7,
                                      .maxrss = UINT64_MAX,
                                      .kind = MCH_KIND_TIMEOUT,
                                      .number = 8};
  task.texts[MCH_NESTED_NAME].bytes = (const unsigned char *)name;
  task.texts[MCH_NESTED_NAME].length = strlen(name);
  task.texts[MCH_NESTED_PLACE].bytes = text;
  task.texts[MCH_NESTED_REPORT].bytes = text;
  task.texts[MCH_NESTED_REPORT].length = report;
  return task;
}

static int is_task(struct mch_buf *heard, uint64_t runid, const char *name, size_t report) {
  struct mch_nested task;
  if (!mch_nested_take(heard, &task))
    return 0;
  return task.worker == 4711 && task.row == 2 && task.ended && task.begun && task.at == 99 &&
         task.attempt.runid == runid && task.attempt.index == 3 && task.attempt.started == 4 &&
         task.attempt.elapsed == 5 && task.attempt.waited == 6 && task.attempt.cpu == 7 &&
         task.attempt.maxrss == UINT64_MAX && task.attempt.kind == MCH_KIND_TIMEOUT &&
         task.attempt.number == 8 && task.texts[MCH_NESTED_PLACE].length == 0 &&
         task.texts[MCH_NESTED_NAME].length == strlen(name) &&
         memcmp(task.texts[MCH_NESTED_NAME].bytes, name, strlen(name)) == 0 &&
         task.texts[MCH_NESTED_REPORT].length == report;
}

static void put(int fd, uint64_t runid, const char *name, size_t report, size_t cut) {
  struct mch_nested task = make(runid, name, report);
  struct mch_buf record = {0};
  mch_nested_put(&record, &task);
  record.length -= cut < record.length ? cut : record.length;
  mch_nested_write(fd, &record);
  mch_buf_free(&record);
}

int main(void) {
  const char *folder = getenv("TMPDIR");
  struct mch_buf heard = {0};
  struct mch_nested task;
  off_t at = 0;
  char path[64], left[80];
  int fd, i;
  snprintf(path, sizeof path, "%.40s/nested%ld", folder != NULL ? folder : "/tmp", (long)getpid());
  snprintf(left, sizeof left, "%s.tasks", path);
  fd = mch_nested_open(path);
  CHECK(fd > 2 && access(left, F_OK) != 0);
  CHECK(!mch_nested_read(fd, &at, &heard) && !mch_nested_take(&heard, &task));
  put(fd, 1, "one", 0, 0);
  put(fd, 2, "", 20000, 0);
  CHECK(mch_nested_read(fd, &at, &heard));
  CHECK(is_task(&heard, 1, "one", 0) && is_task(&heard, 2, "", 8192));
  CHECK(!mch_nested_take(&heard, &task));
  for (i = 1; i < 200; i += 7) { /* somebody was killed while writing */
    put(fd, 3, "half of it", 20, (size_t)i);
    put(fd, 4, "whole", 9, 0);
  }
  while (mch_nested_read(fd, &at, &heard)) {
  }
  for (i = 1; i < 200; i += 7)
    CHECK(is_task(&heard, 4, "whole", 9));
  CHECK(!mch_nested_take(&heard, &task));
  mch_buf_free(&heard);
  for (i = 0; i < 5; i++) /* nothing that could be one */
    mch_buf_append(&heard, "\xffmch\xfetsk\x80\0\0\0\xff\xff\xff\xff", 16);
  CHECK(!mch_nested_take(&heard, &task));
  mch_buf_free(&heard);
  close(fd);
  return check_report();
}
