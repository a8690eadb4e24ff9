/* Runs in: both.
 *
 * The wire between two machines, below what the engine and the supervisor say to each other.
 *
 *     the script's machine                               the other machine
 *     script -- helper -- carrier (ssh, a command, a broker) -- helper -- supervisor -- workers
 *
 * The machine speaks first, so that nothing is written to a program that is not ours: MCH_PREAMBLE,
 * before which a greeting may stand, and HELLO. The script's side answers by HELLO. From then on
 * both send DATA, which carries the messages of the ends, BEAT at short intervals, TAKEN when the
 * other may send more, and BYE when they leave in an orderly way. Between an end and its helper the
 * same frames go over a socket, DATA and BYE as they are, and NOTE from the helper to its end.
 *
 * A frame, all numbers little-endian:
 *
 *     0  u8   MCH_FRAME_MARK
 *     1  u8   kind
 *     2  u8   DATA: the message's type; NOTE: enum mch_note; else 0
 *     3  u8   DATA: MCH_FRAME_FIRST, MCH_FRAME_LAST; else 0
 *     4  u32  length of what follows the head
 *     8  u64  DATA with MCH_FRAME_FIRST: length of the whole message; else 0
 *
 * The frames of one message follow each other, with others than DATA between them. */
#ifndef MCH_FRAME_H
#define MCH_FRAME_H

#include <stddef.h>
#include <stdint.h>

/* Counts on with every change to this file that the other side must know. */
enum { MCH_LINK_VERSION = 1 };

#define MCH_PREAMBLE "\033[mantichora\0link\n"
enum { MCH_PREAMBLE_SIZE = sizeof MCH_PREAMBLE - 1 };

enum {
  MCH_FRAME_MARK = 0xb7,
  MCH_FRAME_HEAD = 16,
  MCH_FRAME_MOST = 64 * 1024, /* bytes behind a head */
  MCH_FRAME_ROOM = MCH_FRAME_HEAD + MCH_FRAME_MOST,
  MCH_FRAME_TEXT = 12 * 1024 /* of a sentence: BYE, NOTE */
};

/* What may be sent and not yet taken by the other end, in bytes of DATA with their heads. */
enum { MCH_LINK_WINDOW = 4 * 1024 * 1024 };

enum mch_frame_kind {
  MCH_FRAME_HELLO = 1, /* u32 version, u32 0, u64 lease (from the machine: 0) */
  MCH_FRAME_DATA,
  MCH_FRAME_BEAT,  /* u64 stamp, u64 the last stamp that came (0: none), u64 how long ago it came */
  MCH_FRAME_TAKEN, /* u64 bytes of DATA frames that its end has taken so far */
  MCH_FRAME_BYE,   /* text: nothing of this side runs any more; no frame follows */
  MCH_FRAME_NOTE   /* see enum mch_note */
};
enum { MCH_FRAME_FIRST = 1, MCH_FRAME_LAST = 2 };

/* What a helper tells its end. */
enum mch_note {
  MCH_NOTE_UP = 1, /* text: what was said before */
  MCH_NOTE_SILENT, /* half of the lease */
  MCH_NOTE_AGAIN,  /* it was heard again */
  MCH_NOTE_SAID,   /* text that the carrier has said since, a piece */
  MCH_NOTE_LEASE,  /* u64 time of mch_process_clock() until which a supervisor may live */
  MCH_NOTE_SLOTS,  /* u32 */
  MCH_NOTE_ROOM,   /* what did not fit into the socket may be tried again */
  MCH_NOTE_LEAVE,  /* to a supervisor: the script wants no more of it */
  MCH_NOTE_LOST    /* u8 enum mch_lost_how, u64 when it was heard last, text */
};
enum mch_lost_how {
  MCH_LOST_REFUSED = 1, /* it never came up: nothing runs there */
  MCH_LOST_PROVEN,      /* it has said that nothing runs there any more */
  MCH_LOST_BROKEN,      /* its connection broke: it knows */
  MCH_LOST_UNKNOWN      /* it may not know yet that it is lost */
};

struct mch_frame {
  uint8_t kind, type, flags;
  uint32_t length;
  uint64_t total;
};

/* Read a head from `count` bytes. 1: here it is. 0: it takes more bytes. -1: this is none. */
int mch_frame_read(const unsigned char *bytes, size_t count, struct mch_frame *frame);
void mch_frame_write(unsigned char head[MCH_FRAME_HEAD], const struct mch_frame *frame);

/* Whether DATA frames follow each other as they must; zeroed at the begin. */
struct mch_frame_order {
  int open; /* a message has begun */
  uint8_t type;
  uint64_t left; /* bytes of it that are to come */
};
/* 0, or -1: this frame may not come here. */
int mch_frame_follow(struct mch_frame_order *order, const struct mch_frame *frame);

/* Read the frame at the begin of `count` bytes, if it stands there whole: what follows its head may
 * be looked at then. 1, 0 or -1 as by mch_frame_read(); -1 also when it may not come here. */
int mch_frame_next(struct mch_frame_order *order, const unsigned char *bytes, size_t count,
                   struct mch_frame *frame);

/* Look for the preamble in a greeting: its place, or `count` if it is not there whole. */
size_t mch_frame_find_preamble(const unsigned char *bytes, size_t count);

#endif
