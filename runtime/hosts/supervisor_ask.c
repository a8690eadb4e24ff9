/* Runs in: a supervisor.
 *
 * Modules for workers. A worker asks by a datagram with the module's name, which brings a socket to
 * answer by; what is not known here the pool is asked for. What it has is asked for once; what it
 * lacks it may have the next time. An answer is u8 kind, u32 length, the chunk's name, and the
 * source up to its end. */
#define _POSIX_C_SOURCE 200809L
#include "supervisor_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "hosts.h"

enum { LONGEST_NAME = 1024 };

static struct asked *find(struct supervisor *self, const char *name, size_t length) {
  struct asked *asked = self->asked;
  while (asked != NULL && (asked->length != length || memcmp(asked->name, name, length) != 0))
    asked = asked->next;
  return asked;
}

/* A worker that was forked meanwhile may have a copy of the descriptor: closing is not enough. */
static void hang_up(int fd) {
  shutdown(fd, SHUT_RDWR);
  close(fd);
}

/* Write what the socket takes; 1: that was all of it, or nobody reads it. */
static int push(struct reply *reply) {
  const struct mch_buf *answer = &reply->asked->answer;
  while (reply->sent < answer->length) {
    ssize_t count =
        mch_platform_send(reply->fd, answer->data + reply->sent, answer->length - reply->sent, 0);
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0)
      return errno != EAGAIN && errno != EWOULDBLOCK;
    reply->sent += (size_t)count;
  }
  return 1;
}

static void push_all(struct supervisor *self) {
  struct reply **at = &self->replies;
  while (*at != NULL) {
    struct reply *reply = *at;
    if (!push(reply)) {
      at = &reply->next;
      continue;
    }
    *at = reply->next;
    hang_up(reply->fd);
    free(reply);
  }
}

static void answer(struct supervisor *self, const struct asked *asked, int fd) {
  struct reply *reply = calloc(1, sizeof *reply);
  if (reply == NULL) {
    hang_up(fd);
    return;
  }
  reply->fd = fd;
  reply->asked = asked;
  reply->next = self->replies;
  self->replies = reply;
}

static struct asked *add(struct supervisor *self, const char *name, size_t length) {
  struct asked *asked = calloc(1, sizeof *asked + length);
  if (asked == NULL)
    return NULL;
  asked->length = length;
  memcpy(asked->name, name, length);
  asked->state = NOT_ASKED;
  asked->next = self->asked;
  self->asked = asked;
  return asked;
}

static void ask(struct supervisor *self, struct asked *asked) {
  asked->state = ASKED;
  asked->request = ++self->requests;
  mch_buf_clear(&asked->answer);
  mch_buf_clear(&self->scratch);
  mch_buf_u32(&self->scratch, asked->request);
  mch_buf_append(&self->scratch, asked->name, asked->length);
  mch_supervisor_say(self, MCH_HOSTS_NEED, self->scratch.data, self->scratch.length);
}

static int is_on_its_way(const struct supervisor *self, const struct asked *asked) {
  const struct reply *reply = self->replies;
  while (reply != NULL && reply->asked != asked)
    reply = reply->next;
  return reply != NULL;
}

static void hear(struct supervisor *self, const char *name, size_t length, int fd) {
  struct asked *asked = find(self, name, length);
  int *waiting;
  if (asked == NULL)
    asked = add(self, name, length);
  if (asked != NULL &&
      (asked->state == NOT_ASKED || (asked->state == LACKED && !is_on_its_way(self, asked))))
    ask(self, asked);
  if (asked != NULL && asked->state != ASKED) {
    answer(self, asked, fd);
    return;
  }
  waiting =
      asked != NULL ? realloc(asked->waiting, (asked->count + 1) * sizeof *asked->waiting) : NULL;
  if (waiting == NULL) {
    hang_up(fd);
    return;
  }
  asked->waiting = waiting;
  asked->waiting[asked->count++] = fd;
}

/* The next question; -1: there is none. A task may have sent anything: a name of no bytes too. */
static ssize_t next_question(int socket, char name[LONGEST_NAME], int *fd) {
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec piece = {name, LONGEST_NAME};
  struct msghdr message;
  struct cmsghdr *head;
  ssize_t got;
  memset(&message, 0, sizeof message);
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.room;
  message.msg_controllen = sizeof control.room;
  got = recvmsg(socket, &message, MSG_DONTWAIT);
  *fd = -1;
  if (got < 0)
    return -1;
  head = CMSG_FIRSTHDR(&message); /* there is room for one */
  if (head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len >= CMSG_LEN(sizeof(int)))
    memcpy(fd, CMSG_DATA(head), sizeof *fd);
  return got;
}

void mch_supervisor_hear_asks(struct supervisor *self) {
  char name[LONGEST_NAME];
  ssize_t length;
  int fd;
  push_all(self);
  if (self->config->asks < 0 || self->engine == NULL)
    return;
  while ((length = next_question(self->config->asks, name, &fd)) >= 0)
    if (fd >= 0)
      hear(self, name, (size_t)length, fd);
  push_all(self);
}

int mch_supervisor_module(struct supervisor *self, struct mch_reader_of *reader) {
  uint32_t request = mch_take_u32(reader);
  uint8_t kind = mch_take_u8(reader);
  uint16_t length = mch_take_u16(reader);
  const unsigned char *chunk = mch_take_bytes(reader, length);
  struct asked *asked = self->asked;
  size_t i;
  while (asked != NULL && asked->request != request)
    asked = asked->next;
  if (reader->bad || asked == NULL || asked->state != ASKED)
    return -1;
  asked->state = kind == MCH_MODULE_NONE ? LACKED : HAD;
  mch_buf_u8(&asked->answer, kind);
  mch_buf_u32(&asked->answer, length);
  mch_buf_append(&asked->answer, chunk, length);
  mch_buf_append(&asked->answer, reader->at, reader->left);
  if (asked->answer.failed != 0)
    return -1;
  for (i = 0; i < asked->count; i++)
    answer(self, asked, asked->waiting[i]);
  free(asked->waiting);
  asked->waiting = NULL;
  asked->count = 0;
  push_all(self);
  return 0;
}

void mch_supervisor_free_asks(struct supervisor *self) {
  while (self->replies != NULL) {
    struct reply *reply = self->replies;
    self->replies = reply->next;
    hang_up(reply->fd);
    free(reply);
  }
  while (self->asked != NULL) {
    struct asked *asked = self->asked;
    size_t i;
    self->asked = asked->next;
    for (i = 0; i < asked->count; i++)
      hang_up(asked->waiting[i]);
    free(asked->waiting);
    mch_buf_free(&asked->answer);
    free(asked);
  }
}
