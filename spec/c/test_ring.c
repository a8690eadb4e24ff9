/* runtime/ring, and channels over it: bytes in order around the end, no bell lost between two
 * threads that stand for processes, what a broken or dead other side leaves. Meant for the thread
 * sanitizer, too. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/wire/ring.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/wire/channel.h"
#include "check.h"
#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static void test_bytes(void) {
  struct mch_ring *ring = calloc(1, sizeof *ring);
  unsigned char *piece = malloc(MCH_RING_SIZE), in = 0, out = 0;
  uint32_t random = 3;
  int step, right = 1;
  /* The counters wrap in the middle of it. */
  ring->written = ring->read = UINT32_MAX - 5 * MCH_RING_SIZE;
  for (step = 0; step < 3000; step++) {
    size_t count = next_random(&random) % (next_random(&random) % 3 ? 5000 : MCH_RING_SIZE), i,
           moved;
    size_t waiting = mch_ring_waiting(ring);
    if (next_random(&random) % 2) {
      for (i = 0; i < count; i++)
        piece[i] = (unsigned char)(in + i);
      moved = mch_ring_write(ring, piece, count);
      right &= moved == (count < MCH_RING_SIZE - waiting ? count : MCH_RING_SIZE - waiting);
      in = (unsigned char)(in + moved);
    } else {
      moved = mch_ring_read(ring, piece, count);
      right &= moved == (count < waiting ? count : waiting);
      for (i = 0; i < moved; i++)
        right &= piece[i] == out++;
    }
  }
  CHECK(right);
  free(piece);
  free(ring);
}

/* A record is there as a whole or not at all, also around the end. */
static void test_records(void) {
  struct mch_ring *ring = calloc(1, sizeof *ring);
  unsigned char bytes[256], out = 0, in = 0, length;
  uint32_t random = 5;
  int step, right = 1;
  ring->written = ring->read = UINT32_MAX - 3 * MCH_RING_SIZE;
  for (step = 0; step < 200000; step++) {
    size_t waiting = mch_ring_waiting(ring), i;
    if (next_random(&random) % 5 < (step / 5000 % 2 ? 1 : 4)) {
      size_t count = next_random(&random) % 256;
      for (i = 0; i < count; i++)
        bytes[i] = (unsigned char)(in + i);
      if (mch_ring_write_record(ring, bytes, count)) {
        right &= mch_ring_waiting(ring) == waiting + 1 + count;
        in = (unsigned char)(in + count);
      } else
        right &= waiting + 1 + count > MCH_RING_SIZE && mch_ring_waiting(ring) == waiting;
    } else if (mch_ring_read(ring, &length, 1) == 1) {
      right &= mch_ring_read(ring, bytes, length) == length;
      for (i = 0; i < length; i++)
        right &= bytes[i] == out++;
    }
  }
  CHECK(right);
  ring->written = ring->read + MCH_RING_SIZE + 1; /* the other side broke it */
  CHECK(mch_ring_write_record(ring, bytes, 1) == 0);
  free(ring);
}

static void test_sleep_and_bell(void) {
  struct mch_ring *ring = calloc(1, sizeof *ring);
  char *full = calloc(1, MCH_RING_SIZE);
  CHECK(!mch_ring_wants_bell(&ring->reader_sleeps));
  CHECK(mch_ring_reader_stays(ring) == 0);
  mch_ring_write(ring, "x", 1);
  CHECK(mch_ring_wants_bell(&ring->reader_sleeps) && !mch_ring_wants_bell(&ring->reader_sleeps));
  CHECK(mch_ring_reader_stays(ring) && !mch_ring_wants_bell(&ring->reader_sleeps));
  CHECK(mch_ring_writer_stays(ring));
  CHECK(mch_ring_write(ring, full, MCH_RING_SIZE) == MCH_RING_SIZE - 1);
  CHECK(mch_ring_write(ring, full, 1) == 0);
  CHECK(mch_ring_writer_stays(ring) == 0);
  CHECK(!mch_ring_has_room(ring));
  mch_ring_read(ring, full, MCH_RING_SIZE / 2 - 1);
  CHECK(!mch_ring_has_room(ring) && mch_ring_writer_stays(ring) == 0); /* not worth a bell */
  mch_ring_read(ring, full, 1);
  CHECK(mch_ring_has_room(ring));
  CHECK(mch_ring_wants_bell(&ring->writer_sleeps) && !mch_ring_wants_bell(&ring->writer_sleeps));
  CHECK(mch_ring_writer_stays(ring) && !mch_ring_wants_bell(&ring->writer_sleeps));
  free(full);
  free(ring);
}

/* -- channels ----------------------------------------------------------------------------- */

struct pair {
  struct mch_ring *rings[2];
  struct mch_channel a, b;
};

static void open_pair(struct pair *pair) {
  int fds[2];
  pair->rings[0] = calloc(1, sizeof *pair->rings[0]);
  pair->rings[1] = calloc(1, sizeof *pair->rings[1]);
  CHECK(mch_platform_socketpair(fds, NULL) == 0);
  mch_channel_open(&pair->a, fds[0]);
  mch_channel_open(&pair->b, fds[1]);
  mch_channel_use_rings(&pair->a, pair->rings[0], pair->rings[1]);
  mch_channel_use_rings(&pair->b, pair->rings[1], pair->rings[0]);
}

static void close_pair(struct pair *pair) {
  mch_channel_close(&pair->a);
  mch_channel_close(&pair->b);
  free(pair->rings[0]);
  free(pair->rings[1]);
}

static void linger(uint32_t *random) {
  volatile uint32_t count = next_random(random) % 4 ? 0 : next_random(random) % 30000;
  while (count > 0)
    count--;
}

/* A worker: each message goes back as it came, until the pool has gone. */
static void *echo(void *argument) {
  struct mch_channel *channel = argument;
  struct mch_message_in message;
  uint32_t random = 9;
  for (;;) {
    int got = mch_channel_next(channel, &message, NULL);
    linger(&random);
    if (got == 1) {
      if (mch_channel_put(channel, &message.head, message.body, message.length, NULL) != 0 ||
          mch_channel_flush(channel, 1, NULL) != 0)
        return NULL;
    } else if (got < 0 || mch_channel_fill(channel, 1, NULL) <= 0)
      return NULL;
  }
}

/* As the pool does before it sleeps. 0: nothing has come for long. */
static int wait_for_news(struct mch_channel *channel) {
  struct pollfd readable = {channel->fd, POLLIN, 0};
  if (mch_channel_stays_awake(channel))
    return 1;
  if (poll(&readable, 1, 10000) != 1)
    return 0;
  mch_channel_hear(channel);
  return 1;
}

/* `ahead` messages are on their way at once, of up to `most` bytes. */
static void test_echo(int rounds, int ahead, uint32_t most) {
  struct pair pair;
  struct mch_message_in message;
  pthread_t worker;
  unsigned char *bytes = malloc(most + 1);
  uint32_t random = 1;
  int put = 0, back = 0, alive = 1, right = 1;
  memset(bytes, 'x', most);
  open_pair(&pair);
  pthread_create(&worker, NULL, echo, &pair.b);
  while (back < rounds && alive) {
    int news = 0;
    while (put < rounds && put - back < ahead) {
      struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, (uint64_t)put};
      size_t length = next_random(&random) % (most + 1);
      right &= mch_channel_put(&pair.a, &head, bytes, length, NULL) == 0;
      put++;
    }
    right &= mch_channel_flush(&pair.a, 0, NULL) == 0;
    while (mch_channel_fill(&pair.a, 0, NULL) > 0)
      while (mch_channel_next(&pair.a, &message, NULL) == 1) {
        right &= message.head.runid == (uint64_t)back;
        back++;
        news = 1;
      }
    linger(&random);
    if (!news)
      alive = wait_for_news(&pair.a);
  }
  CHECK(alive && right && back == rounds);
  mch_channel_close(&pair.a);
  pthread_join(worker, NULL);
  close_pair(&pair);
  free(bytes);
}

enum { RECORDS = 300000 };

/* A worker that answers items, and says something else now and then. */
static void *answer_items(void *argument) {
  struct mch_channel *channel = argument;
  unsigned char bytes[8];
  uint32_t i, random = 4;
  for (i = 0; i < RECORDS; i++) {
    struct mch_message_head head = {MCH_MESSAGE_ITEMS, 0, 0, i};
    mch_store_u64(bytes, i);
    if (mch_channel_put_record(channel, &head, bytes, sizeof bytes, NULL) != 0)
      return NULL;
    head.type = MCH_MESSAGE_LOG;
    if (i % 1000 == 7 && mch_channel_put(channel, &head, "log", 3, NULL) != 0)
      return NULL;
    if (mch_channel_flush(channel, 1, NULL) != 0)
      return NULL;
    if (i % 64 == 0)
      linger(&random);
  }
  return NULL;
}

/* Each record is seen without another one behind it: none waits for a bell. */
static void test_answers(void) {
  struct pair pair;
  struct mch_message_in message;
  pthread_t worker;
  uint32_t next = 0, logs = 0, i, right = 1, random = 8;
  int alive = 1;
  open_pair(&pair);
  pthread_create(&worker, NULL, answer_items, &pair.b);
  while (next < RECORDS && alive && right) {
    int news = 0;
    while (mch_channel_fill(&pair.a, 0, NULL) > 0)
      while (mch_channel_next(&pair.a, &message, NULL) == 1) {
        news = 1;
        if (message.head.type == MCH_MESSAGE_LOG) {
          right &= message.head.runid + 1 == next && message.records == 0;
          logs++;
          continue;
        }
        right &= message.head.runid + message.records_before == next &&
                 message.length == 9 * (size_t)message.records;
        for (i = 0; i < message.records; i++)
          right &= mch_load_u64(message.body + 9 * i + 1) == next++;
      }
    if (next % 3 == 0)
      linger(&random);
    if (!news)
      alive = wait_for_news(&pair.a);
  }
  CHECK(alive && right && next == RECORDS && logs == RECORDS / 1000);
  mch_channel_close(&pair.a);
  pthread_join(worker, NULL);
  close_pair(&pair);
}

/* What a worker wrote before it died is read to its end. */
static void test_last_words(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  int count = 0;
  open_pair(&pair);
  while (count++ < 1000)
    mch_channel_put(&pair.b, &head, "word", 4, NULL);
  CHECK(mch_channel_flush(&pair.b, 0, NULL) == 0);
  mch_channel_put(&pair.b, &head, "never said", 10, NULL);
  close(pair.b.fd);
  pair.b.fd = -1;
  CHECK(wait_for_news(&pair.a));
  mch_channel_hear(&pair.a);
  count = 0;
  while (mch_channel_fill(&pair.a, 0, NULL) > 0)
    while (mch_channel_next(&pair.a, &message, NULL) == 1)
      count++;
  CHECK(count == 1000 && pair.a.ended);
  close_pair(&pair);
}

static void test_broken(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_error error;
  open_pair(&pair);
  pair.rings[0]->written = MCH_RING_SIZE + 1;
  CHECK(mch_channel_fill(&pair.a, 0, &error) == MCH_PROTOCOL);
  CHECK(mch_channel_fill(&pair.a, 1, &error) == MCH_PROTOCOL);
  pair.rings[1]->read = 7;
  mch_channel_put(&pair.a, &head, "word", 4, NULL);
  CHECK(mch_channel_flush(&pair.a, 0, &error) == MCH_PROTOCOL && mch_channel_unsent(&pair.a) > 0);
  close_pair(&pair);
}

/* What one side has said is not unsaid by writing over it. */
static void test_written_over(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_message_in message;
  int i;
  open_pair(&pair);
  for (i = 0; i < 3; i++) {
    mch_channel_put(&pair.a, &head, "word", 4, NULL);
    CHECK(mch_channel_is_whole(&pair.a) && mch_channel_is_whole(&pair.b));
    pair.rings[1]->written += (uint32_t)(i * 100);
    CHECK(i == 0 || !mch_channel_is_whole(&pair.a));
    CHECK(mch_channel_flush(&pair.a, 0, NULL) == 0 && mch_channel_is_whole(&pair.a));
    pair.rings[1]->read -= (uint32_t)i;
    CHECK(i == 0 || !mch_channel_is_whole(&pair.b));
    CHECK(mch_channel_waiting(&pair.b) && mch_channel_fill(&pair.b, 0, NULL) > 0);
    CHECK(mch_channel_next(&pair.b, &message, NULL) == 1 && memcmp(message.body, "word", 4) == 0);
  }
  close_pair(&pair);
}

/* A full ring and nobody there: the writer gives up instead of waiting. */
static void test_nobody_reads(void) {
  struct pair pair;
  struct mch_message_head head = {MCH_MESSAGE_LOG, 0, 0, 0};
  struct mch_error error;
  char *bytes = calloc(1, 2 * MCH_RING_SIZE);
  open_pair(&pair);
  mch_channel_put(&pair.b, &head, bytes, 2 * MCH_RING_SIZE, NULL);
  CHECK(mch_channel_flush(&pair.b, 0, &error) == 0 && mch_channel_unsent(&pair.b) > 0);
  mch_channel_close(&pair.a);
  CHECK(mch_channel_flush(&pair.b, 1, &error) == MCH_CLOSED);
  free(bytes);
  close_pair(&pair);
}

int main(void) {
  test_bytes();
  test_records();
  test_sleep_and_bell();
  test_echo(20000, 1, 100);
  test_echo(20000, 50, 1000);
  test_echo(2000, 8, 100000);
  test_echo(40, 3, 3000000);
  test_answers();
  test_last_words();
  test_broken();
  test_written_over();
  test_nobody_reads();
  return check_report();
}
