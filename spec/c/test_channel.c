/* runtime/channel: whole messages, whatever the stream does to them; and what breaks its rules. */
#define _GNU_SOURCE
#include "channel.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "platform.h"
#include "protocol.h"

struct pair {
  struct mch_channel a, b;
};

static void open_pair(struct pair *pair) {
  int fds[2];
  struct mch_error error;
  if (mch_platform_socketpair(fds, &error) != 0) {
    fprintf(stderr, "%s\n", error.text);
    exit(1);
  }
  mch_channel_open(&pair->a, fds[0]);
  mch_channel_open(&pair->b, fds[1]);
}

static void close_pair(struct pair *pair) {
  mch_channel_close(&pair->a);
  mch_channel_close(&pair->b);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* The message number i: its head, length and bytes follow from i and a seed. */
static size_t length_of(uint32_t i, uint32_t seed) {
  uint32_t random = i * 2654435761u + seed;
  switch (next_random(&random) % 8) {
  case 0:
    return 0;
  case 1:
    return MCH_FRAME_MAX - 1 + next_random(&random) % 3;
  case 2:
    return 2 * MCH_FRAME_MAX + next_random(&random) % 100000;
  default:
    return next_random(&random) % 5000;
  }
}

static unsigned char byte_of(uint32_t i, size_t at) {
  return (unsigned char)((i * 31u + (uint32_t)at) * 2654435761u >> 13);
}

static struct mch_message_head head_of(uint32_t i) {
  struct mch_message_head head = {(uint8_t)(i % 10 + 1), (uint16_t)(i * 7), i * 3, i * 5000000007u};
  return head;
}

static void put_numbered(struct mch_channel *channel, uint32_t i, uint32_t seed) {
  size_t length = length_of(i, seed), at, first;
  unsigned char *bytes = malloc(length + 1);
  struct mch_message_head head = head_of(i);
  for (at = 0; at < length; at++)
    bytes[at] = byte_of(i, at);
  first = length / 3;
  CHECK(mch_channel_put2(channel, &head, bytes, first, bytes + first, length - first, NULL) == 0);
  free(bytes);
}

static int is_numbered(const struct mch_message_in *message, uint32_t i, uint32_t seed) {
  struct mch_message_head head = head_of(i);
  size_t at;
  int right = message->length == length_of(i, seed) && message->head.type == head.type &&
              message->head.attempt == head.attempt && message->head.ticket == head.ticket &&
              message->head.runid == head.runid;
  for (at = 0; right && at < message->length; at++)
    right = message->body[at] == byte_of(i, at);
  return right;
}

/* Take all that is whole; `next` counts on. 0 or the negative code. */
static int take_all(struct mch_channel *channel, uint32_t *next, uint32_t seed) {
  struct mch_message_in message;
  int got;
  while ((got = mch_channel_next(channel, &message, NULL)) == 1) {
    CHECK(is_numbered(&message, *next, seed));
    ++*next;
  }
  return got;
}

/* Through a small socket, in turns: EAGAIN on both sides. */
static void test_through_a_small_socket(void) {
  enum { COUNT = 60 };
  struct pair pair;
  uint32_t put = 0, next = 0, seed = 5;
  int size = 4096, rounds = 0;
  open_pair(&pair);
  setsockopt(pair.a.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  while (next < COUNT && rounds++ < 1000000) {
    if (put < COUNT && mch_channel_unsent(&pair.a) < 10000)
      put_numbered(&pair.a, put++, seed);
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
    CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
    CHECK(take_all(&pair.b, &next, seed) == 0);
  }
  CHECK(next == COUNT);
  CHECK(mch_channel_fill(&pair.b, 0, NULL) == 0 && !pair.b.ended); /* nothing now */
  close_pair(&pair);
}

/* The same bytes cut at random: the reader neither needs nor makes assumptions. */
static void test_random_splits(void) {
  uint32_t random = 11, seed;
  for (seed = 0; seed < 40; seed++) {
    struct pair pair;
    uint32_t i, next = 0, count = 6;
    size_t at = 0, total;
    open_pair(&pair);
    for (i = 0; i < count; i++)
      put_numbered(&pair.a, i, seed);
    total = mch_channel_unsent(&pair.a);
    while (at < total) {
      size_t piece = 1 + next_random(&random) % (next_random(&random) % 4 ? 40 : 60000);
      if (piece > total - at)
        piece = total - at;
      CHECK(write(pair.a.fd, pair.a.out.data + pair.a.out.read + at, piece) == (ssize_t)piece);
      at += piece;
      CHECK(mch_channel_fill(&pair.b, 0, NULL) == (ssize_t)piece);
      CHECK(take_all(&pair.b, &next, seed) == 0);
    }
    CHECK(next == count);
    close_pair(&pair);
  }
}

static void *write_all(void *argument) {
  struct mch_channel *channel = argument;
  uint32_t i;
  for (i = 0; i < 50; i++) {
    put_numbered(channel, i, 3);
    if (mch_channel_flush(channel, 1, NULL) != 0)
      return NULL;
  }
  return channel;
}

/* Blocking on both sides, as a worker does. */
static void test_blocking(void) {
  struct pair pair;
  pthread_t thread;
  void *fine;
  uint32_t next = 0;
  open_pair(&pair);
  pthread_create(&thread, NULL, write_all, &pair.a);
  while (next < 50 && mch_channel_fill(&pair.b, 1, NULL) > 0)
    take_all(&pair.b, &next, 3);
  CHECK(next == 50);
  pthread_join(thread, &fine);
  CHECK(fine != NULL);
  close_pair(&pair);
}

static void test_closed(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  struct mch_error error;
  open_pair(&pair);
  mch_channel_put(&pair.a, &head, "last", 4, NULL);
  mch_channel_put(&pair.a, &head, "cut off", 7, NULL);
  pair.a.out.length -= 3;
  CHECK(mch_channel_flush(&pair.a, 1, NULL) == 0);
  mch_channel_close(&pair.a);
  mch_channel_close(&pair.a); /* twice is fine */
  CHECK(mch_channel_fill(&pair.b, 1, NULL) > 0);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 1 && message.length == 4);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 0); /* not whole, and never will be */
  CHECK(mch_channel_fill(&pair.b, 1, NULL) == 0 && pair.b.ended);
  CHECK(mch_channel_fill(&pair.b, 1, NULL) == 0);
  mch_channel_put(&pair.b, &head, "to nobody", 9, NULL);
  CHECK(mch_channel_flush(&pair.b, 0, &error) == MCH_CLOSED);
  CHECK(mch_channel_flush(&pair.b, 1, &error) == MCH_CLOSED);
  mch_channel_close(&pair.b);
  CHECK(mch_channel_fill(&pair.b, 1, NULL) == 0);
}

/* -- what breaks the rules ---------------------------------------------------------------- */

struct frame {
  uint32_t length;
  uint8_t type, flags;
  uint32_t sequence, ticket;
  uint64_t runid;
  const char *body;
};

static void send_frame(int fd, const struct frame *frame) {
  unsigned char bytes[MCH_FRAME_HEADER] = {0};
  mch_store_u32(bytes, frame->length);
  bytes[4] = frame->type;
  bytes[5] = frame->flags;
  mch_store_u32(bytes + 8, frame->sequence);
  mch_store_u32(bytes + 12, frame->ticket);
  mch_store_u64(bytes + 16, frame->runid);
  CHECK(write(fd, bytes, sizeof bytes) == sizeof bytes);
  CHECK(write(fd, frame->body, strlen(frame->body)) == (ssize_t)strlen(frame->body));
}

/* What next() says of these frames: the count of messages, and the code after them. */
static int read_frames(const struct frame *frames, size_t count, int *messages) {
  struct pair pair;
  struct mch_message_in message;
  struct mch_error error;
  int got;
  size_t i;
  open_pair(&pair);
  for (i = 0; i < count; i++)
    send_frame(pair.a.fd, &frames[i]);
  CHECK(mch_channel_fill(&pair.b, 1, NULL) > 0);
  *messages = 0;
  while ((got = mch_channel_next(&pair.b, &message, &error)) == 1)
    ++*messages;
  CHECK(got == 0 || error.text[0] != '\0');
  CHECK(mch_channel_next(&pair.b, &message, &error) == got); /* and says it again */
  close_pair(&pair);
  return got;
}

static void test_broken_frames(void) {
  static const struct frame good = {3, 6, 0, 0, 0, 9, "abc"};
  static const struct frame cases[][3] = {
      {{3, 6, 0, 0, 0, 9, "abc"}, {1, 6, 0, 2, 0, 9, "a"}, {0, 6, 0, 3, 0, 9, ""}}, /* gap */
      {{3, 6, 0, 0, 0, 9, "abc"}, {1, 6, 0, 0, 0, 9, "a"}, {0, 6, 0, 1, 0, 9, ""}}, /* again */
      {{3, 6, 0, 0, 0, 9, "abc"}, {MCH_FRAME_MAX + 1, 6, 0, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},
      {{3, 6, 0, 0, 0, 9, "abc"}, {UINT32_MAX, 6, 0, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},
      {{3, 6, 0, 0, 0, 9, "abc"}, {0, 0, 0, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},
      {{3, 6, 0, 0, 0, 9, "abc"}, {0, 13, 0, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},
      {{3, 6, 0, 0, 0, 9, "abc"}, {0, 255, 0, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},
      {{3, 6, 0, 0, 0, 9, "abc"}, {0, 6, 2, 1, 0, 9, ""}, {0, 6, 0, 2, 0, 9, ""}},  /* flag */
      {{3, 6, 0, 0, 0, 9, "abc"}, {1, 6, 1, 1, 0, 9, "a"}, {0, 6, 0, 2, 0, 8, ""}}, /* other run */
      {{3, 6, 0, 0, 0, 9, "abc"}, {1, 6, 1, 1, 0, 9, "a"}, {0, 5, 0, 2, 0, 9, ""}}, /* other type */
  };
  size_t i;
  int messages;
  CHECK(read_frames(&good, 1, &messages) == 0 && messages == 1);
  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int code = read_frames(cases[i], 3, &messages);
    if (code != MCH_PROTOCOL || messages != 1)
      fprintf(stderr, "case %zu\n", i);
    CHECK(code == MCH_PROTOCOL);
    CHECK(messages == 1);
  }
}

static void test_parts(void) {
  static const struct frame parts[] = {{2, 6, 1, 0, 4, 9, "ab"}, {0, 6, 1, 1, 4, 9, ""},
                                       {1, 6, 0, 2, 4, 9, "c"},  {0, 6, 1, 3, 4, 9, ""},
                                       {0, 6, 0, 4, 4, 9, ""},   {1, 8, 0, 5, 4, 9, "d"}};
  struct pair pair;
  struct mch_message_in message;
  size_t i;
  open_pair(&pair);
  for (i = 0; i < 6; i++)
    send_frame(pair.a.fd, &parts[i]);
  mch_channel_fill(&pair.b, 1, NULL);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 1);
  CHECK(message.length == 3 && memcmp(message.body, "abc", 3) == 0 && message.head.ticket == 4);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 1 && message.length == 0);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 1 && message.length == 1);
  CHECK(message.head.type == 8 && message.body[0] == 'd');
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 0);
  close_pair(&pair);
}

/* A frame counter that wraps is no gap. */
static void test_sequence_wraps(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  int i;
  open_pair(&pair);
  pair.a.sequence_out = pair.b.sequence_in = UINT32_MAX - 1;
  for (i = 0; i < 4; i++)
    mch_channel_put(&pair.a, &head, "x", 1, NULL);
  mch_channel_flush(&pair.a, 1, NULL);
  mch_channel_fill(&pair.b, 1, NULL);
  for (i = 0; i < 4; i++)
    CHECK(mch_channel_next(&pair.b, &message, NULL) == 1);
  close_pair(&pair);
}

/* Memory that a large message took is given back. */
static void test_gives_memory_back(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  size_t size = 20u << 20;
  char *bytes = calloc(1, size);
  int got = 0;
  open_pair(&pair);
  CHECK(mch_channel_put(&pair.a, &head, bytes, size, NULL) == 0);
  free(bytes);
  while (got == 0) {
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
    CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
    got = mch_channel_next(&pair.b, &message, NULL);
  }
  CHECK(got == 1 && message.length == size);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 0);
  CHECK(pair.a.out.capacity <= 1u << 20);
  CHECK(pair.b.parts.capacity <= 1u << 20);
  CHECK(pair.b.in.capacity <= 4u << 20);
  close_pair(&pair);
}

int main(void) {
  test_through_a_small_socket();
  test_random_splits();
  test_blocking();
  test_closed();
  test_broken_frames();
  test_parts();
  test_sequence_wraps();
  test_gives_memory_back();
  return check_report();
}
