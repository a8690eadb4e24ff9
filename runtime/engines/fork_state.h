/* Runs in: parent.
 *
 * What the files of the fork engine share: a worker as the pool's side sees it, and the engine. All
 * of it is used under the pool's lock. The life of a worker:
 *
 *     fork --> LIVE --(max tasks, quit: QUIT sent)--> LEAVING --> ENDED
 *               |                                        |
 *               +--(its stream or its process ends,      +--(grace over: SIGKILL)
 *                   or a stop outlives its grace: SIGKILL) --> ENDED: tasks settled, then freed
 *                                                              (when nobody has its pipes any more)
 */
#ifndef MCH_FORK_STATE_H
#define MCH_FORK_STATE_H

#include "engine.h"
#include "runtime/wire/channel.h"

enum {
  READ_ROOM = 32 * 1024,             /* bytes of task output taken at once, on the stack */
  MOST_HEARD = 64,                   /* workers that ended whose pipes are still read */
  AT_ONCE = 4 * 1024 * 1024,         /* bytes of messages taken from one worker, then others come */
  MOST_IN_FLIGHT_BYTES = 256 * 1024, /* payload sent ahead to one worker */
  MOST_SLOTS = 4096 + 2,             /* numbers of workers, 0 included */
  FEW_IN_FLIGHT = MCH_CLAIMS / 4,    /* a worker with fewer tasks wants more soon */
  LONGEST_LAST_LOG = 64 * 1024,      /* a longer log record is not kept for the report */
  UNSENT_LIMIT = 1024 * 1024,        /* a channel with more queued gets nothing new */
  LONGEST_LINE = 1024 * 1024 * 1024  /* a longer one is passed on in pieces */
};
static const uint64_t end_grace = 200000000u;      /* between end of stream and end of process */
static const uint64_t fork_retry = 100000000u;     /* after a failed fork */
static const uint64_t slow_start = 20000000u;      /* an offered task that is not begun so long */
static const uint64_t ring_again = 200000000u;     /* a worker that does not begin it */
static const uint64_t unwatched_check = 20000000u; /* where ends of processes cannot be watched */

enum worker_state { LIVE, LEAVING, ENDED };

struct engine_fork;
struct child;

/* One of a worker's descriptors in the poller. */
struct source {
  struct child *child;
  unsigned bit; /* in child->ready */
};
enum { CHANNEL = 1, STDOUT = 2, STDERR = 4, PROCESS = 8 };

/* The reading end of a task's stdout or stderr. */
struct stream {
  int fd; /* -1: at its end */
  uint64_t consumed;
  struct mch_buf raw; /* read, not yet passed on: at most the beginning of a line between pumps */
  size_t searched;    /* so many of its unread bytes are known to be no newline */
};

/* Lists in which a worker can be, so that only those are looked at with whom there is something to
 * do: by load, one that may have room (open) or has none (shut); one that may have something to
 * say; one that something is to be sent to. */
enum membership { LOAD, AWAKE, UNSENT, MEMBERSHIPS };
struct link {
  struct child *next, *previous;
  struct child **list; /* NULL: in none */
};

/* The pool's side of a worker. */
struct child {
  struct engine_fork *engine;
  struct child *next;
  struct link links[MEMBERSHIPS];
  enum worker_state state;
  pid_t pid;
  int watch;    /* readable when it ends; -1: none */
  int lifeline; /* write end; nothing is ever written */
  struct mch_channel channel;
  struct stream streams[2];
  struct source sources[4];
  unsigned ready;
  struct mch_shared *shared;
  int unforked; /* those that are forked from now on do not have `shared` */
  int begun;    /* of the file whose position says what it has begun; -1: none */
  struct mch_task *offered[MCH_CLAIMS]; /* by ticket % MCH_CLAIMS; NULL: settled */
  uint32_t last_ticket;
  uint32_t first_ticket;  /* of the oldest in `offered`, while there is one */
  uint32_t passed;        /* as the worker had it in the page when it was last looked at */
  uint64_t oldest_since;  /* when the oldest became that */
  uint64_t ring_at;       /* when to ring for it again */
  uint32_t left_behind;   /* ticket that was taken back since it did not begin it; 0: none */
  unsigned outstanding;   /* tasks in `offered` */
  size_t in_flight_bytes; /* their payload */
  uint64_t tasks;         /* ended so far */
  unsigned slot;          /* from 1 */
  uint64_t offers;        /* tasks ever offered, less those taken back */
  uint64_t maxrss;
  const char *why;         /* it goes; NULL: as the end of its process says */
  int announced;           /* that it came was told */
  struct mch_buf codes;    /* sorted u32 ids that it has */
  struct mch_buf last_log; /* the last record of the running task */
  struct mch_bar **bars;
  uint64_t *bar_ids;
  size_t bar_count, bar_room;
  int exit_said, exit_status;
  uint64_t stream_ended; /* when its stream ended before its process did; 0: not */
  uint64_t forked;       /* when it was */
  uint64_t kill_at;      /* SIGKILL is due; MCH_NEVER: not */
  uint64_t insist_at;    /* the task that shall stop is told once more; MCH_NEVER: not */
  int killed;            /* we sent SIGKILL */
  int broke;             /* it broke the protocol */
  int garbled;           /* its stream cannot be read any further */
  int never_ran;         /* it never took a task */
  int lazy_setup;        /* it sets itself up when it is asked for something */
  int eager;             /* what it does before its first task is the host's, and may take long */
  uint64_t prepares;     /* since when it does so, once that was seen; 0: not yet */
  int barren;            /* it did so for too long */
  uint64_t heard;        /* for orders.heard, when the pool has drawn its conclusions; 0: nothing */
  uint64_t asked;        /* when it was LEAVING */
  int hurried;           /* its `fini` took too long and was told to stop */
};

struct engine_fork {
  struct mch_engine base;
  struct mch_engine_config config;
  struct child *children;
  unsigned live;  /* children that are LIVE */
  unsigned ended; /* that are ENDED */
  /* The LIVE ones by tasks that are with them: those that may have room, and those that have none
   * until something happens to them. None is above `most`, none that is open below `least`. */
  struct child *open[MCH_CLAIMS + 1], *shut[MCH_CLAIMS + 1];
  unsigned least, most;
  struct child *out_of_tickets;    /* of those in shut[0], who have yet to pass over tickets */
  struct child *awake;             /* to be visited by the next pump */
  struct child *unsent;            /* to be flushed */
  const struct child *wants_tasks; /* where to look on for one that wants more soon; NULL: begin */
  size_t batches;                  /* with all of them */
  int32_t lowest; /* priority of what is with them and has not begun, or below it */
  uint64_t look;  /* when time has something to do with any of them, at the earliest */
  int started, quitting;
  uint64_t fork_again;        /* after a failed fork, not before */
  int died_idle;              /* a worker died before its first task: fork only for a task */
  uint64_t pumped;            /* when pump() last looked */
  uint64_t waits_for_tickets; /* a task waits only for a worker to pass over some: look so often */
  uint64_t look_for_slow;     /* for workers that begin nothing, not before */
  int log_level;
  int timeouts; /* some task has one */
  int heard;    /* some worker's `heard` is not 0 */
  struct mch_chaos chaos;
  uint64_t forks; /* so far */
  uint64_t first_fork;
  int listening;    /* somebody wants to know all about each task */
  uint64_t *worked; /* nanoseconds, by slot from 1 on; some may be missing for want of memory */
  size_t slots, slot_room;
};

/* -- forking ------------------------------------------------------------------------------ */

/* Descriptors of a worker in the making; index 0 is the end that reads, for the pairs of pipes. */
struct plumbing {
  int sockets[2]; /* [0] ours, [1] the worker's */
  int out[2], err[2], life[2];
  int begun;   /* of both: see mch_begun_word() */
  pid_t owner; /* the process that forks */
};

/* engine_fork.c: of a batch, which items were begun; the visit that looks after every worker. */

int mch_fork_is_marked_item(const struct child *child, const struct mch_task *task,
                            uint32_t number);
uint32_t mch_fork_first_unbegun(const struct child *child, const struct mch_task *task);
void mch_fork_visit_all(struct engine_fork *engine, uint64_t now);

/* fork_child.c: one worker. Membership of lists; when to look at it next; the tasks that it was
 * offered, and what it has begun of them by claims and mark. mch_child_withdraw() is the one way to
 * make sure that a task never begins; take_back settles it as well, give_back tells the pool. */

uint64_t mch_child_believed(const struct child *child, uint64_t when);
void mch_child_count_work(const struct child *child, uint64_t nanoseconds);
void mch_child_tell(struct child *child, const char *why);
void mch_child_take_out(struct child *child, enum membership kind);
void mch_child_put_into(struct child *child, enum membership kind, struct child **list);
void mch_child_wake(struct child *child);
void mch_child_look_at(struct engine_fork *engine, uint64_t when);
void mch_child_kill_later(struct child *child, uint64_t when);
const struct mch_task *mch_child_offered_with(const struct child *child, uint64_t runid);
const struct mch_events *mch_child_events(const struct child *child);
int mch_child_is_before(uint32_t a, uint32_t b);
struct mch_task *mch_child_oldest(const struct child *child);
uint64_t mch_child_slow_at(const struct child *child);
void mch_child_settle(struct child *child, struct mch_task *task);
void mch_child_kill_now(struct child *child);
void mch_child_break_off(struct child *child);
uint64_t mch_child_claim_word(uint32_t ticket, enum mch_claim claim);
uint64_t mch_child_claim_of(const struct child *child, uint32_t ticket);
int mch_child_is_taken(const struct child *child, uint32_t ticket);
int mch_child_is_marked(const struct child *child, uint32_t ticket);
int mch_child_withdraw(struct child *child, const struct mch_task *task);
int mch_child_take_back(struct child *child, struct mch_task *task);
void mch_child_give_back(struct child *child, struct mch_task *task);
struct mch_task *mch_child_begun(const struct child *child);
int mch_child_is_items_word(const struct mch_task *task, uint64_t word);
uint32_t mch_child_next_ticket(const struct child *child);

/* fork_spawn.c: the fork, with what comes before and after it; whether workers are missing. */

int mch_spawn_make_plumbing(struct plumbing *plumbing, struct mch_error *error);
int mch_spawn_adopt(struct child *child, struct plumbing *plumbing);
int mch_spawn_fork_worker(struct engine_fork *engine, struct mch_task *only, int lazy_setup,
                          struct mch_error *error);
unsigned mch_spawn_wanted(const struct engine_fork *engine);
int mch_spawn_short_of_workers(struct mch_engine *base, size_t queued);
int mch_spawn_add(struct mch_engine *base, size_t queued, struct mch_error *error);

/* fork_time.c: stopping a task, time-outs of tasks and of `init`, leaving. mch_time_due_at() says
 * when mch_time_check_time() has something to do. */

void mch_time_stop(struct mch_engine *base, struct mch_task *task);
uint64_t mch_time_timeout_of(const struct engine_fork *engine, const struct mch_task *task);
uint64_t mch_time_init_limit(struct child *child);
uint64_t mch_time_timeout_at(struct child *child);
void mch_time_send_quit(struct child *child);
void mch_time_leaves(struct child *child);
void mch_time_retire(struct engine_fork *engine, struct child *child);
int mch_time_has_too_many(const struct engine_fork *engine);
void mch_time_flush(struct child *child);
void mch_time_check_time(struct child *child, uint64_t now);
uint64_t mch_time_due_at(struct child *child, uint64_t now);

/* fork_feed.c: who gets which task, and what is taken back from whom. */

int mch_feed_reclaim(struct mch_engine *base, struct mch_task *task);
void mch_feed_shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number);
int mch_feed_forget_code(struct mch_engine *base, uint32_t id);
void mch_feed_book(struct child *child, struct mch_task *task);
int mch_feed_has_room(const struct engine_fork *engine, const struct child *child);
void mch_feed_open_all(struct engine_fork *engine);
int mch_feed_submit(struct mch_engine *base, struct mch_task *task, int owner,
                    struct mch_error *error);
void mch_feed_ring_for(struct child *child, uint64_t now);
void mch_feed_steal(struct engine_fork *engine, size_t queued);
void mch_feed_recall(struct mch_engine *base, int32_t priority);
void mch_feed_withdraw_from(struct child *child);
void mch_feed_withdraw(struct mch_engine *base);
int mch_feed_could_start(struct mch_engine *base, int owner);
int mch_feed_wants_tasks(struct mch_engine *base);

/* fork_bury.c: a worker that has gone: noticing it, settling its tasks, freeing it. */

void mch_bury_check_end(struct child *child, uint64_t now);
void mch_bury_close_child(struct child *child);
void mch_bury_remove_ended(struct engine_fork *engine);

/* fork_hear.c: what a worker says. mch_hear_drain() reads and handles all that has come; the others
 * end its bars, lines, tasks and items when its time is over. */

enum mch_bar_end mch_hear_stopped_or(const struct mch_task *task, enum mch_bar_end usual);
char *mch_hear_last_progress(const struct child *child);
void mch_hear_stop_bars(struct child *child, enum mch_bar_end how);
void mch_hear_stopping(struct child *child);
size_t mch_hear_read_stream(struct child *child, int which);
size_t mch_hear_whole_lines(struct stream *stream, size_t count);
void mch_hear_pass_last_lines(struct child *child);
void mch_hear_finish(struct child *child, struct mch_task *task, struct mch_result *result);
void mch_hear_finish_batch(struct child *child, struct mch_task *task, uint64_t elapsed);
void mch_hear_fail_item(struct child *child, struct mch_task *task, struct mch_result *result);
void mch_hear_return_rest(struct child *child, struct mch_task *task);
void mch_hear_shorten_batch(struct child *child, struct mch_task *task, uint32_t number, int half);
int mch_hear_item_has_begun(const struct child *child, const struct mch_task *task);
void mch_hear_drain(struct child *child);
void mch_hear_check_page(struct child *child);

#endif
