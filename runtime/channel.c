/* Runs in: both. Purpose: channel.h. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "platform.h"
#include "protocol.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* there the socket has SO_NOSIGPIPE */
#endif

enum {
  FILL_ROOM = 64 * 1024,           /* bytes asked of the kernel at once: many small frames */
  SPIN_NANOSECONDS = 20000,        /* looking for bytes before sleeping */
  SHORT_WAIT_NANOSECONDS = 100000, /* after such a sleep it is worth it */
  KEEP_ROOM = 1 << 20              /* an empty buffer larger than this gives its memory back */
};

void mch_channel_open(struct mch_channel *channel, int fd) {
  memset(channel, 0, sizeof *channel);
  channel->fd = fd;
}

void mch_channel_use_rings(struct mch_channel *channel, struct mch_ring *in, struct mch_ring *out) {
  channel->ring_in = in;
  channel->ring_out = out;
}

void mch_channel_close(struct mch_channel *channel) {
  if (channel->fd >= 0)
    close(channel->fd);
  channel->fd = -1;
  mch_buf_free(&channel->out);
  mch_buf_free(&channel->in);
  mch_buf_free(&channel->parts);
}

/* -- bells -------------------------------------------------------------------------------- */

/* Take bells; `wait`: sleep until there is one, or a signal. */
static void hear(struct mch_channel *channel, int wait) {
  char bells[64];
  ssize_t got = recv(channel->fd, bells, sizeof bells, wait ? 0 : MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
    channel->fd_ended = 1;
}

void mch_channel_hear(struct mch_channel *channel) {
  if (channel->ring_in != NULL && channel->fd >= 0 && !channel->fd_ended)
    hear(channel, 0);
}

/* A bell that does not fit is one of many: the other side will wake. */
static void ring_bell(struct mch_channel *channel, _Atomic uint32_t *sleeps) {
  if (mch_ring_wants_bell(sleeps) && channel->fd >= 0)
    send(channel->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int mch_channel_stays_awake(struct mch_channel *channel) {
  return channel->ring_in != NULL && mch_ring_reader_stays(channel->ring_in);
}

/* -- writing ------------------------------------------------------------------------------ */

static void put_header(struct mch_channel *channel, const struct mch_message_head *head,
                       size_t length, int more) {
  unsigned char bytes[MCH_FRAME_HEADER];
  mch_store_u32(bytes, (uint32_t)length);
  bytes[4] = head->type;
  bytes[5] = more ? MCH_FRAME_MORE : 0;
  mch_store_u16(bytes + 6, head->attempt);
  mch_store_u32(bytes + 8, channel->sequence_out++);
  mch_store_u32(bytes + 12, head->ticket);
  mch_store_u64(bytes + 16, head->runid);
  mch_buf_append(&channel->out, bytes, sizeof bytes);
}

/* Append `count` bytes of the two-part body from position `at`. */
static void put_slice(struct mch_buf *out, const unsigned char *first, size_t first_length,
                      const unsigned char *second, size_t at, size_t count) {
  if (at < first_length) {
    size_t here = first_length - at < count ? first_length - at : count;
    mch_buf_append(out, first + at, here);
    at += here;
    count -= here;
  }
  if (count > 0)
    mch_buf_append(out, second + (at - first_length), count);
}

int mch_channel_put2(struct mch_channel *channel, const struct mch_message_head *head,
                     const void *first, size_t first_length, const void *second,
                     size_t second_length, struct mch_error *error) {
  size_t length = first_length + second_length, at = 0;
  size_t frames = length / MCH_FRAME_MAX + 1;
  /* All or nothing: with the room made first, appending cannot fail half-way. */
  if (mch_buf_reserve(&channel->out, length + frames * MCH_FRAME_HEADER) != 0) {
    channel->out.failed = 0;
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a message of %zu bytes", length);
  }
  do {
    size_t count = length - at < MCH_FRAME_MAX ? length - at : MCH_FRAME_MAX;
    put_header(channel, head, count, at + count < length);
    put_slice(&channel->out, first, first_length, second, at, count);
    at += count;
  } while (at < length);
  return 0;
}

int mch_channel_put(struct mch_channel *channel, const struct mch_message_head *head,
                    const void *body, size_t length, struct mch_error *error) {
  return mch_channel_put2(channel, head, body, length, NULL, 0, error);
}

size_t mch_channel_unsent(const struct mch_channel *channel) {
  return mch_buf_unread(&channel->out);
}

void mch_channel_tear(struct mch_channel *channel, size_t count) {
  if (count < mch_buf_unread(&channel->out))
    channel->out.length = channel->out.read + count;
}

/* Wait until the descriptor takes more; a signal may end the wait early, which does no harm. */
static void wait_writable(int fd) {
  struct pollfd writable = {fd, POLLOUT, 0};
  poll(&writable, 1, -1);
}

static void give_back(struct mch_buf *buf) {
  if (mch_buf_unread(buf) == 0 && buf->capacity > KEEP_ROOM)
    mch_buf_free(buf);
}

static ssize_t send_some(struct mch_channel *channel, int wait) {
  const struct mch_buf *out = &channel->out;
  size_t count = mch_buf_unread(out);
  errno = mch_chaos_io(channel->chaos, &count, 1);
  if (errno != 0)
    return -1;
  return send(channel->fd, out->data + out->read, count, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
}

static int flush_ring(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct mch_ring *ring = channel->ring_out;
  struct mch_buf *out = &channel->out;
  while (mch_buf_unread(out) > 0) {
    size_t count = mch_buf_unread(out), fitted;
    int refused = mch_chaos_io(channel->chaos, &count, 1);
    if (refused == EAGAIN && !wait && mch_ring_writer_naps(ring))
      return 0;
    fitted = refused ? 0 : mch_ring_write(ring, out->data + out->read, count);
    if (fitted > 0) {
      mch_buf_consume(out, fitted);
      ring_bell(channel, &ring->reader_sleeps);
    } else if (!refused && !mch_ring_writer_stays(ring)) {
      if (!wait)
        return 0;
      if (channel->fd_ended)
        return mch_error_set(error, MCH_CLOSED, "the other side of a channel has gone");
      hear(channel, 1);
    }
  }
  give_back(out);
  return 0;
}

int mch_channel_flush(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct mch_buf *out = &channel->out;
  if (channel->ring_out != NULL)
    return flush_ring(channel, wait, error);
  while (mch_buf_unread(out) > 0) {
    ssize_t sent = send_some(channel, wait);
    if (sent >= 0)
      mch_buf_consume(out, (size_t)sent);
    else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      if (!wait)
        return 0;
      wait_writable(channel->fd);
    } else if (errno == EPIPE || errno == ECONNRESET || errno == EBADF)
      return mch_error_set(error, MCH_CLOSED, "the other side of a channel has gone");
    else if (errno != EINTR)
      return mch_error_system(error, "cannot send to a worker");
  }
  give_back(out);
  return 0;
}

/* -- reading ------------------------------------------------------------------------------ */

/* Let go of the message that the last mch_channel_next() handed out. */
static void release_handed(struct mch_channel *channel) {
  if (channel->in_handed > 0) {
    mch_buf_consume(&channel->in, channel->in_handed);
    channel->in_handed = 0;
  }
  if (channel->parts_handed) {
    mch_buf_clear(&channel->parts);
    give_back(&channel->parts);
    channel->parts_handed = channel->in_parts = 0;
  }
}

/* Bytes still missing to the frame that stands at the front of `in`; 0: unknown or none. */
static size_t missing(const struct mch_channel *channel) {
  size_t unread = mch_buf_unread(&channel->in), whole;
  if (unread < MCH_FRAME_HEADER)
    return 0;
  whole = MCH_FRAME_HEADER + (size_t)mch_load_u32(channel->in.data + channel->in.read);
  return whole <= MCH_FRAME_HEADER + MCH_FRAME_MAX && whole > unread ? whole - unread : 0;
}

/* Chaos never says EAGAIN here: at the end of a stream the pool counts on reading all there is. */
static ssize_t receive_some(struct mch_channel *channel, int wait) {
  const struct mch_buf *in = &channel->in;
  size_t count = in->capacity - in->length;
  errno = mch_chaos_io(channel->chaos, &count, 0);
  if (errno != 0)
    return -1;
  return recv(channel->fd, in->data + in->length, count, wait ? 0 : MSG_DONTWAIT);
}

/* Look for bytes for a short while: cheaper than a sleep when the other side is about to write. */
static void spin(const struct mch_ring *ring) {
  uint64_t until = mch_now() + SPIN_NANOSECONDS;
  int i;
  while (mch_ring_waiting(ring) == 0 && mch_now() < until)
    for (i = 0; i < 20 && mch_ring_waiting(ring) == 0; i++)
      mch_platform_relax();
}

/* Sleep until the other side rings, after a look for a while if that was worth it the last time. */
static void wait_for_bell(struct mch_channel *channel) {
  struct mch_ring *ring = channel->ring_in;
  uint64_t start;
  if (channel->spin)
    spin(ring);
  if (mch_ring_reader_stays(ring))
    return;
  start = mch_now();
  hear(channel, 1);
  channel->spin = mch_now() - start < SHORT_WAIT_NANOSECONDS;
}

static ssize_t fill_from_ring(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct mch_ring *ring = channel->ring_in;
  struct mch_buf *in = &channel->in;
  for (;;) {
    size_t count = in->capacity - in->length, got;
    if (mch_ring_waiting(ring) > MCH_RING_SIZE)
      return mch_error_set(error, MCH_PROTOCOL, "the other side broke the ring");
    if (mch_chaos_io(channel->chaos, &count, 0) != 0)
      continue;
    got = mch_ring_read(ring, in->data + in->length, count);
    if (got > 0) {
      in->length += got;
      ring_bell(channel, &ring->writer_sleeps);
      return (ssize_t)got;
    }
    if (channel->fd_ended || channel->fd < 0) {
      channel->ended = 1;
      return 0;
    }
    if (!wait)
      return 0;
    wait_for_bell(channel);
  }
}

ssize_t mch_channel_fill(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct mch_buf *in = &channel->in;
  size_t room;
  ssize_t got;
  release_handed(channel);
  if (channel->ended || (channel->fd < 0 && channel->ring_in == NULL))
    return 0;
  room = missing(channel);
  if (room < FILL_ROOM)
    room = FILL_ROOM;
  if (mch_buf_reserve(in, room) != 0) {
    in->failed = 0;
    return mch_error_set(error, MCH_NOMEM, "not enough memory to read a message");
  }
  if (channel->ring_in != NULL)
    return fill_from_ring(channel, wait, error);
  do
    got = receive_some(channel, wait);
  while (got < 0 && errno == EINTR);
  if (got > 0)
    in->length += (size_t)got;
  else if (got == 0 || errno == ECONNRESET || errno == EPIPE)
    channel->ended = 1, got = 0;
  else if (errno == EAGAIN || errno == EWOULDBLOCK)
    got = 0;
  else
    return mch_error_system(error, "cannot read from a channel");
  return got;
}

static int known_type(uint8_t type) {
  switch (type) {
#define MCH_KNOWN(name, code, direction, payload) case code:
    MCH_MESSAGES(MCH_KNOWN)
#undef MCH_KNOWN
    return 1;
  default:
    return 0;
  }
}

static int broken(struct mch_error *error, const char *how) {
  return mch_error_set(error, MCH_PROTOCOL, "the other side broke the protocol: %s", how);
}

/* Check the header at `at` against the rules of the stream. 0 or MCH_PROTOCOL. */
static int check_header(struct mch_channel *channel, const unsigned char *at,
                        struct mch_message_head *head, struct mch_error *error) {
  if (mch_load_u32(at) > MCH_FRAME_MAX)
    return broken(error, "a frame is too long");
  if (!known_type(at[4]) || (at[5] & ~MCH_FRAME_MORE) != 0)
    return broken(error, "a frame of an unknown type");
  if (mch_load_u32(at + 8) != channel->sequence_in)
    return broken(error, "a frame is out of sequence");
  head->type = at[4];
  head->attempt = mch_load_u16(at + 6);
  head->ticket = mch_load_u32(at + 12);
  head->runid = mch_load_u64(at + 16);
  if (channel->in_parts &&
      (head->type != channel->parts_head.type || head->runid != channel->parts_head.runid))
    return broken(error, "a message was interrupted by another");
  return 0;
}

int mch_channel_next(struct mch_channel *channel, struct mch_message_in *message,
                     struct mch_error *error) {
  struct mch_buf *in = &channel->in;
  release_handed(channel);
  while (mch_buf_unread(in) >= MCH_FRAME_HEADER) {
    const unsigned char *at = in->data + in->read;
    size_t length = mch_load_u32(at);
    int more = at[5] & MCH_FRAME_MORE, code;
    struct mch_message_head head;
    if ((code = check_header(channel, at, &head, error)) != 0)
      return code;
    if (mch_buf_unread(in) - MCH_FRAME_HEADER < length)
      return 0;
    channel->sequence_in++;
    if (!more && !channel->in_parts) {
      message->head = head;
      message->body = at + MCH_FRAME_HEADER;
      message->length = length;
      channel->in_handed = MCH_FRAME_HEADER + length;
      return 1;
    }
    channel->in_parts = 1;
    channel->parts_head = head;
    mch_buf_append(&channel->parts, at + MCH_FRAME_HEADER, length);
    if (channel->parts.failed != 0)
      return mch_error_set(error, MCH_NOMEM, "not enough memory to join the parts of a message");
    mch_buf_consume(in, MCH_FRAME_HEADER + length);
    if (!more) {
      message->head = head;
      message->body = channel->parts.data;
      message->length = channel->parts.length;
      channel->parts_handed = 1;
      return 1;
    }
  }
  return 0;
}
