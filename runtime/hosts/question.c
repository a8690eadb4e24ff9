/* Runs in: child; supervisor. Purpose: question.h. */
#define _POSIX_C_SOURCE 200809L
#include "question.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "wire.h"

int mch_question_sockets(int sockets[2]) {
  int i;
  if (socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) != 0)
    return -1;
  for (i = 0; i < 2; i++) {
    int high = fcntl(sockets[i], F_DUPFD_CLOEXEC, 10);
    close(sockets[i]);
    sockets[i] = high;
  }
  return sockets[0] < 0 || sockets[1] < 0 ? -1 : 0;
}

int mch_question_ask(struct mch_question *question, int socket, const char *name) {
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec piece = {(void *)(uintptr_t)name, strlen(name)};
  struct msghdr message;
  struct cmsghdr *head;
  struct mch_error error;
  int pair[2];
  ssize_t sent;
  if (mch_platform_socketpair(pair, &error) != 0)
    return -1;
  memset(&message, 0, sizeof message);
  memset(&control, 0, sizeof control);
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.room;
  message.msg_controllen = sizeof control.room;
  head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &pair[1], sizeof(int));
  do
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  close(pair[1]);
  question->fd = pair[0];
  return sent < 0 ? -1 : 0;
}

int mch_question_hear(struct mch_question *question) {
  ssize_t got;
  do {
    if (mch_buf_reserve(&question->answer, 64 * 1024) != 0)
      return 1;
    got = read(question->fd, question->answer.data + question->answer.length, 64 * 1024);
    if (got > 0)
      question->answer.length += (size_t)got;
  } while (got > 0);
  return got == 0 || errno != EINTR;
}

enum mch_module_kind mch_question_answer(const struct mch_question *question, const char **chunk,
                                         size_t *chunk_length, const char **source,
                                         size_t *length) {
  struct mch_reader_of reader = {question->answer.data, question->answer.length, 0};
  uint8_t kind = mch_take_u8(&reader);
  *chunk = (const char *)mch_take_text(&reader, UINT16_MAX, chunk_length);
  *source = (const char *)reader.at;
  *length = reader.left;
  return reader.bad || kind > MCH_MODULE_GRAPH ? MCH_MODULE_NONE : (enum mch_module_kind)kind;
}

void mch_question_free(struct mch_question *question) {
  if (question->fd >= 0)
    close(question->fd);
  question->fd = -1;
  mch_buf_free(&question->answer);
}
