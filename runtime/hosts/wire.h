/* Runs in: both.
 *
 * What a pool and the supervisor of another machine say to each other, over a link that brings
 * messages whole, in order and once (link.h). It has a version of its own.
 *
 * The story of a task
 *
 *     pool                                             supervisor
 *      | ------- CONFIG: limits, init, fini ------------> |  sets itself up
 *      | <------ HELLO: versions, format, host ---------- |  (its first word, before CONFIG)
 *      | <------ START: slots --------------------------- |
 *      | ------- CODE id: bytecode, once a machine -----> |
 *      | ------- TASK ticket [granted] (BODY) ----------> |  waits, unless it is granted
 *      |          (BATCH: a function and many items)      |
 *      | ------- GRANT tickets -------------------------> |  from here on it may begin
 *      | <------ NEED: a Lua module ---------------------- |
 *      | ------- MODULE: its source ---------------------> |
 *      | <------ BEGAN, LOG, LINES, BAR_*, EMITTED ------ |
 *      | <------ AHEAD: piece of a large table ---------- |
 *      | <------ ANSWERED, FAILED ----------------------- |  items of a batch, in their order
 *      | <------ FINISHED ticket, OVER ticket ----------- |  the last word
 *      |                                                  |
 *      | ------- STOP ticket, STOP_ITEM ----------------> |
 *      | ------- RECALL ticket -------------------------> |
 *      | <------ RETURNED ticket, SPLIT ----------------- |  it never began
 *      | ------- QUIT ----------------------------------> |
 *      | <------ GONE ----------------------------------- |
 *
 * Rules
 *  - A ticket counts what was sent to this machine, from 1. Only what was granted may begin: so
 *    what was not has provably not begun when the machine is lost.
 *  - What a supervisor splits off a batch for a worker of its own with nothing to do is a part: it
 *    goes on there at once, by a ticket that the supervisor gives (PART), before all that was
 *    granted later. What was recalled comes back.
 *  - A name and a number are bounded before they are used; a message that has not exactly its
 *    fields ends the connection.
 *  - A BODY of middling size is kept on both sides, and a later one may be told as SAME, and kept,
 *    too, if much of it differs (kept.h).
 *  - Numbers are little-endian and of fixed width. Times are ages, in nanoseconds before the
 *    message was made: clocks of different machines are never compared.
 *
 * Bump MCH_HOSTS_VERSION with any change to the above or to a payload below.                     */
#ifndef MCH_HOSTS_WIRE_H
#define MCH_HOSTS_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/task.h"

#define MCH_HOSTS_VERSION 3u
#define MCH_HOSTS_WINDOW 4096u     /* tickets of one machine that are open at once, at most */
#define MCH_HOSTS_PART 0x80000000u /* a ticket that the supervisor gave */
/* Of tickets; the second half for those of parts. */
#define MCH_HOSTS_PLACES (2 * MCH_HOSTS_WINDOW)
#define MCH_HOSTS_NAME 255u /* bytes of a host's name */
#define MCH_HOSTS_SLOTS 4096u
#define MCH_HOSTS_NO_RECORD 0xffu /* no graph of a record begins so */

/* name, code, direction, payload. `facts` is struct mch_hosts_facts. */
#define MCH_HOSTS_MESSAGES(X)                                                                      \
  X(CONFIG, 1, D, "struct mch_hosts_config")                                                       \
  X(CODE, 2, D, "u32 id, bytes; none: it is not needed any more")                                  \
  X(MODULE, 4, D, "u32 request, u8 kind, u16 length, chunk's name, source")                        \
  X(TASK, 5, D, "struct mch_hosts_task, graph")                                                    \
  X(BATCH, 6, D, "struct mch_hosts_task, u32 count, u32 function, u64 index, graph")               \
  X(BODY, 7, D, "the graph of the TASK or BATCH before, which has none")                           \
  X(GRANT, 8, D, "u32 ticket, ...")                                                                \
  X(STOP, 9, D, "u32 ticket, u8 kind")                                                             \
  X(RECALL, 10, D, "u32 ticket, u32 number: a task; of a batch the items from there on")           \
  X(LEVEL, 11, D, "u32 log level, u8 listening, u32 slots")                                        \
  X(HEARD, 12, D, "nothing: of all failures so far the conclusions were drawn")                    \
  X(ACCEPT, 13, D, "u32 pid, u64 bytes of EMITTED")                                                \
  X(QUIT, 14, D, "u8 kill")                                                                        \
  X(PING, 15, D, "u64 time")                                                                       \
  X(SAME, 16, D, "as BODY, by one kept (kept.h): u8 place, u32 first, u32 last, what is between")  \
  X(STOP_ITEM, 17, D, "u64 run ID: of an item of a granted batch")                                 \
  X(HELLO, 32, U, "struct mch_hosts_hello")                                                        \
  X(START, 33, U, "u32 slots")                                                                     \
  X(NEED, 34, U, "u32 request, name of a module")                                                  \
  X(FINISHED, 35, U, "facts, graph")                                                               \
  X(ANSWERED, 36, U, "facts, u32 count, records; 0: one graph")                                    \
  X(FAILED, 37, U, "facts, graph: the next item")                                                  \
  X(OVER, 38, U, "u32 ticket, u64 elapsed")                                                        \
  X(SPLIT, 39, U, "u32 ticket, u32 number, u32 part (0: none): the items from there on")           \
  X(RETURNED, 40, U, "u32 ticket: it never began")                                                 \
  X(LOG, 41, U, "graph of one record")                                                             \
  X(LINES, 42, U, "u8 stream, whole lines")                                                        \
  X(BAR_START, 43, U, "u64 bar, u64 total, u64 run ID, u8 unit, u8 leave, name")                   \
  X(BAR_UPDATE, 44, U, "u64 bar, u64 done, u64 total")                                             \
  X(BAR_NAME, 45, U, "u64 bar, name")                                                              \
  X(BAR_END, 46, U, "u64 bar, u64 done, u64 total, u8 how")                                        \
  X(AHEAD, 47, U, "u32 ticket, piece")                                                             \
  X(EMITTED, 48, U, "u32 ticket, u32 pid, graph")                                                  \
  X(BEGAN, 49, U, "u32 ticket, u32 pid, u32 slot, u64 age")                                        \
  X(WORKER, 50, U, "u32 pid, u32 slot, why; empty: it came")                                       \
  X(WORKERS, 51, U, "for each: u32 pid, u32 slot, u64 tasks, u64 maxrss, u8 busy, u64 run ID")     \
  X(PONG, 52, U, "u64 time")                                                                       \
  X(NOTICE, 53, U, "a sentence to be logged")                                                      \
  X(GONE, 54, U, "nothing")

enum mch_hosts_message {
#define MCH_HOSTS_CODE(name, code, direction, payload) MCH_HOSTS_##name = code,
  MCH_HOSTS_MESSAGES(MCH_HOSTS_CODE)
#undef MCH_HOSTS_CODE
};

/* Where a ticket is in a list of those that are open. */
static inline uint32_t mch_hosts_place(uint32_t ticket) {
  return ticket % MCH_HOSTS_WINDOW + (ticket & MCH_HOSTS_PART ? MCH_HOSTS_WINDOW : 0);
}
/* The ticket after this one, of the same kind. */
static inline uint32_t mch_hosts_after(uint32_t ticket) {
  uint32_t number = (ticket & ~MCH_HOSTS_PART) + 1;
  return (ticket & MCH_HOSTS_PART) | (number == MCH_HOSTS_PART ? 1 : number);
}

/* -- reading and writing ------------------------------------------------------------------ */

/* What is left of a message. A field that is not there sets `bad`, and all that is read is 0. */
struct mch_reader_of {
  const unsigned char *at;
  size_t left;
  int bad;
};
uint8_t mch_take_u8(struct mch_reader_of *reader);
uint16_t mch_take_u16(struct mch_reader_of *reader);
uint32_t mch_take_u32(struct mch_reader_of *reader);
uint64_t mch_take_u64(struct mch_reader_of *reader);
/* So many bytes, in place; NULL if they are not there. */
const unsigned char *mch_take_bytes(struct mch_reader_of *reader, size_t count);
/* A u32 length and bytes, at most `most`. */
const unsigned char *mch_take_text(struct mch_reader_of *reader, size_t most, size_t *length);

void mch_put_u16(struct mch_buf *buf, uint16_t value);
void mch_put_text(struct mch_buf *buf, const void *bytes, size_t length);

/* -- payloads ----------------------------------------------------------------------------- */

/* Who speaks there. Texts are in the message. */
struct mch_hosts_hello {
  uint32_t version; /* first of all, in every version */
  uint32_t cpus, pid;
  const unsigned char *program, *format, *host; /* mantichora's version, Lua's format, its name */
  size_t program_length, format_length, host_length;
};
void mch_hosts_put_hello(struct mch_buf *buf, const struct mch_hosts_hello *hello);
int mch_hosts_take_hello(struct mch_reader_of *reader, struct mch_hosts_hello *hello);

/* What is to be known before a worker can be. */
#define MCH_HOSTS_NUMBERS(X)                                                                       \
  X(slots)                                                                                         \
  X(timeout)                                                                                       \
  X(max_tasks_per_worker)                                                                          \
  X(max_memory_per_worker)                                                                         \
  X(min_free_memory)                                                                               \
  X(limit_memory)                                                                                  \
  X(limit_cpu)                                                                                     \
  X(limit_files)                                                                                   \
  X(grace)                                                                                         \
  X(seed)                                                                                          \
  X(log_level)                                                                                     \
  X(listening)                                                                                     \
  X(bars)                                                                                          \
  X(joined)                                                                                        \
  X(keep_gc)                                                                                       \
  X(has_init)                                                                                      \
  X(has_fini)
#define MCH_HOSTS_TEXTS(X)                                                                         \
  X(cwd)         /* working directory; empty: as it is */                                          \
  X(cwd_chosen)  /* "y": it must exist */                                                          \
  X(environment) /* NAME=value, each with a zero */                                                \
  X(setup)       /* graph: init, fini, functions in tables of the standard library */

struct mch_hosts_config {
#define MCH_HOSTS_FIELD(name) uint64_t name;
  MCH_HOSTS_NUMBERS(MCH_HOSTS_FIELD)
#undef MCH_HOSTS_FIELD
#define MCH_HOSTS_FIELD(name)                                                                      \
  const unsigned char *name;                                                                       \
  size_t name##_length;
  MCH_HOSTS_TEXTS(MCH_HOSTS_FIELD)
#undef MCH_HOSTS_FIELD
};
void mch_hosts_put_config(struct mch_buf *buf, const struct mch_hosts_config *config);
int mch_hosts_take_config(struct mch_reader_of *reader, struct mch_hosts_config *config);

/* The head of TASK and BATCH. */
enum {
  MCH_HOSTS_CAREFUL = 1,
  MCH_HOSTS_KEYED = 2,
  MCH_HOSTS_GRANTED = 4,
  MCH_HOSTS_APART = 8,    /* the graph comes as the next message */
  MCH_HOSTS_PRIORITY = 16 /* it has one, not 0 */
};
struct mch_hosts_task {
  uint32_t ticket;
  uint8_t options;
  uint16_t attempt;
  uint64_t runid, stream, timeout;
  int32_t priority;
  const unsigned char *name, *ids; /* ids: u32 each */
  size_t name_length;
  uint32_t codes;
  int is_batch;
  uint32_t count, function_length;
  uint64_t index;
};
/* The head of a task that is sent as this ticket. */
void mch_hosts_put_task(struct mch_buf *buf, const struct mch_task *task, uint32_t ticket,
                        unsigned options);
int mch_hosts_take_task(struct mch_reader_of *reader, struct mch_hosts_task *task, int is_batch);
/* The task that it describes, with this graph, which a task holds where it is cargo. NULL: no
 * memory, or they do not fit together (`broken`). */
struct mch_task *mch_hosts_make_task(const struct mch_hosts_task *head, const unsigned char *graph,
                                     size_t length, struct mch_cargo *cargo, int *broken);

/* How a task or item ended, or that so many items are answered. */
enum {
  MCH_HOSTS_BEGUN = 1,
  MCH_HOSTS_LOG_GRAPH = 2,
  MCH_HOSTS_OOM = 4,
  MCH_HOSTS_TEXT = 8,
  MCH_HOSTS_PROGRESS = 16
};
struct mch_hosts_facts {
  uint32_t ticket;
  uint8_t kind, flags;
  uint32_t pid, slot, signal, exitcode;
  uint64_t elapsed, maxrss, age, cpu; /* age 0: not known when it began */
  const unsigned char *text, *progress;
  size_t text_length, progress_length;
};
void mch_hosts_put_facts(struct mch_buf *buf, const struct mch_hosts_facts *facts);
int mch_hosts_take_facts(struct mch_reader_of *reader, struct mch_hosts_facts *facts);
void mch_hosts_facts_of_result(struct mch_hosts_facts *facts, uint32_t ticket,
                               const struct mch_result *result);
/* What the pool is told; the graph is copied, unless `memory` is what it is in, which goes along
 * (freed on failure). NULL: no memory. */
struct mch_result *mch_hosts_result_of(const struct mch_hosts_facts *facts, void *memory,
                                       const unsigned char *graph, size_t length);

#endif
