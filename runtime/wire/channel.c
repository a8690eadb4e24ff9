/* Runs in: both. Purpose: channel.h. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "protocol.h"

enum {
  FILL_ROOM = 64 * 1024,          /* bytes asked of the kernel at once: many small frames */
  LEAST_ROOM = 4 * 1024,          /* bytes of memory for them */
  RING_SLICE = MCH_RING_SIZE / 4, /* moved at once: the other side works meanwhile */
  TRUSTED_SIZE = 1 << 30,         /* untouched memory costs little */
  KEEP_ROOM = 1 << 20             /* an empty buffer larger than this gives its memory back */
};

void mch_channel_open(struct mch_channel *channel, int fd) {
  memset(channel, 0, sizeof *channel);
  channel->fd = fd;
  channel->trusted = TRUSTED_SIZE;
}

void mch_channel_use_rings(struct mch_channel *channel, struct mch_ring *in, struct mch_ring *out) {
  channel->ring_in = in;
  channel->ring_out = out;
  channel->ring_taken = atomic_load(&in->read);
  channel->ring_put = atomic_load(&out->written);
}

int mch_channel_is_whole(const struct mch_channel *channel) {
  const struct mch_ring *in = channel->ring_in, *out = channel->ring_out;
  return in == NULL ||
         (atomic_load_explicit(&in->read, memory_order_relaxed) == channel->ring_taken &&
          atomic_load_explicit(&out->written, memory_order_relaxed) == channel->ring_put &&
          atomic_load_explicit(&in->written, memory_order_relaxed) - channel->ring_taken <=
              MCH_RING_SIZE &&
          channel->ring_put - atomic_load_explicit(&out->read, memory_order_relaxed) <=
              MCH_RING_SIZE);
}

/* Say again what this side has said, should something have written over it. */
static void mend_rings(struct mch_channel *channel) {
  struct mch_ring *in = channel->ring_in, *out = channel->ring_out;
  if (atomic_load_explicit(&in->read, memory_order_relaxed) != channel->ring_taken)
    atomic_store(&in->read, channel->ring_taken);
  if (atomic_load_explicit(&out->written, memory_order_relaxed) != channel->ring_put)
    atomic_store(&out->written, channel->ring_put);
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
    mch_platform_send(channel->fd, "", 1, 0);
}

void mch_channel_ring(struct mch_channel *channel) {
  if (channel->ring_out == NULL || channel->fd < 0)
    return;
  mend_rings(channel);
  if (mch_ring_waiting(channel->ring_out) > 0)
    mch_platform_send(channel->fd, "", 1, 0);
}

int mch_channel_stays_awake(struct mch_channel *channel) {
  if (channel->ring_in == NULL)
    return 0;
  mend_rings(channel);
  return mch_ring_reader_stays(channel->ring_in);
}

/* -- putting ------------------------------------------------------------------------------ */

/* Bytes that go out from where they are, once `out_sent` has come to `at`. */
struct segment {
  uint64_t at;
  const unsigned char *bytes;
  size_t length;
  struct mch_cargo *cargo; /* to be dropped behind them, or NULL */
};

static struct segment *first_segment(const struct mch_channel *channel) {
  const struct mch_buf *borrowed = &channel->borrowed;
  return mch_buf_unread(borrowed) > 0 ? (struct segment *)(void *)(borrowed->data + borrowed->read)
                                      : NULL;
}

static struct segment *last_segment(const struct mch_channel *channel) {
  const struct mch_buf *borrowed = &channel->borrowed;
  return mch_buf_unread(borrowed) > 0
             ? (struct segment *)(void *)(borrowed->data + borrowed->length) - 1
             : NULL;
}

/* A message on its way into frames. Room for all of it was made before. */
struct framing {
  struct mch_channel *channel;
  const struct mch_message_head *head;
  size_t left;  /* bytes of the message that are not in a frame yet */
  size_t space; /* for so many bytes in the last frame */
};

static void append(struct mch_channel *channel, const void *bytes, size_t count) {
  mch_buf_append(&channel->out, bytes, count);
  channel->out_put += count;
}

/* Write the header of the next frame to `bytes`. */
static void store_header(struct mch_channel *channel, const struct mch_message_head *head,
                         size_t length, unsigned flags, unsigned char *bytes) {
  mch_store_u32(bytes, (uint32_t)length);
  bytes[4] = head->type;
  bytes[5] = (unsigned char)flags;
  mch_store_u16(bytes + 6, head->attempt);
  mch_store_u32(bytes + 8, channel->sequence_out++);
  mch_store_u32(bytes + 12, head->ticket);
  mch_store_u64(bytes + 16, head->runid);
}

static void begin_frame(struct framing *framing, int first) {
  unsigned char bytes[MCH_FRAME_HEADER + 8];
  int is_long = first && framing->left > MCH_FRAME_MAX;
  size_t length = framing->left + (is_long ? 8 : 0), more = length > MCH_FRAME_MAX;
  if (more)
    length = MCH_FRAME_MAX;
  store_header(framing->channel, framing->head, length,
               (more ? MCH_FRAME_MORE : 0) | (is_long ? MCH_FRAME_LONG : 0), bytes);
  mch_store_u64(bytes + MCH_FRAME_HEADER, framing->left);
  append(framing->channel, bytes, MCH_FRAME_HEADER + (is_long ? 8 : 0));
  framing->space = length - (is_long ? 8 : 0);
}

static void borrow(struct mch_channel *channel, const unsigned char *bytes, size_t count) {
  struct segment segment = {channel->out_put, bytes, count, NULL};
  mch_buf_append(&channel->borrowed, &segment, sizeof segment);
  channel->borrowed_bytes += count;
}

static void put_piece(struct framing *framing, const unsigned char *bytes, size_t count,
                      int borrowed) {
  while (count > 0) {
    size_t here;
    if (framing->space == 0)
      begin_frame(framing, 0);
    here = count < framing->space ? count : framing->space;
    if (borrowed)
      borrow(framing->channel, bytes, here);
    else
      append(framing->channel, bytes, here);
    framing->space -= here;
    framing->left -= here;
    bytes += here;
    count -= here;
  }
}

/* The body's own bytes and its spans in turns. */
static void put_pieces(struct framing *framing, const struct mch_body *body, int borrowed) {
  size_t at = 0, i;
  for (i = 0; i < body->count; i++) {
    const struct mch_span *span = &body->spans[i];
    put_piece(framing, body->bytes + at, span->at - at, borrowed);
    put_piece(framing, span->bytes, span->length, 1);
    at = span->at;
  }
  if (at < body->length)
    put_piece(framing, body->bytes + at, body->length - at, borrowed);
}

/* All or nothing: with the room made first, appending cannot fail half-way. */
static int make_room(struct mch_channel *channel, size_t copied, size_t frames, size_t segments) {
  size_t headers = frames * MCH_FRAME_HEADER + 8 + 1;
  int code = mch_buf_reserve(&channel->out, copied + headers);
  if (code == 0 && segments > 0)
    code = mch_buf_reserve(&channel->borrowed, (segments + frames) * sizeof(struct segment));
  channel->out.failed = channel->borrowed.failed = 0;
  return code;
}

/* There is room for it. */
static void end_open_message(struct mch_channel *channel) {
  if (channel->opened_out)
    append(channel, "", 1);
  channel->opened_out = 0;
}

static int put(struct mch_channel *channel, const struct mch_message_head *head, const void *first,
               size_t first_length, const struct mch_body *body, int borrowed,
               struct mch_error *error) {
  size_t length = first_length + mch_body_size(body);
  struct framing framing = {channel, head, length, 0};
  if (make_room(channel, first_length + (borrowed ? 0 : body->length), length / MCH_FRAME_MAX + 2,
                body->count + (size_t)borrowed * (body->count + 1)) != 0)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a message of %zu bytes", length);
  end_open_message(channel);
  begin_frame(&framing, 1);
  put_piece(&framing, first, first_length, 0);
  put_pieces(&framing, body, borrowed);
  return 0;
}

int mch_channel_put2(struct mch_channel *channel, const struct mch_message_head *head,
                     const void *first, size_t first_length, const void *second,
                     size_t second_length, struct mch_error *error) {
  struct mch_body body = {second, second_length, NULL, 0};
  return put(channel, head, first, first_length, &body, 0, error);
}

int mch_channel_put(struct mch_channel *channel, const struct mch_message_head *head,
                    const void *body, size_t length, struct mch_error *error) {
  return mch_channel_put2(channel, head, body, length, NULL, 0, error);
}

int mch_channel_put_body(struct mch_channel *channel, const struct mch_message_head *head,
                         const void *first, size_t first_length, const struct mch_body *body,
                         struct mch_cargo *cargo, struct mch_error *error) {
  int borrowed = body->length >= MCH_SPAN_MIN;
  size_t before = channel->borrowed_bytes;
  int code = put(channel, head, first, first_length, body, borrowed, error);
  if (cargo != NULL && channel->borrowed_bytes > before) {
    mch_cargo_hold(cargo);
    last_segment(channel)->cargo = cargo;
  }
  return code;
}

static void begin_open_message(struct mch_channel *channel, const struct mch_message_head *head) {
  unsigned char bytes[MCH_FRAME_HEADER];
  store_header(channel, head, 0, MCH_FRAME_OPEN, bytes);
  append(channel, bytes, sizeof bytes);
  channel->opened_out = 1;
}

static int is_calm(const struct mch_channel *channel) {
  return channel->chaos == NULL || channel->chaos->rate == 0;
}

int mch_channel_put_record(struct mch_channel *channel, const struct mch_message_head *head,
                           const void *record, size_t length, struct mch_error *error) {
  unsigned char size = (unsigned char)length;
  if (channel->opened_out && channel->ring_out != NULL && mch_channel_unsent(channel) == 0 &&
      is_calm(channel) && mch_ring_write_record(channel->ring_out, record, length)) {
    channel->ring_put += (uint32_t)length + 1;
    ring_bell(channel, &channel->ring_out->reader_sleeps);
    return 0;
  }
  if (make_room(channel, 1 + length, 1, 0) != 0)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a record of %zu bytes", length);
  if (!channel->opened_out)
    begin_open_message(channel, head);
  append(channel, &size, 1);
  append(channel, record, length);
  return 0;
}

size_t mch_channel_unsent(const struct mch_channel *channel) {
  return mch_buf_unread(&channel->out) + channel->borrowed_bytes;
}

/* -- writing ------------------------------------------------------------------------------ */

/* What goes out next, and how much of it lies in one place. */
static const unsigned char *next_piece(const struct mch_channel *channel, size_t *count) {
  const struct segment *segment = first_segment(channel);
  const struct mch_buf *out = &channel->out;
  if (segment != NULL && segment->at == channel->out_sent) {
    *count = segment->length;
    return segment->bytes;
  }
  *count = segment != NULL ? (size_t)(segment->at - channel->out_sent) : mch_buf_unread(out);
  return out->data + out->read;
}

static void drop_segment(struct mch_channel *channel) {
  mch_cargo_drop(first_segment(channel)->cargo);
  mch_buf_consume(&channel->borrowed, sizeof(struct segment));
}

/* The first `count` bytes of the next piece have gone. */
static void sent(struct mch_channel *channel, size_t count) {
  struct segment *segment = first_segment(channel);
  if (segment == NULL || segment->at != channel->out_sent) {
    mch_buf_consume(&channel->out, count);
    channel->out_sent += count;
    return;
  }
  segment->bytes += count;
  segment->length -= count;
  channel->borrowed_bytes -= count;
  if (segment->length == 0)
    drop_segment(channel);
}

void mch_channel_tear(struct mch_channel *channel, size_t count) {
  while (mch_channel_unsent(channel) > count) {
    size_t excess = mch_channel_unsent(channel) - count;
    struct segment *last = last_segment(channel);
    size_t behind =
        last != NULL ? (size_t)(channel->out_put - last->at) : mch_buf_unread(&channel->out);
    if (behind > 0) {
      size_t cut = excess < behind ? excess : behind;
      channel->out.length -= cut;
      channel->out_put -= cut;
    } else {
      size_t cut = excess < last->length ? excess : last->length;
      last->length -= cut;
      channel->borrowed_bytes -= cut;
      if (last->length == 0) {
        mch_cargo_drop(last->cargo);
        channel->borrowed.length -= sizeof *last;
      }
    }
  }
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

static void give_room_back(struct mch_channel *channel) {
  give_back(&channel->out);
  give_back(&channel->borrowed);
}

static ssize_t send_some(struct mch_channel *channel, int wait) {
  size_t count;
  const unsigned char *bytes = next_piece(channel, &count);
  errno = mch_chaos_io(channel->chaos, &count, 1);
  if (errno != 0)
    return -1;
  return mch_platform_send(channel->fd, bytes, count, wait);
}

static int flush_ring(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct mch_ring *ring = channel->ring_out;
  if (mch_channel_unsent(channel) > 0)
    mend_rings(channel);
  while (mch_channel_unsent(channel) > 0) {
    size_t count, fitted;
    const unsigned char *bytes = next_piece(channel, &count);
    int refused = mch_chaos_io(channel->chaos, &count, 1);
    if (refused == EAGAIN && !wait && mch_ring_writer_naps(ring))
      return 0;
    fitted = refused ? 0 : mch_ring_write(ring, bytes, count < RING_SLICE ? count : RING_SLICE);
    if (fitted > 0) {
      sent(channel, fitted);
      channel->ring_put += (uint32_t)fitted;
      ring_bell(channel, &ring->reader_sleeps);
    } else if (channel->ring_put - atomic_load(&ring->read) > MCH_RING_SIZE)
      return mch_error_set(error, MCH_PROTOCOL, "the other side broke the ring");
    else if (!refused && !mch_ring_writer_stays(ring)) {
      if (!wait)
        return 0;
      if (channel->fd_ended)
        return mch_error_set(error, MCH_CLOSED, "the other side of a channel has gone");
      hear(channel, 1);
    }
  }
  give_room_back(channel);
  return 0;
}

int mch_channel_flush(struct mch_channel *channel, int wait, struct mch_error *error) {
  if (channel->ring_out != NULL)
    return flush_ring(channel, wait, error);
  while (mch_channel_unsent(channel) > 0) {
    ssize_t count = send_some(channel, wait);
    if (count >= 0)
      sent(channel, (size_t)count);
    else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      if (!wait)
        return 0;
      wait_writable(channel->fd);
    } else if (errno == EPIPE || errno == ECONNRESET || errno == EBADF)
      return mch_error_set(error, MCH_CLOSED, "the other side of a channel has gone");
    else if (errno != EINTR)
      return mch_error_system(error, "cannot send to a worker");
  }
  give_room_back(channel);
  return 0;
}

/* -- reading ------------------------------------------------------------------------------ */

void mch_channel_forget(struct mch_channel *channel) {
  if (channel->in_handed > 0) {
    mch_buf_consume(&channel->in, channel->in_handed);
    channel->in_handed = 0;
  }
  free(channel->long_handed);
  channel->long_handed = NULL;
}

void *mch_channel_take(struct mch_channel *channel) {
  void *memory = channel->long_handed;
  channel->long_handed = NULL;
  return memory;
}

/* Where bytes are to be read to, and how many at most. */
struct target {
  unsigned char *to;
  size_t room;
};

/* For what has come: a channel of small messages needs little. */
static size_t some_room(const struct mch_channel *channel) {
  size_t waiting = channel->ring_in != NULL ? mch_ring_waiting(channel->ring_in) : FILL_ROOM;
  if (waiting < LEAST_ROOM)
    return LEAST_ROOM;
  return waiting < FILL_ROOM ? waiting : FILL_ROOM;
}

/* What the frame at the front of `in` lacks, and more if it is a short one; of a long message only
 * the next header, for what follows is read to its place. */
static size_t wanted(const struct mch_channel *channel) {
  const struct mch_gathering *gathering = &channel->gathering;
  size_t unread = mch_buf_unread(&channel->in), whole;
  if (channel->opened.open)
    return some_room(channel);
  if (unread >= MCH_FRAME_HEADER ? gathering->open : gathering->frame_left > 0 || !gathering->open)
    return some_room(channel);
  if (gathering->open)
    return MCH_FRAME_HEADER - unread;
  whole = MCH_FRAME_HEADER + (size_t)mch_load_u32(channel->in.data + channel->in.read);
  if (whole > MCH_FRAME_HEADER + MCH_FRAME_MAX || whole <= unread + FILL_ROOM ||
      (channel->in.data[channel->in.read + 5] & MCH_FRAME_LONG))
    return some_room(channel);
  return whole - unread;
}

/* No room: no memory. */
static struct target find_target(struct mch_channel *channel) {
  struct mch_gathering *gathering = &channel->gathering;
  struct mch_buf *in = &channel->in;
  struct target target = {gathering->bytes, gathering->frame_left};
  if (target.to != NULL && target.room > 0 && mch_buf_unread(in) == 0) {
    target.to += gathering->filled;
    return target;
  }
  target.room = wanted(channel);
  if (mch_buf_reserve(in, target.room) != 0) {
    in->failed = 0;
    target.room = 0;
    return target;
  }
  target.to = in->data + in->length;
  if (!gathering->open)
    target.room = in->capacity - in->length;
  return target;
}

/* `count` bytes have come to the target. */
static void filled(struct mch_channel *channel, const struct target *target, size_t count) {
  struct mch_gathering *gathering = &channel->gathering;
  if (gathering->bytes != NULL && target->to == gathering->bytes + gathering->filled) {
    gathering->filled += count;
    gathering->frame_left -= count;
  } else
    channel->in.length += count;
}

/* Chaos never says EAGAIN here: at the end of a stream the pool counts on reading all there is. */
static ssize_t receive_some(struct mch_channel *channel, const struct target *target, int wait) {
  size_t count = target->room;
  errno = mch_chaos_io(channel->chaos, &count, 0);
  if (errno != 0)
    return -1;
  return recv(channel->fd, target->to, count, wait ? 0 : MSG_DONTWAIT);
}

/* Sleep until the other side rings. (To look for bytes for some microseconds before made a task and
 * back slower on a virtual machine, and cost the CPU: the other side was on another core then,
 * which had to be woken.) */
static void wait_for_bell(struct mch_channel *channel) {
  if (!mch_ring_reader_stays(channel->ring_in))
    hear(channel, 1);
}

/* Whether the ring has bytes. Asked before memory is made ready for them: a channel that says
 * nothing takes none. */
static int ring_has_bytes(struct mch_channel *channel, int wait) {
  mend_rings(channel);
  while (mch_ring_waiting(channel->ring_in) == 0) {
    if (channel->fd_ended || channel->fd < 0) {
      channel->ended = 1;
      return 0;
    }
    if (!wait)
      return 0;
    wait_for_bell(channel);
  }
  return 1;
}

static ssize_t fill_from_ring(struct mch_channel *channel, const struct target *target,
                              struct mch_error *error) {
  struct mch_ring *ring = channel->ring_in;
  size_t count, got;
  if (mch_ring_waiting(ring) > MCH_RING_SIZE)
    return mch_error_set(error, MCH_PROTOCOL, "the other side broke the ring");
  do
    count = target->room < RING_SLICE ? target->room : RING_SLICE;
  while (mch_chaos_io(channel->chaos, &count, 0) != 0);
  got = mch_ring_read(ring, target->to, count);
  channel->ring_taken += (uint32_t)got;
  filled(channel, target, got);
  if (mch_ring_has_room(ring))
    ring_bell(channel, &ring->writer_sleeps);
  return (ssize_t)got;
}

ssize_t mch_channel_fill(struct mch_channel *channel, int wait, struct mch_error *error) {
  struct target target;
  ssize_t got;
  mch_channel_forget(channel);
  if (channel->ended || (channel->fd < 0 && channel->ring_in == NULL))
    return 0;
  if (channel->ring_in != NULL && !ring_has_bytes(channel, wait))
    return 0;
  target = find_target(channel);
  if (target.room == 0)
    return mch_error_set(error, MCH_NOMEM, "not enough memory to read a message");
  if (channel->ring_in != NULL)
    return fill_from_ring(channel, &target, error);
  do
    got = receive_some(channel, &target, wait);
  while (got < 0 && errno == EINTR);
  if (got > 0)
    filled(channel, &target, (size_t)got);
  else if (got == 0 || errno == ECONNRESET || errno == EPIPE)
    channel->ended = 1, got = 0;
  else if (errno == EAGAIN || errno == EWOULDBLOCK)
    got = 0;
  else
    return mch_error_system(error, "cannot read from a channel");
  return got;
}

/* -- messages ----------------------------------------------------------------------------- */

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
  if (!known_type(at[4]) || (at[5] & ~(MCH_FRAME_MORE | MCH_FRAME_LONG | MCH_FRAME_OPEN)) != 0)
    return broken(error, "a frame of an unknown type");
  if ((at[4] == MCH_MESSAGE_ITEMS) != ((at[5] & MCH_FRAME_OPEN) != 0) ||
      (at[4] == MCH_MESSAGE_ITEMS && (at[5] != MCH_FRAME_OPEN || mch_load_u32(at) != 0)))
    return broken(error, "an open frame of another type");
  if (mch_load_u32(at + 8) != channel->sequence_in)
    return broken(error, "a frame is out of sequence");
  head->type = at[4];
  head->attempt = mch_load_u16(at + 6);
  head->ticket = mch_load_u32(at + 12);
  head->runid = mch_load_u64(at + 16);
  if (channel->gathering.open &&
      (head->type != channel->gathering.head.type || head->runid != channel->gathering.head.runid))
    return broken(error, "a message was interrupted by another");
  /* The first of several frames says so, and no other. */
  if (((at[5] & MCH_FRAME_LONG) != 0) != (!channel->gathering.open && (at[5] & MCH_FRAME_MORE)))
    return broken(error, "a message has no beginning");
  return 0;
}

/* Without memory for it, the bytes of a message are passed over. */
static void lose(struct mch_gathering *gathering) {
  size_t kept = gathering->filled < MCH_LOST_KEPT ? gathering->filled : MCH_LOST_KEPT;
  if (kept > 0)
    memcpy(gathering->kept, gathering->bytes, kept);
  free(gathering->bytes);
  gathering->bytes = NULL;
  gathering->lost = 1;
}

/* Make room for `count` bytes more: all that the message says it needs, but much only when as much
 * has come. */
static void make_place(struct mch_gathering *gathering, size_t count, size_t trusted) {
  size_t least = gathering->filled + count, room = gathering->room * 2;
  unsigned char *bytes;
  if (gathering->lost || least <= gathering->room)
    return;
  if (room < trusted)
    room = trusted;
  if (room < least)
    room = least;
  if (room > gathering->size)
    room = gathering->size;
  bytes = realloc(gathering->bytes, room);
  if (bytes == NULL) {
    lose(gathering);
    return;
  }
  gathering->bytes = bytes;
  mch_platform_use_large_pages(bytes + gathering->room, room - gathering->room);
  gathering->room = room;
}

static void open_gathering(struct mch_gathering *gathering, const struct mch_message_head *head,
                           size_t size) {
  memset(gathering, 0, sizeof *gathering);
  gathering->open = 1;
  gathering->head = *head;
  gathering->size = size;
}

/* Take a frame of a long message off `in` as far as it has come; the rest is read to its place. */
static void gather(struct mch_channel *channel) {
  struct mch_gathering *gathering = &channel->gathering;
  struct mch_buf *in = &channel->in;
  size_t here = mch_buf_unread(in), kept = 0;
  if (here > gathering->frame_left)
    here = gathering->frame_left;
  if (!gathering->lost && here > 0)
    memcpy(gathering->bytes + gathering->filled, in->data + in->read, here);
  else if (gathering->filled < MCH_LOST_KEPT) {
    kept = MCH_LOST_KEPT - gathering->filled < here ? MCH_LOST_KEPT - gathering->filled : here;
    memcpy(gathering->kept + gathering->filled, in->data + in->read, kept);
  }
  gathering->filled += here;
  gathering->frame_left -= here;
  mch_buf_consume(in, here);
}

/* Begin a frame of a long message, whose header is at the front of `in`. 1, 0: more bytes are
 * needed, or MCH_PROTOCOL. */
static int begin_gathering(struct mch_channel *channel, const struct mch_message_head *head,
                           struct mch_error *error) {
  struct mch_gathering *gathering = &channel->gathering;
  const unsigned char *at = channel->in.data + channel->in.read;
  size_t length = mch_load_u32(at), front = MCH_FRAME_HEADER;
  int last = (at[5] & MCH_FRAME_MORE) == 0;
  if (!gathering->open) {
    if (length < 8)
      return broken(error, "a message has no length");
    if (mch_buf_unread(&channel->in) < MCH_FRAME_HEADER + 8)
      return 0;
    front += 8;
    length -= 8;
    if (mch_load_u64(at + MCH_FRAME_HEADER) > PTRDIFF_MAX)
      return broken(error, "a message is too long");
    open_gathering(gathering, head, (size_t)mch_load_u64(at + MCH_FRAME_HEADER));
  }
  if (last ? length != gathering->size - gathering->filled
           : length > gathering->size - gathering->filled)
    return broken(error, "a message is not as long as it says");
  make_place(gathering, length, channel->trusted);
  gathering->frame_left = length;
  gathering->last = last;
  channel->sequence_in++;
  mch_buf_consume(&channel->in, front);
  return 1;
}

static void hand_out_long(struct mch_channel *channel, struct mch_message_in *message) {
  struct mch_gathering *gathering = &channel->gathering;
  message->head = gathering->head;
  message->records = message->records_before = 0;
  message->lost = gathering->lost;
  message->body = gathering->bytes != NULL ? gathering->bytes : gathering->kept;
  message->length =
      message->lost && gathering->size > MCH_LOST_KEPT ? MCH_LOST_KEPT : gathering->size;
  channel->long_handed = gathering->bytes;
  gathering->open = 0;
  gathering->bytes = NULL;
}

static void hand_out(struct mch_channel *channel, const struct mch_message_head *head,
                     struct mch_message_in *message) {
  const unsigned char *at = channel->in.data + channel->in.read;
  channel->sequence_in++;
  message->head = *head;
  message->lost = 0;
  message->records = message->records_before = 0;
  message->body = at + MCH_FRAME_HEADER;
  message->length = mch_load_u32(at);
  channel->in_handed = MCH_FRAME_HEADER + message->length;
}

static void open_message(struct mch_channel *channel, const struct mch_message_head *head) {
  channel->opened.open = 1;
  channel->opened.head = *head;
  channel->opened.handed = 0;
  channel->sequence_in++;
  mch_buf_consume(&channel->in, MCH_FRAME_HEADER);
}

/* Hand out the records of the open message that are whole: 1; 0: there are none, and the message
 * has ended unless it is open still. */
static int hand_out_records(struct mch_channel *channel, struct mch_message_in *message,
                            struct mch_error *error) {
  struct mch_opened *opened = &channel->opened;
  const unsigned char *start = channel->in.data + channel->in.read, *at = start;
  const unsigned char *end = channel->in.data + channel->in.length;
  message->records = 0;
  for (; at < end && *at != 0; at += 1 + *at) {
    if (*at > MCH_RECORD_MAX)
      return broken(error, "a record is too long");
    if ((size_t)(end - at) <= *at)
      break;
    message->records++;
  }
  message->head = opened->head;
  message->lost = 0;
  message->records_before = opened->handed;
  message->body = start;
  message->length = (size_t)(at - start);
  opened->handed += message->records;
  if (at < end && *at == 0) {
    opened->open = 0;
    at++;
  }
  channel->in_handed = (size_t)(at - start);
  return message->records > 0;
}

int mch_channel_next(struct mch_channel *channel, struct mch_message_in *message,
                     struct mch_error *error) {
  struct mch_gathering *gathering = &channel->gathering;
  struct mch_buf *in = &channel->in;
  mch_channel_forget(channel);
  for (;;) {
    struct mch_message_head head;
    int code;
    if (channel->opened.open) {
      if ((code = hand_out_records(channel, message, error)) != 0 || channel->opened.open)
        return code;
      mch_channel_forget(channel);
    }
    if (gathering->open && gathering->frame_left > 0) {
      gather(channel);
      if (gathering->frame_left > 0)
        return 0;
    }
    if (gathering->open && gathering->last) {
      hand_out_long(channel, message);
      return 1;
    }
    if (mch_buf_unread(in) < MCH_FRAME_HEADER)
      return 0;
    if ((code = check_header(channel, in->data + in->read, &head, error)) != 0)
      return code;
    if (head.type == MCH_MESSAGE_ITEMS) {
      open_message(channel, &head);
      continue;
    }
    if (!gathering->open && (in->data[in->read + 5] & MCH_FRAME_LONG) == 0) {
      if (mch_buf_unread(in) - MCH_FRAME_HEADER < mch_load_u32(in->data + in->read))
        return 0;
      hand_out(channel, &head, message);
      return 1;
    }
    if ((code = begin_gathering(channel, &head, error)) != 1)
      return code;
  }
}

/* -- the end ------------------------------------------------------------------------------ */

void mch_channel_close(struct mch_channel *channel) {
  if (channel->fd >= 0)
    close(channel->fd);
  channel->fd = -1;
  while (first_segment(channel) != NULL)
    drop_segment(channel);
  channel->borrowed_bytes = 0;
  mch_channel_forget(channel);
  mch_buf_free(&channel->out);
  mch_buf_free(&channel->borrowed);
  mch_buf_free(&channel->in);
  free(channel->gathering.bytes);
  memset(&channel->gathering, 0, sizeof channel->gathering);
}
