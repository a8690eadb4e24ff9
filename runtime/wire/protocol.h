/* Runs in: both.
 *
 * The wire: all that a pool and its workers say to each other. Nothing else crosses but a few pages
 * of shared memory (struct mch_shared, below: counters, and the rings that carry the streams) and
 * the bytes of the task's own stdout and stderr.
 *
 * The story of a task
 *
 *     pool                                             worker
 *      | ------- CODE id: bytecode (once per worker) ---> |
 *      | ------- TASK runid, ticket: name, graph -------> |  waits its turn in the stream
 *      |          (BATCH: a function and many items)      |
 *      |                                                  |  claim[ticket]: OFFERED -> TAKEN
 *      | <------ STARTED -------------------------------- |  if the page says that somebody listens
 *      | <------ LOG, BAR_START, BAR_END, EMITTED ------- |  while it runs; bars count in the page
 *      | <------ ITEM number: answer -------------------- |  each item of a batch,
 *      | <------ ITEMS: answer, answer, ... ------------- |  or short ones in a row
 *      | <------ EARLY runid: piece of a large table ---- |  while what remains is encoded
 *      | <------ RESULT runid: facts, graph ------------- |  always its last word
 *      |                                                  |
 *      |  claim[ticket]: OFFERED -> REVOKED               |  taken back: it never starts, the
 *      |                                                  |  worker passes over its frame
 *      | ------- QUIT ----------------------------------> |  leaves when that before is done
 *
 * Rules
 *  - One ordered stream per worker and direction. What a task says comes before its RESULT, so a
 *    result needs no waiting and no guessing: when it is read, all else has been read.
 *  - A batch is many tasks with run IDs that follow each other, offered by one ticket. The worker
 *    begins its items one by one, each by an exchange on the page's word `items`; the pool takes
 *    back those at the end that have not begun by lowering the limit in it. Each item is answered
 *    before the next begins, so that a death loses the one that ran and no other.
 *  - After the answer of a task or item that is CAREFUL, and failed or was to stop, its worker
 * begins nothing before the pool says (`heard`, in the page) that it has drawn its conclusions:
 * what it takes back because of that failure has then not begun.
 *  - A worker that goes says EXIT first when it can (os.exit, exit); else its end is the end of its
 *    stream, and the claims say which task it was running.
 *  - A message longer than MCH_FRAME_MAX travels as several frames with the same type and run ID,
 *    all but the last flagged MORE, nothing between them. The first is flagged LONG as well: its
 *    payload begins with the length of the message, u64. The sequence number counts frames per
 *    direction, from 0; a gap is a broken peer.
 *  - ITEMS has no end when it begins: its only frame is flagged OPEN and has length 0. Records come
 *    behind it, u8 length (1 to MCH_RECORD_MAX) and so many bytes, each as it is made, to be used
 *    as it comes; a u8 0 ends it, when something else is to be said.
 *  - Numbers are little-endian and of fixed width.
 *  - A worker that was never asked for anything may be sent away by the end of the stream alone.
 *  - The first frame of a worker is HELLO: version and the Lua format it speaks. A worker forked
 *    here cannot differ; one on another machine can, and is refused.
 *
 * Frame
 *
 *     0      4     5      6        8          12       16        24
 *     +------+-----+------+--------+----------+--------+---------+--------- - -
 *     |length|type |flags |attempt | sequence | ticket | run ID  | payload
 *     | u32  | u8  | u8   | u16    | u32      | u32    | u64     | length bytes
 *     +------+-----+------+--------+----------+--------+---------+--------- - -
 *
 * Bump MCH_PROTOCOL_VERSION with any change to the above or to a payload below.                  */
#ifndef MCH_PROTOCOL_H
#define MCH_PROTOCOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/show/progress.h"
#include "ring.h"

#define MCH_PROTOCOL_VERSION 6u

#define MCH_FRAME_HEADER 24u
#define MCH_FRAME_MAX (1u << 20) /* payload bytes in one frame */
#define MCH_NAME_MAX 256u        /* bytes of a task's name */
#define MCH_FRAME_MORE 1u
#define MCH_FRAME_LONG 2u
#define MCH_FRAME_OPEN 4u
#define MCH_RECORD_MAX 254u /* bytes of one record of an open message */

/* name, code, direction, payload.
 * Directions: D down (pool to worker), U up (worker to pool). */
#define MCH_MESSAGES(X)                                                                            \
  X(HELLO, 1, U, "u32 version, u32 pid, Lua format bytes")                                         \
  X(CODE, 2, D, "bytecode, or nothing: it is not needed any more; the run ID field holds its id")  \
  X(TASK, 3, D, "u8 options, u64 stream if it has one, u16 name length, name, graph")              \
  X(QUIT, 4, D, "nothing")                                                                         \
  X(RESULT, 5, U, "facts (facts.h), graph")                                                        \
  X(LOG, 6, U, "graph of one record")                                                              \
  X(BAR_START, 7, U, "u64 bar, u64 total, u32 slot, u8 unit, u8 leave, name")                      \
  X(BAR_UPDATE, 8, U, "u64 bar, u64 done, u64 total")                                              \
  X(BAR_END, 9, U, "u64 bar, u64 done, u64 total, u8 how, u64 stdout, u64 stderr position")        \
  X(EXIT, 10, U, "u32 status")                                                                     \
  X(BATCH, 11, D,                                                                                  \
    "u8 options, u32 count, u32 length of a graph, the function's, items: u32, graph")             \
  X(ITEM, 12, U, "u32 number, facts; or u8 MCH_ITEM_OK; graph")                                    \
  X(ITEMS, 13, U, "graphs of OK items from the one with this run ID on, as records")               \
  X(EARLY, 14, U, "a piece of what the graph of RESULT refers to; void if that is not OK")         \
  X(STARTED, 15, U, "u64 when; of a batch: the item with this run ID. Only if somebody listens")   \
  X(EMITTED, 16, U, "graph of the values; see orders.accepted")                                    \
  X(BAR_NAME, 24, U, "u64 bar, name")

enum mch_message {
#define MCH_MESSAGE_CODE(name, code, direction, payload) MCH_MESSAGE_##name = code,
  MCH_MESSAGES(MCH_MESSAGE_CODE)
#undef MCH_MESSAGE_CODE
};

/* Options of TASK and BATCH. */
enum mch_task_option {
  MCH_OPTION_CAREFUL = 1, /* a failure may be the end of others */
  MCH_OPTION_STREAM = 2   /* its random stream is not that of its run ID */
};

/* How a task ended. The first three are a worker's own words in RESULT, the others the pool's. */
#define MCH_KINDS(X)                                                                               \
  X(OK, "ok")                                                                                      \
  X(ERROR, "error")                                                                                \
  X(UNSENDABLE, "unsendable")                                                                      \
  X(EXITED, "exited")                                                                              \
  X(KILLED, "killed")                                                                              \
  X(TIMEOUT, "timeout")                                                                            \
  X(CANCELLED, "cancelled")

enum mch_kind {
#define MCH_KIND_CODE(name, word) MCH_KIND_##name,
  MCH_KINDS(MCH_KIND_CODE)
#undef MCH_KIND_CODE
      MCH_KIND_COUNT
};

#define MCH_BAR_START_SIZE 22u /* without the name */
#define MCH_BAR_END_SIZE 41u

/* In the place of an item's facts: it is OK and has written nothing. Most are so. */
#define MCH_ITEM_OK 0xffu

/* Bytes of EMITTED of one worker that wait for the pool's owner at most, or one message. */
#define MCH_EMITTED_MOST (4u << 20)

/* -- the shared page ---------------------------------------------------------------------- */

/* A claim is (ticket << 2 | state). Tickets count the tasks offered to one worker, from 1. Both
 * sides move it from OFFERED by compare-and-swap, so exactly one wins. */
enum mch_claim { MCH_CLAIM_OFFERED = 1, MCH_CLAIM_TAKEN = 2, MCH_CLAIM_REVOKED = 3 };
#define MCH_CLAIMS 256u /* tasks offered to one worker at once, at most */
#define MCH_BARS 64u    /* bars of one worker with a slot; more are told by BAR_UPDATE */

#define MCH_BATCH_MOST 0xffffu /* items of a batch */

/* What `heard` is when so many items of a batch are dealt with; MCH_HEARD_ALL: all, or a task. */
#define MCH_HEARD_ALL UINT32_MAX
static inline uint64_t mch_heard_word(uint32_t ticket, uint32_t items) {
  return (uint64_t)ticket << 32 | items;
}

/* Ticket, the number of the first item that is not the worker's, and of the next one to begin. The
 * word is set before the batch is claimed: while the claim is TAKEN it is that of the batch, or of
 * a later one. */
static inline uint64_t mch_items_word(uint32_t ticket, uint32_t limit, uint32_t next) {
  return (uint64_t)ticket << 32 | (uint64_t)limit << 16 | next;
}
static inline uint32_t mch_items_ticket(uint64_t word) {
  return (uint32_t)(word >> 32);
}
static inline uint32_t mch_items_limit(uint64_t word) {
  return (uint32_t)(word >> 16) & 0xffffu;
}
static inline uint32_t mch_items_next(uint64_t word) {
  return (uint32_t)word & 0xffffu;
}

/* What the pool says, in memory that a worker can read only. It lies in the page too, so that what
 * was taken back stays so when a task writes over what both sides write: a worker asks here before
 * it begins what it has claimed. */
struct mch_orders {
  _Atomic uint32_t revoked[MCH_CLAIMS]; /* tickets that were taken back: [t % MCH_CLAIMS] */
  _Atomic uint64_t limit;        /* ticket << 32 | first item that was taken back of a batch */
  _Atomic uint32_t stop;         /* ticket of the task that shall stop; 0: none */
  _Atomic uint32_t insist;       /* likewise, when it is told once more */
  _Atomic uint64_t heard;        /* ticket << 32 | items, of the last answer that was dealt with */
  _Atomic int32_t log_threshold; /* records below this level need not be sent */
  _Atomic uint32_t listening;    /* somebody wants to know when each task begins, and all facts */
  _Atomic uint64_t accepted;   /* bytes of EMITTED that do not wait for the pool's owner any more */
  _Atomic uint32_t reading[2]; /* odd while the pool takes bytes from that pipe */
  _Atomic uint64_t consumed[2]; /* bytes taken from stdout's and stderr's pipe */
};

/* A task may write over all that its worker can write, by accident or not. So the pool believes
 * nothing of it that it cannot check, and of what it can check the least:
 *
 *     claims         OFFERED or TAKEN of the very ticket that was offered, or the page is damaged;
 *                    the pool has its own list of tickets and looks at no others
 *     items          ticket and limit as the pool itself set them, the next one between its answers
 *                    and the limit
 *     passed         between what it was and the last ticket given out
 *     running_since  not later than now, nor before the worker was there
 *     preparing_since  not later than now
 *     leaving_since  it cannot put off its end by it for long
 *     oom_count      only words depend on it
 *     bars           any numbers may be drawn
 *     up, down       at most MCH_RING_SIZE bytes wait; frames are in sequence (channel.c), and
 *                    answer the oldest ticket (engine_fork.c)
 *
 * A worker that is found to break this is killed. What it had begun is then told by the mark
 * (below), which cannot be written over. */
struct mch_shared {
  _Atomic uint64_t claims[MCH_CLAIMS]; /* of ticket t: [t % MCH_CLAIMS] */
  _Atomic uint64_t items;              /* of the batch that runs: see mch_items_word() */
  _Atomic uint32_t passed;             /* worker: last ticket taken off the stream */
  _Atomic uint64_t running_since;      /* worker: mch_now() before a task or item is begun */
  _Atomic uint64_t preparing_since;   /* worker: mch_now() before `init`; MCH_NEVER: that is over */
  _Atomic uint64_t leaving_since;     /* worker: mch_now() before `fini`; 0: it has not begun */
  _Atomic uint64_t oom_count;         /* worker: mch_platform_oom_count() before its first task */
  struct mch_bar_slot bars[MCH_BARS]; /* worker: what bars count */
  char pad[MCH_PAGE_MAX - MCH_CLAIMS * 8 - 48 - MCH_BARS * sizeof(struct mch_bar_slot)];
  struct mch_ring up, down; /* the two streams, while both processes are on one machine */
  /* from down.bytes on the worker can only read */
  struct mch_orders orders;
};
_Static_assert(offsetof(struct mch_shared, down.bytes) % MCH_PAGE_MAX == 0,
               "what a worker cannot write begins with a page");

/* -- the mark ----------------------------------------------------------------------------- */

/* What a worker has begun stands outside of all memory as well: in the position of an open file
 * (mch_platform_mark_open) that both processes hold. It outlives the worker, and no write moves it.
 *
 *     bit 62: the worker found its page or its stream broken, and ended itself
 *     bit 61: of a batch it has begun exactly the items below that number
 *     bits 16 to 47: the last ticket that it began
 *     bits 0 to 15: of a batch the first item that it cannot have begun */
#define MCH_BEGUN_BROKEN ((uint64_t)1 << 62)
#define MCH_BEGUN_EXACT ((uint64_t)1 << 61)
#define MCH_ITEMS_RESERVED 16u /* a worker with items that last no time notes so many at once */

static inline uint64_t mch_begun_word(uint32_t ticket, uint32_t bound) {
  return (uint64_t)ticket << 16 | bound;
}
static inline uint32_t mch_begun_ticket(uint64_t word) {
  return (uint32_t)(word >> 16);
}
static inline uint32_t mch_begun_bound(uint64_t word) {
  return (uint32_t)word & 0xffffu;
}

#endif
