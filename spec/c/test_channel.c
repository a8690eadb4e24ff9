/* runtime/channel: whole messages, whatever the stream does to them; and what breaks its rules. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/wire/channel.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif

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
    ssize_t came, got;
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
      for (came = 0; came < (ssize_t)piece; came += got) {
        got = mch_channel_fill(&pair.b, 0, NULL);
        CHECK(take_all(&pair.b, &next, seed) == 0);
        CHECK(got > 0);
        if (got <= 0)
          break;
      }
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

/* -- records ------------------------------------------------------------------------------ */

enum { OPENED = 40 }; /* open messages, and a whole one behind each second one */

/* Of open message `i`: how many records it has, and how long each is. */
static uint32_t records_of(uint32_t i) {
  return 1 + i * 7 % 400;
}
static size_t record_length(uint32_t i, uint32_t number) {
  return 1 + (i * 131 + number * 17) % MCH_RECORD_MAX;
}

static struct mch_message_head items_head(uint32_t i) {
  struct mch_message_head head = {MCH_MESSAGE_ITEMS, (uint16_t)i, i * 3, i * 5000000007u};
  return head;
}

static void put_records(struct mch_channel *channel, uint32_t i) {
  unsigned char bytes[MCH_RECORD_MAX];
  struct mch_message_head head = items_head(i);
  uint32_t number;
  for (number = 0; number < records_of(i); number++) {
    memset(bytes, (int)(i + number) & 255, sizeof bytes);
    CHECK(mch_channel_put_record(channel, &head, bytes, record_length(i, number), NULL) == 0);
  }
  head.type = MCH_MESSAGE_LOG;
  CHECK(mch_channel_put(channel, &head, "between", i % 2 ? 7 : 0, NULL) == 0);
}

/* How far a reader of all these is. */
struct progress {
  uint32_t opened, number;
};

static void check_records(const struct mch_message_in *message, struct progress *progress) {
  const unsigned char *at = message->body;
  struct mch_message_head head = items_head(progress->opened);
  uint32_t i, right = message->records_before == progress->number;
  for (i = 0; i < message->records; i++) {
    size_t length = *at++;
    right &= length == record_length(progress->opened, progress->number) &&
             at[0] == ((progress->opened + progress->number) & 255) && at[length - 1] == at[0];
    at += length;
    progress->number++;
  }
  right &= at == message->body + message->length && message->head.runid == head.runid &&
           message->head.ticket == head.ticket && message->head.attempt == head.attempt;
  CHECK(right && message->records > 0);
}

static void check_between(const struct mch_message_in *message, struct progress *progress) {
  CHECK(progress->number == records_of(progress->opened) && message->records == 0);
  CHECK(message->head.type == MCH_MESSAGE_LOG && message->length == (progress->opened % 2 ? 7 : 0));
  progress->opened++;
  progress->number = 0;
}

/* The same bytes in pieces of any size: each record is handed out once, when it is whole. */
static void test_records(void) {
  uint32_t random = 3, seed, i;
  for (seed = 0; seed < 10; seed++) {
    struct progress progress = {0, 0};
    struct mch_message_in message;
    struct pair pair;
    size_t at, total;
    open_pair(&pair);
    for (i = 0; i < OPENED; i++)
      put_records(&pair.a, i);
    total = mch_channel_unsent(&pair.a);
    for (at = 0; at < total;) {
      size_t piece = 1 + next_random(&random) % (seed % 2 ? 300 : 60000);
      ssize_t sent = send(pair.a.fd, pair.a.out.data + at, piece < total - at ? piece : total - at,
                          MSG_DONTWAIT);
      at += sent > 0 ? (size_t)sent : 0;
      CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
      while (mch_channel_next(&pair.b, &message, NULL) == 1)
        if (message.head.type == MCH_MESSAGE_ITEMS)
          check_records(&message, &progress);
        else
          check_between(&message, &progress);
    }
    CHECK(progress.opened == OPENED && progress.number == 0);
    close_pair(&pair);
  }
}

/* -- what breaks the rules ---------------------------------------------------------------- */

struct frame {
  uint32_t length;
  uint8_t type, flags;
  uint32_t sequence, ticket;
  uint64_t runid;
  const char *body;
  uint64_t size; /* of a LONG message: comes before the body */
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
  mch_store_u64(bytes, frame->size);
  if (frame->flags & MCH_FRAME_LONG)
    CHECK(write(fd, bytes, 8) == 8);
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
  static const struct frame good = {3, 6, 0, 0, 0, 9, "abc", 0};
  enum { MORE = MCH_FRAME_MORE, LONG = MCH_FRAME_LONG | MCH_FRAME_MORE, OPEN = MCH_FRAME_OPEN };
#define GOOD                                                                                       \
  { 3, 6, 0, 0, 0, 9, "abc", 0 }
#define LAST                                                                                       \
  { 0, 6, 0, 2, 0, 9, "", 0 }
  static const struct frame cases[][3] = {
      {GOOD, {1, 6, 0, 2, 0, 9, "a", 0}, {0, 6, 0, 3, 0, 9, "", 0}}, /* gap */
      {GOOD, {1, 6, 0, 0, 0, 9, "a", 0}, {0, 6, 0, 1, 0, 9, "", 0}}, /* again */
      {GOOD, {MCH_FRAME_MAX + 1, 6, 0, 1, 0, 9, "", 0}, LAST},
      {GOOD, {UINT32_MAX, 6, 0, 1, 0, 9, "", 0}, LAST},
      {GOOD, {0, 0, 0, 1, 0, 9, "", 0}, LAST},
      {GOOD, {0, 17, 0, 1, 0, 9, "", 0}, LAST},
      {GOOD, {0, 13, 0, 1, 0, 9, "", 0}, LAST},           /* records that are not open */
      {GOOD, {0, 13, OPEN | MORE, 1, 0, 9, "", 0}, LAST}, /* in more frames */
      {GOOD, {1, 13, OPEN, 1, 0, 9, "", 0}, LAST},        /* of a length */
      {GOOD, {0, 13, OPEN, 1, 0, 9, "\377", 0}, LAST},    /* a record that is too long */
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, {0, 13, OPEN, 2, 0, 9, "", 0}},
      {GOOD, {0, 255, 0, 1, 0, 9, "", 0}, LAST},
      {GOOD, {0, 6, OPEN, 1, 0, 9, "", 0}, LAST},                       /* others are not open */
      {GOOD, {0, 6, 8, 1, 0, 9, "", 0}, LAST},                          /* unknown flag */
      {GOOD, {1, 6, MORE, 1, 0, 9, "a", 0}, LAST},                      /* no length */
      {GOOD, {9, 6, MCH_FRAME_LONG, 1, 0, 9, "a", 1}, LAST},            /* long in one frame */
      {GOOD, {7, 6, LONG, 1, 0, 9, "", 1}, LAST},                       /* no room for its length */
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, {0, 6, 0, 2, 0, 8, "", 0}}, /* other run */
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, {0, 5, 0, 2, 0, 9, "", 0}}, /* other type */
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, {9, 6, LONG, 2, 0, 9, "a", 2}},
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, LAST},                        /* shorter than it said */
      {GOOD, {9, 6, LONG, 1, 0, 9, "a", 2}, {2, 6, 0, 2, 0, 9, "ab", 0}}, /* longer */
      {GOOD, {8, 6, LONG, 1, 0, 9, "", UINT64_MAX}, LAST},
      {GOOD, {8, 6, LONG, 1, 0, 9, "", (uint64_t)1 << 40}, LAST},
      {GOOD, {10, 6, LONG, 1, 0, 9, "aa", 1}, LAST}, /* longer at once */
  };
#undef GOOD
#undef LAST
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
  enum { MORE = MCH_FRAME_MORE, LONG = MCH_FRAME_LONG | MCH_FRAME_MORE };
  static const struct frame parts[] = {
      {10, 6, LONG, 0, 4, 9, "ab", 3}, {0, 6, MORE, 1, 4, 9, "", 0}, {1, 6, 0, 2, 4, 9, "c", 0},
      {8, 6, LONG, 3, 4, 9, "", 0},    {0, 6, 0, 4, 4, 9, "", 0},    {1, 8, 0, 5, 4, 9, "d", 0}};
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

/* -- bodies in pieces --------------------------------------------------------------------- */

/* Cargo of `own` bytes with spans in it: at its front, behind each other, and at its end. */
static struct mch_cargo *make_cargo(size_t own, unsigned char *lent, size_t lent_size,
                                    struct mch_cargos *spent) {
  struct mch_buf bytes, spans;
  struct mch_cargo *cargo;
  struct mch_span span;
  size_t i;
  memset(&bytes, 0, sizeof bytes);
  memset(&spans, 0, sizeof spans);
  for (i = 0; i < own; i++)
    mch_buf_u8(&bytes, (unsigned char)(i * 7));
  for (i = 0; i < lent_size; i++)
    lent[i] = (unsigned char)(i * 13 >> 3);
  for (i = 0; i < 4; i++) {
    span = (struct mch_span){i == 0 ? 0 : i == 3 ? own : own / 2, lent + i, lent_size - 2 * i};
    mch_buf_append(&spans, &span, sizeof span);
  }
  cargo = mch_cargo_new(&bytes, &spans, 5, spent);
  CHECK(cargo != NULL && cargo->size == own + 4 * lent_size - 12);
  mch_buf_free(&bytes);
  mch_buf_free(&spans);
  return cargo;
}

static int is_cargo(const struct mch_message_in *message, const struct mch_cargo *cargo) {
  unsigned char *whole = malloc(cargo->size);
  int same;
  mch_body_copy(&cargo->body, whole);
  same = message->length == 5 + cargo->size && memcmp(message->body, "front", 5) == 0 &&
         memcmp(message->body + 5, whole, cargo->size) == 0;
  free(whole);
  return same;
}

/* The number of cargos that nobody needs; frees them. */
static int count_spent(struct mch_cargos *spent) {
  struct mch_cargo *cargo = mch_cargos_take(spent), *next;
  int count = 0;
  for (; cargo != NULL; cargo = next, count++) {
    next = cargo->next;
    CHECK(cargo->anchor == 5);
    mch_cargo_free(cargo);
  }
  return count;
}

/* Whole, between others, and held until all of it is written. */
static void test_cargo(void) {
  static const struct {
    size_t own, lent;
  } sizes[] = {{10, 100},
               {10, 2 * MCH_FRAME_MAX},
               {MCH_SPAN_MIN + 5, 70000},
               {3 * MCH_FRAME_MAX, MCH_FRAME_MAX - 3},
               {100, MCH_FRAME_MAX / 4}};
  unsigned char *lent = malloc(2 * MCH_FRAME_MAX);
  size_t i;
  for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    struct mch_message_head head = {MCH_MESSAGE_TASK, 1, 2, 3};
    struct mch_cargos spent = {NULL};
    struct mch_cargo *cargo = make_cargo(sizes[i].own, lent, sizes[i].lent, &spent);
    struct mch_message_in message;
    struct pair pair;
    int got = 0, count = 0, rounds = 0;
    open_pair(&pair);
    if (i % 2)
      pair.b.trusted = 1000; /* room is made as bytes come */
    for (count = 0; count < 3; count++)
      CHECK(mch_channel_put_body(&pair.a, &head, "front", 5, &cargo->body, cargo, NULL) == 0 &&
            mch_channel_put(&pair.a, &head, "short", 5, NULL) == 0);
    for (count = 0; count < 6 && rounds++ < 1000000; count += got) {
      CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
      CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
      got = mch_channel_next(&pair.b, &message, NULL);
      CHECK(got == 0 || (got == 1 && count % 2 == 1 && message.length == 5) ||
            (got == 1 && is_cargo(&message, cargo)));
      if (got < 0)
        break;
    }
    CHECK(count == 6 && mch_channel_unsent(&pair.a) == 0);
    CHECK(mch_channel_next(&pair.b, &message, NULL) == 0);
    CHECK(atomic_load(&cargo->holders) == 1 && count_spent(&spent) == 0);
    mch_cargo_drop(cargo);
    CHECK(count_spent(&spent) == 1);
    close_pair(&pair);
  }
  free(lent);
}

/* Its task is over while it is being written: the channel holds it until that is done, or until the
 * channel closes. */
static void test_cargo_outlives_its_task(void) {
  struct mch_message_head head = {MCH_MESSAGE_TASK, 1, 2, 3};
  unsigned char *lent = malloc(MCH_FRAME_MAX);
  struct mch_message_in message;
  int closes, got;
  for (closes = 0; closes < 2; closes++) {
    struct mch_cargos spent = {NULL};
    struct mch_cargo *cargo = make_cargo(9, lent, MCH_FRAME_MAX, &spent);
    struct pair pair;
    open_pair(&pair);
    CHECK(mch_channel_put_body(&pair.a, &head, "front", 5, &cargo->body, cargo, NULL) == 0);
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0 && mch_channel_unsent(&pair.a) > 0);
    mch_cargo_drop(cargo);
    CHECK(count_spent(&spent) == 0);
    if (closes)
      mch_channel_close(&pair.a);
    for (got = 0; !closes && got == 0;) {
      CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
      CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
      got = mch_channel_next(&pair.b, &message, NULL);
    }
    CHECK(count_spent(&spent) == 1);
    close_pair(&pair);
  }
  free(lent);
}

/* Torn anywhere, the first bytes are those of the whole. */
static void test_tear(void) {
  struct mch_message_head head = {MCH_MESSAGE_TASK, 1, 2, 3};
  unsigned char *lent = malloc(70000), *whole = malloc(1 << 20), *part = malloc(1 << 20);
  size_t total = 0, at, length;
  for (at = SIZE_MAX; at != 0; at = at == SIZE_MAX ? total : at - at / 7 - 1) {
    struct mch_cargos spent = {NULL};
    struct mch_cargo *cargo = make_cargo(9, lent, 30000, &spent);
    struct pair pair;
    ssize_t got;
    int size = 1 << 20;
    open_pair(&pair);
    setsockopt(pair.a.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    CHECK(mch_channel_put_body(&pair.a, &head, "front", 5, &cargo->body, cargo, NULL) == 0);
    mch_cargo_drop(cargo);
    mch_channel_tear(&pair.a, at);
    length = mch_channel_unsent(&pair.a);
    CHECK(at == SIZE_MAX || length == at);
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0 && mch_channel_unsent(&pair.a) == 0);
    mch_channel_close(&pair.a);
    for (length = 0; (got = read(pair.b.fd, part + length, 1 << 20)) > 0; length += (size_t)got)
      ;
    if (at == SIZE_MAX) {
      total = length;
      memcpy(whole, part, total);
    }
    CHECK((at == SIZE_MAX || length == at) && memcmp(whole, part, length) == 0);
    CHECK(count_spent(&spent) == 1);
    close_pair(&pair);
  }
  free(lent);
  free(whole);
  free(part);
}

#ifndef SANITIZED
/* qemu's emulation of programs of other processors leaves such limits out. */
static int is_limited(size_t size) {
  void *much = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (much == MAP_FAILED)
    return 1;
  munmap(much, size);
  return 0;
}
#endif

/* The message that there is no memory for is passed over; its beginning and the others are there.
 */
static void test_lost(void) {
#ifdef SANITIZED
  fprintf(stderr, "test_lost: skipped, sanitizers want all memory there is\n");
#else
  enum { SPANS = 300 };
  struct mch_message_head head = {MCH_MESSAGE_TASK, 1, 2, 3};
  unsigned char *lent = calloc(1, MCH_FRAME_MAX);
  struct mch_span spans[SPANS];
  struct mch_body body = {NULL, 0, spans, SPANS};
  struct mch_message_in message;
  struct rlimit old, tight;
  struct pair pair;
  int i, got, limited, count = 0;
  for (i = 0; i < SPANS; i++)
    spans[i] = (struct mch_span){0, lent, MCH_FRAME_MAX};
  open_pair(&pair);
  CHECK(mch_channel_put_body(&pair.a, &head, "front", 5, &body, NULL, NULL) == 0);
  CHECK(mch_channel_put(&pair.a, &head, "short", 5, NULL) == 0);
  getrlimit(RLIMIT_AS, &old);
  tight = old;
  tight.rlim_cur = 200u << 20;
  setrlimit(RLIMIT_AS, &tight);
  limited = is_limited(tight.rlim_cur);
  while (count < 2) {
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
    CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
    got = mch_channel_next(&pair.b, &message, NULL);
    CHECK(got >= 0);
    if (got < 0)
      break;
    if (got == 0)
      continue;
    if (++count == 2)
      CHECK(!message.lost && message.length == 5);
    else if (limited)
      CHECK(message.lost && message.length == MCH_LOST_KEPT &&
            memcmp(message.body, "front", 6) == 0);
    else
      fprintf(stderr, "test_lost: not tested, this kernel limits no memory\n");
  }
  setrlimit(RLIMIT_AS, &old);
  CHECK(count == 2);
  close_pair(&pair);
  free(lent);
#endif
}

/* Memory that a large message took is given back; or it is the caller's. */
static void test_gives_memory_back(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  size_t size = 20u << 20;
  char *bytes = calloc(1, size);
  void *taken;
  int got = 0;
  open_pair(&pair);
  CHECK(mch_channel_put(&pair.a, &head, bytes, size, NULL) == 0);
  free(bytes);
  while (got == 0) {
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0);
    CHECK(mch_channel_fill(&pair.b, 0, NULL) >= 0);
    got = mch_channel_next(&pair.b, &message, NULL);
  }
  CHECK(got == 1 && message.length == size && !message.lost);
  taken = mch_channel_take(&pair.b);
  CHECK(taken == message.body && mch_channel_take(&pair.b) == NULL);
  free(taken);
  CHECK(mch_channel_next(&pair.b, &message, NULL) == 0);
  CHECK(pair.a.out.capacity <= 1u << 20);
  CHECK(pair.b.long_handed == NULL && pair.b.gathering.bytes == NULL);
  CHECK(pair.b.in.capacity <= 4u << 20);
  close_pair(&pair);
}

int main(void) {
  test_through_a_small_socket();
  test_random_splits();
  test_records();
  test_blocking();
  test_closed();
  test_broken_frames();
  test_parts();
  test_sequence_wraps();
  test_gives_memory_back();
  test_cargo();
  test_cargo_outlives_its_task();
  test_tear();
  test_lost();
  return check_report();
}
