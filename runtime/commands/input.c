/* Runs in: parent. Purpose: input.h. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/commands/input.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ONE_READ = 128 * 1024 };

int mch_input_open(struct mch_input *input, const char *path, enum mch_input_format format) {
  struct stat about;
  int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  if (fstat(fd, &about) != 0 || S_ISDIR(about.st_mode)) {
    int problem = S_ISDIR(about.st_mode) ? EISDIR : errno;
    if (fd != STDIN_FILENO)
      close(fd);
    return problem;
  }
  input->fd = fd;
  input->format = format;
  input->has_ended = input->quotes = 0;
  input->from = input->to = input->seen = 0;
  return 0;
}

void mch_input_close(struct mch_input *input) {
  if (input->fd > STDIN_FILENO)
    close(input->fd);
  input->fd = -1;
  free(input->bytes);
  input->bytes = NULL;
  input->from = input->to = input->room = input->seen = 0;
}

/* Room for one more read: what was cut off goes first, the memory grows then. */
static int make_room(struct mch_input *input) {
  size_t kept = input->to - input->from;
  size_t room = input->room;
  char *bytes;
  if (input->from > 0 && kept > 0)
    memmove(input->bytes, input->bytes + input->from, kept);
  input->from = 0;
  input->to = kept;
  while (room < kept + ONE_READ)
    room = room == 0 ? 2 * ONE_READ : 2 * room;
  if (room == input->room)
    return 0;
  bytes = realloc(input->bytes, room);
  if (bytes == NULL)
    return -ENOMEM;
  input->bytes = bytes;
  input->room = room;
  return 0;
}

int mch_input_fill(struct mch_input *input) {
  ssize_t count;
  int problem = make_room(input);
  if (problem != 0)
    return problem;
  count = read(input->fd, input->bytes + input->to, input->room - input->to);
  if (count < 0)
    return -errno;
  input->to += (size_t)count;
  if (count == 0)
    input->has_ended = 1;
  return count > 0;
}

int mch_input_is_blank(const char *line, size_t length) {
  size_t at = 0;
  while (at < length && (line[at] == ' ' || line[at] == '\t' || line[at] == '\r'))
    at++;
  return at == length || (line[at] == '\n' && at + 1 == length);
}

/* Where a record of CSV is: quotes mean something at the beginning of a field and in one that began
 * so; a quote behind one that has closed opens again. */
enum { UNQUOTED, QUOTED, CLOSED };

static const char *record_end(const char *begin, const char *at, const char *end, int *state) {
  for (; at < end; at++) {
    if (*at == '"' && *state == UNQUOTED)
      *state = at == begin || at[-1] == ',' ? QUOTED : UNQUOTED;
    else if (*at == '"')
      *state = *state == QUOTED ? CLOSED : QUOTED;
    else if (*at == '\n' && *state != QUOTED) {
      *state = UNQUOTED;
      return at + 1;
    } else if (*state == CLOSED)
      *state = UNQUOTED;
  }
  return NULL;
}

const char *mch_input_item_end(enum mch_input_format format, const char *at, const char *end) {
  const char *stop;
  int state = UNQUOTED;
  if (format == MCH_INPUT_CSV)
    return record_end(at, at, end, &state);
  stop = memchr(at, format == MCH_INPUT_NUL ? '\0' : '\n', (size_t)(end - at));
  return stop != NULL ? stop + 1 : NULL;
}

/* The end of the first item that was not cut off, `begin` being where it begins. */
static const char *next_end(struct mch_input *input, const char *begin, const char *end) {
  const char *stop;
  if (input->format == MCH_INPUT_CSV)
    stop = record_end(begin, begin + input->seen, end, &input->quotes);
  else
    stop = mch_input_item_end(input->format, begin + input->seen, end);
  if (stop != NULL) {
    input->seen = 0;
    return stop;
  }
  if (!input->has_ended) {
    input->seen = (size_t)(end - begin);
    return NULL;
  }
  input->seen = 0; /* the last item has no end of its own, and nothing is behind it */
  return begin < end ? end : NULL;
}

static uint32_t count_lines(const struct mch_input *input, const char *begin, const char *end) {
  uint32_t lines = 1;
  if (input->format != MCH_INPUT_CSV)
    return lines;
  while ((begin = memchr(begin, '\n', (size_t)(end - begin))) != NULL && ++begin < end)
    lines++;
  return lines;
}

int mch_input_cut(struct mch_input *input, uint32_t most, size_t length, struct mch_batch *batch) {
  const char *begin = input->bytes + input->from;
  const char *end = input->bytes + input->to;
  const char *at = begin;
  int passes_over = input->format == MCH_INPUT_JSONL || input->skips_blank;
  memset(batch, 0, sizeof *batch);
  batch->items = begin;
  while (input->bytes != NULL && batch->count < most) {
    const char *stop = next_end(input, at, end);
    if (stop == NULL)
      break;
    if (batch->count > 0 && (size_t)(stop - begin) > length)
      break;
    if (!passes_over || !mch_input_is_blank(at, (size_t)(stop - at)))
      batch->count++;
    batch->lines += count_lines(input, at, stop);
    at = stop;
  }
  batch->length = (size_t)(at - begin);
  input->from += batch->length;
  return batch->length > 0;
}

/* --- waiting and writing -----------------------------------------------------------------------
 */

static void set_of(struct pollfd *set, int fd, short events) {
  set->fd = fd;
  set->events = events;
  set->revents = 0;
}

unsigned mch_await(int input, int pool, int output, double seconds) {
  struct pollfd set[3];
  int count;
  set_of(&set[0], input, POLLIN);
  set_of(&set[1], pool, POLLIN);
  set_of(&set[2], output, 0);
  count = poll(set, 3, seconds <= 0 ? 0 : (int)(seconds * 1000) + 1);
  if (count <= 0)
    return 0;
  return (set[0].revents != 0 ? MCH_AWAIT_INPUT : 0) | (set[1].revents != 0 ? MCH_AWAIT_POOL : 0) |
         ((set[2].revents & (POLLERR | POLLHUP)) != 0 ? MCH_AWAIT_GONE : 0) |
         ((set[2].revents & POLLNVAL) != 0 ? MCH_AWAIT_CLOSED : 0);
}

int mch_write_some(int fd, const char *bytes, size_t length, size_t *written) {
  ssize_t count = write(fd, bytes, length);
  *written = count > 0 ? (size_t)count : 0;
  if (count >= 0)
    return 0;
  if (errno == EAGAIN || errno == EWOULDBLOCK) {
    struct pollfd set;
    set_of(&set, fd, POLLOUT);
    return poll(&set, 1, 250) < 0 ? errno : EAGAIN;
  }
  return errno;
}
