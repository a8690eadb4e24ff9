/* Runs in: both.
 *
 * The registry of bars: which ones run, in order of arrival, and which have ended and are not yet
 * shown, in order of finishing. It knows no terminal and has no clock: times are passed in.
 *
 * The counters of a bar are in a slot: eight-byte atomics that somebody else writes (the loop of
 * this process, or a worker through shared memory) and that are sampled when it is time to draw. So
 * one iteration costs a plain store. The caller locks (output.c). */
#ifndef MCH_PROGRESS_H
#define MCH_PROGRESS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MCH_BAR_UNKNOWN UINT64_MAX /* as a total: not known. As `done` at the end: as sampled */

/* How a bar ends: name, word in records, mark on the screen. */
#define MCH_BAR_ENDS(X)                                                                            \
  X(RUNNING, "running", "")                                                                        \
  X(FINISHED, "finished", "")                                                                      \
  X(BROKEN, "broken", "")                                                                          \
  X(ERROR, "error", "error")                                                                       \
  X(EXITED, "exited", "exited")                                                                    \
  X(KILLED, "killed", "killed")                                                                    \
  X(TIMEOUT, "timeout", "timeout")                                                                 \
  X(CANCELLED, "cancelled", "cancelled")

enum mch_bar_end {
#define MCH_BAR_NAME(name, word, mark) MCH_BAR_##name,
  MCH_BAR_ENDS(MCH_BAR_NAME)
#undef MCH_BAR_NAME
};

const char *mch_bar_end_word(enum mch_bar_end how);
const char *mch_bar_end_mark(enum mch_bar_end how);

/* `id` says whose counters these are, so that a slot can be used again: whoever takes the slot
 * writes 0, then done and total, then the new id (release). A sample counts only if `id` was the
 * bar's own before and after. Only the owner of the bar writes done and total (relaxed). */
struct mch_bar_slot {
  _Atomic uint64_t id;
  _Atomic uint64_t done;
  _Atomic uint64_t total; /* MCH_BAR_UNKNOWN: not known */
};

/* What numbers count: things, or bytes, shown in powers of 1000 or of 1024. */
enum mch_bar_unit { MCH_UNIT_NONE, MCH_UNIT_BYTES, MCH_UNIT_BINARY, MCH_UNITS };

const char *mch_bar_unit_word(enum mch_bar_unit unit); /* "", "B", "iB" */

/* Whether the line of a bar that has ended stays on the screen. */
enum mch_bar_leave { MCH_LEAVE_ALWAYS, MCH_LEAVE_NEVER, MCH_LEAVE_FAILED };

/* A bar that counts the tasks of a pool (`done` have ended other than by being cancelled, of
 * `total`) has more counters. They belong to the pool, and outlive the bar. */
struct mch_bar_tasks {
  _Atomic uint64_t running;
  _Atomic uint64_t failed;
  _Atomic uint64_t cancelled;
  _Atomic uint64_t found; /* among those that have ended: they did not run */
};

/* What somebody who starts a bar says about it. Text is copied, at most MCH_BAR_TEXT bytes. */
#define MCH_BAR_TEXT 1024
struct mch_bar_spec {
  const char *name;
  size_t name_length;
  uint64_t total;
  struct mch_bar_slot *slot;         /* NULL: the bar brings its own */
  uint64_t slot_id;                  /* id of `slot` while it is this bar's */
  const struct mch_bar_tasks *tasks; /* NULL: not a bar of a pool */
  int loop;         /* of this process's Lua thread, which starts, ticks and ends it */
  int64_t runid;    /* of the task, or -1 */
  const char *task; /* name of the task, or NULL */
  size_t task_length;
  enum mch_bar_unit unit;
  enum mch_bar_leave leave;
};

/* The last samples of a bar that has moved on, for its rate of late. */
enum { MCH_PACE = 12 };
struct mch_bar_pace {
  uint64_t ns[MCH_PACE], done[MCH_PACE]; /* a ring */
  unsigned count, next;
};

struct mch_bar {
  struct mch_bar *previous, *next; /* in one of the registry's lists */
  struct mch_bar_slot *slot;       /* where the counters are: `own`, or the spec's */
  struct mch_bar_slot own;
  uint64_t slot_id;
  uint64_t key;                      /* 1, 2, 3, ... in this process */
  uint64_t done, total;              /* as last sampled */
  const struct mch_bar_tasks *tasks; /* as in its spec; NULL when it has ended */
  uint64_t tasks_running, tasks_failed, tasks_cancelled, tasks_found; /* as last sampled */
  uint64_t started_ns, ended_ns;
  struct mch_bar_pace pace;
  /* what was last reported, by renderers that report */
  uint64_t told_ns, told_done, told_total, told_running;
  int64_t runid;
  struct mch_bar_slot *upstream; /* in a worker: the slot that its parent samples, or NULL */
  enum mch_bar_end how;
  enum mch_bar_unit unit;
  enum mch_bar_leave leave;
  uint64_t stop;           /* the call that has stopped it, with others; 0: none */
  size_t place;            /* of an ended one: so many bytes of other lines stand above it */
  char *renamed;           /* its later name, or NULL */
  unsigned char forgotten; /* ended by a finalizer */
  unsigned char waiting;   /* ended, but still in its place among the running ones */
  unsigned char told;      /* the start was reported */
  unsigned char forwarded; /* in a worker: counters are copied to the parent by the clock */
  unsigned char ticking;   /* who stores into it must call mch_output_tick() too */
  unsigned char loop;      /* as in its spec */
  unsigned char of_tasks;  /* it counts tasks */
  unsigned char foreign;   /* inherited through a fork, or left: counts no more */
  size_t name_length, task_at, task_length;
  char text[]; /* first name, then task */
};

struct mch_bar_list {
  struct mch_bar *first, *last;
  size_t count;
};

struct mch_progress {
  struct mch_bar_list running; /* in order of arrival */
  struct mch_bar_list ended;   /* in order of finishing, until shown */
  struct mch_bar_list foreign; /* inherited, or left */
  uint64_t last_key;
};

/* Add a running bar. NULL: no memory. It is owned by the registry; the caller may use it until it
 * has ended it. */
struct mch_bar *mch_progress_start(struct mch_progress *progress, const struct mch_bar_spec *spec,
                                   uint64_t now_ns);

/* Move a running bar to the ended ones. `done` and `total` are its last counters, or
 * MCH_BAR_UNKNOWN for `done`: both as the slot has them. */
void mch_progress_end(struct mch_progress *progress, struct mch_bar *bar, uint64_t done,
                      uint64_t total, enum mch_bar_end how, uint64_t now_ns);

/* The same in two steps: it has ended, but keeps its place; it moves to the ended ones. */
void mch_progress_stay(struct mch_bar *bar, uint64_t done, uint64_t total, enum mch_bar_end how,
                       uint64_t now_ns);
void mch_progress_move(struct mch_progress *progress, struct mch_bar *bar);

/* The last of the ended ones was forgotten, as were those before it: put it where it stood among
 * them. (Finalizers run from the youngest to the oldest.) */
void mch_progress_sort_forgotten(struct mch_progress *progress);

/* Read the counters of one bar out of its slot. Nonzero if they differ from the last sample. */
int mch_progress_sample(struct mch_bar *bar);

/* The same, and note the pace. */
int mch_progress_sample_at(struct mch_bar *bar, uint64_t now_ns);

/* Things done in a second of late, as sampled until now; -1: not known. */
double mch_progress_pace(const struct mch_bar *bar, uint64_t now_ns);

/* Another name: at most MCH_BAR_TEXT bytes, copied. Without memory it keeps the old one. */
void mch_progress_rename(struct mch_bar *bar, const char *name, size_t length);

/* Its name; not terminated. */
const char *mch_progress_name(const struct mch_bar *bar);

/* Bars of loops and tasks that stand. */
int mch_progress_has_work(const struct mch_progress *progress);

/* Forget an ended bar that has been shown. */
void mch_progress_drop(struct mch_progress *progress, struct mch_bar *bar);

/* After a fork, in the child: the bars stay as objects, whoever holds one may still store into it
 * and end it, but they count no more. */
void mch_progress_disown(struct mch_progress *progress);

/* Who holds a running bar has left it: it may be stored into and ended, but counts no more. Returns
 * what takes its place among the running ones. NULL: no memory, all is as it was. */
struct mch_bar *mch_progress_leave(struct mch_progress *progress, struct mch_bar *bar);

/* Free a bar that was inherited or left. */
void mch_progress_release(struct mch_progress *progress, struct mch_bar *bar);

/* Free all bars. */
void mch_progress_free(struct mch_progress *progress);

#endif
