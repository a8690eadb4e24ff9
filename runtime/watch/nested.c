/* Runs in: both. Purpose: nested.h.
 *
 * A record: a mark, the length of what follows, numbers of 8 bytes, each text behind its length,
 * and another mark. Where a writer was killed or the disk was full there is half a record: the next
 * mark is looked for. */
#define _POSIX_C_SOURCE 200809L
#include "nested.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"

static const unsigned char mark[] = {0xff, 'm', 'c', 'h', 0xfe, 't', 's', 'k'};
static const unsigned char end_mark[] = {0xfd, 'e', 'n', 'd'};
static const size_t texts_most[MCH_NESTED_TEXTS] = {200, 512, 8192};

enum {
  NUMBERS = 14,
  HEAD = sizeof mark + 4,
  LEAST = 8 * NUMBERS + 4 * MCH_NESTED_TEXTS + sizeof end_mark,
  MOST = 16 * 1024,
  PIECE = 256 * 1024
};

int mch_nested_open(const char *path) {
  size_t room = strlen(path) + 16;
  char *name = malloc(room);
  int fd;
  if (name == NULL)
    return -1;
  snprintf(name, room, "%s.tasks", path);
  fd = mch_file_open(name, O_RDWR | O_CREAT | O_EXCL | O_APPEND, 0600);
  if (fd >= 0)
    unlink(name);
  free(name);
  return fd;
}

void mch_nested_put(struct mch_buf *to, const struct mch_nested *task) {
  const struct mch_attempt *attempt = &task->attempt;
  const uint64_t numbers[NUMBERS] = {
      (uint64_t)task->worker, task->row,        (uint64_t)task->ended,
      (uint64_t)task->begun,  task->at,         attempt->runid,
      attempt->index,         attempt->started, attempt->elapsed,
      attempt->waited,        attempt->cpu,     attempt->maxrss,
      attempt->kind,          attempt->number};
  size_t lengths[MCH_NESTED_TEXTS], length = LEAST, i;
  for (i = 0; i < MCH_NESTED_TEXTS; i++) {
    lengths[i] = task->texts[i].length < texts_most[i] ? task->texts[i].length : texts_most[i];
    length += lengths[i];
  }
  mch_buf_append(to, mark, sizeof mark);
  mch_buf_u32(to, (uint32_t)length);
  for (i = 0; i < NUMBERS; i++)
    mch_buf_u64(to, numbers[i]);
  for (i = 0; i < MCH_NESTED_TEXTS; i++) {
    mch_buf_u32(to, (uint32_t)lengths[i]);
    mch_buf_append(to, task->texts[i].bytes, lengths[i]);
  }
  mch_buf_append(to, end_mark, sizeof end_mark);
}

void mch_nested_write(int fd, const struct mch_buf *records) {
  if (records->failed == 0 && mch_buf_unread(records) > 0)
    mch_file_write(fd, records->data + records->read, mch_buf_unread(records), MCH_FILE_HERE);
}

int mch_nested_read(int fd, off_t *at, struct mch_buf *heard) {
  ssize_t count;
  if (mch_buf_reserve(heard, PIECE) != 0)
    return 0;
  do
    count = pread(fd, heard->data + heard->length, PIECE, *at);
  while (count < 0 && errno == EINTR);
  if (count <= 0)
    return 0;
  heard->length += (size_t)count;
  *at += (off_t)count;
  return 1;
}

/* Whether these bytes, of a record behind its head, are one. */
static int parse(const unsigned char *bytes, size_t length, struct mch_nested *task) {
  uint64_t numbers[NUMBERS];
  size_t i;
  for (i = 0; i < NUMBERS; i++, bytes += 8)
    numbers[i] = mch_load_u64(bytes);
  length -= 8 * NUMBERS;
  for (i = 0; i < MCH_NESTED_TEXTS; i++) {
    size_t own = length >= 4 ? mch_load_u32(bytes) : SIZE_MAX;
    if (own > texts_most[i] || own > length - 4)
      return 0;
    task->texts[i].bytes = bytes + 4;
    task->texts[i].length = own;
    bytes += 4 + own;
    length -= 4 + own;
  }
  task->worker = (int)numbers[0];
  task->row = (unsigned)numbers[1];
  task->ended = numbers[2] != 0;
  task->begun = numbers[3] != 0;
  task->at = numbers[4];
  task->attempt = (struct mch_attempt){.runid = numbers[5],
                                       .index = numbers[6],
                                       .started = numbers[7],
                                       .elapsed = numbers[8],
                                       .waited = numbers[9],
                                       .cpu = numbers[10],
                                       .maxrss = numbers[11],
                                       .kind = (enum mch_kind)numbers[12],
                                       .number = (unsigned)numbers[13]};
  return length == sizeof end_mark && memcmp(bytes, end_mark, sizeof end_mark) == 0 &&
         numbers[12] < MCH_KIND_COUNT && numbers[1] > 0 && numbers[1] < 1u << 15;
}

int mch_nested_take(struct mch_buf *heard, struct mch_nested *task) {
  while (mch_buf_unread(heard) >= HEAD) {
    const unsigned char *at = heard->data + heard->read;
    size_t length = memcmp(at, mark, sizeof mark) == 0 ? mch_load_u32(at + sizeof mark) : 0;
    if (length < LEAST || length > MOST) {
      heard->read++; /* half a record: to the next mark */
      continue;
    }
    if (mch_buf_unread(heard) < HEAD + length)
      return 0;
    if (!parse(at + HEAD, length, task)) {
      heard->read++;
      continue;
    }
    heard->read += HEAD + length; /* the bytes stay until more is appended */
    return 1;
  }
  return 0;
}
