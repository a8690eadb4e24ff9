/* Runs in: both.
 *
 * Whole messages over one descriptor, or over a pair of rings (ring.h) with the descriptor as bell.
 * Writing queues frames and sends what the descriptor takes; reading hands out messages that are
 * complete. Knows frames (protocol.h), not what they mean. */
#ifndef MCH_CHANNEL_H
#define MCH_CHANNEL_H

#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/buf.h"
#include "cargo.h"
#include "runtime/base/chaos.h"
#include "runtime/base/error.h"
#include "ring.h"

struct mch_message_head {
  uint8_t type;
  uint16_t attempt;
  uint32_t ticket;
  uint64_t runid;
};

/* A whole message; `body` points into the channel and lives until the next call on it. */
struct mch_message_in {
  struct mch_message_head head;
  const unsigned char *body;
  size_t length;
  int lost; /* it was long, and there was no memory for it: only the beginning is there */
  /* An open one is handed out as it comes: so many of its records are here, so many were before. */
  uint32_t records, records_before;
};

/* The beginning of a long message that is kept when there is no memory for all of it. */
enum { MCH_LOST_KEPT = 64 };

/* A long message, that is one of several frames, while it comes. */
struct mch_gathering {
  int open;
  struct mch_message_head head;
  unsigned char *bytes;
  size_t size, room, filled;
  size_t frame_left; /* of the frame that is coming */
  int last;          /* which is the last one */
  int lost;          /* no memory: what comes goes into `kept` and is forgotten */
  unsigned char kept[MCH_LOST_KEPT];
};

/* An open message, while it comes. */
struct mch_opened {
  int open;
  struct mch_message_head head;
  uint32_t handed; /* records so far */
};

struct mch_channel {
  int fd; /* -1: closed */
  struct mch_buf out;
  struct mch_buf borrowed;    /* struct segment: what goes out from where it is */
  uint64_t out_put, out_sent; /* bytes that ever went into `out`, and out of it */
  size_t borrowed_bytes;      /* unsent */
  struct mch_buf in;
  struct mch_gathering gathering;
  struct mch_opened opened;
  int opened_out;    /* the last message that went out is open */
  size_t trusted;    /* for a message that says it is so long, room is made before its bytes come */
  void *long_handed; /* a long message was handed out: free it at the next call */
  size_t in_handed;  /* bytes of `in` handed out: consume them at the next call */
  uint32_t sequence_out, sequence_in;
  struct mch_ring *ring_in, *ring_out; /* NULL: all goes over the descriptor */
  /* What this side says in them. The other side could write over it, and a task of a worker over
   * what its worker says; it is believed here only. */
  uint32_t ring_taken, ring_put;
  int fd_ended;            /* with rings: the other side will ring no more */
  int ended;               /* the other side will send no more */
  struct mch_chaos *chaos; /* NULL: off */
};

/* Take over `fd` (mch_channel_close() closes it). */
void mch_channel_open(struct mch_channel *channel, int fd);
void mch_channel_close(struct mch_channel *channel);

/* Let the bytes go through shared memory; the descriptor then carries bells only. To be called
 * before anything else. */
void mch_channel_use_rings(struct mch_channel *channel, struct mch_ring *in, struct mch_ring *out);

/* With rings, when the descriptor is readable: take the bells. */
void mch_channel_hear(struct mch_channel *channel);

/* With rings: ring although the other side has not said that it sleeps, if it has not read all. */
void mch_channel_ring(struct mch_channel *channel);

/* With rings: whether there are bytes to be read. */
static inline int mch_channel_waiting(const struct mch_channel *channel) {
  return channel->ring_in != NULL &&
         atomic_load_explicit(&channel->ring_in->written, memory_order_acquire) !=
             channel->ring_taken;
}

/* With rings: whether they say what this side has said, and can be right about the other. */
int mch_channel_is_whole(const struct mch_channel *channel);

/* With rings, before a sleep: there are bytes to be read (1), or the other side has been told to
 * ring (0). */
int mch_channel_stays_awake(struct mch_channel *channel);

/* Queue one message; it is split into frames as needed. MCH_NOMEM: nothing was queued. */
int mch_channel_put(struct mch_channel *channel, const struct mch_message_head *head,
                    const void *body, size_t length, struct mch_error *error);
/* Queue one message with a body of two parts, one behind the other. */
int mch_channel_put2(struct mch_channel *channel, const struct mch_message_head *head,
                     const void *first, size_t first_length, const void *second,
                     size_t second_length, struct mch_error *error);

/* Queue one message whose second part may be large: then it is written from where it is, which must
 * last until all is sent. `cargo`, which is held so long, sees to that; NULL: the caller does. */
int mch_channel_put_body(struct mch_channel *channel, const struct mch_message_head *head,
                         const void *first, size_t first_length, const struct mch_body *body,
                         struct mch_cargo *cargo, struct mch_error *error);

/* Add a record, of 1 to MCH_RECORD_MAX bytes, to the open message of this head, which begins here
 * if none is open; the next message that is put ends it. Through a ring it goes out at once, if it
 * can; else it is queued. */
int mch_channel_put_record(struct mch_channel *channel, const struct mch_message_head *head,
                           const void *record, size_t length, struct mch_error *error);

/* Send what is queued. `wait` = 0: as much as the descriptor takes now; else all, blocking.
 * 0 (also when some is left: see mch_channel_unsent), MCH_CLOSED or MCH_SYSTEM. */
int mch_channel_flush(struct mch_channel *channel, int wait, struct mch_error *error);
size_t mch_channel_unsent(const struct mch_channel *channel);

/* Chaos: forget all that is queued but its first `count` bytes. */
void mch_channel_tear(struct mch_channel *channel, size_t count);

/* Read once what has come. `wait` = 0: never blocks. Number of bytes, 0 when there is nothing now
 * or the stream has ended (`ended` tells), or a negative code. */
ssize_t mch_channel_fill(struct mch_channel *channel, int wait, struct mch_error *error);

/* The next whole message: 1 (filled), 0 (more bytes are needed), or MCH_PROTOCOL. */
int mch_channel_next(struct mch_channel *channel, struct mch_message_in *message,
                     struct mch_error *error);

/* The memory in which the body of the last message is, the caller's to free() from now on. NULL:
 * the channel needs it itself, the body is to be copied. */
void *mch_channel_take(struct mch_channel *channel);

/* Forget the last message now. */
void mch_channel_forget(struct mch_channel *channel);

#endif
