/* Runs in: parent, then hands over to worker.c in the child.
 *
 * Workers by fork and socket pair. The one place that forks.
 *
 * The life of a worker, as the pool's side sees it:
 *
 *     fork --> LIVE --(max tasks, quit: QUIT sent)--> LEAVING --> ENDED
 *               |                                        |
 *               +--(its stream or its process ends,      +--(grace over: SIGKILL)
 *                   or a stop outlives its grace: SIGKILL) --> ENDED: tasks settled, then freed
 *                                                              (when nobody has its pipes any more)
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/wire/channel.h"
#include "runtime/base/chaos.h"
#include "runtime/base/platform.h"
#include "worker.h"

enum {
  READ_ROOM = 32 * 1024,            /* bytes of task output taken at once, on the stack */
  MOST_HEARD = 64,                  /* workers that ended whose pipes are still read */
  AT_ONCE = 4 * 1024 * 1024,        /* bytes of messages taken from one worker, then others come */
  AHEAD_BYTES = 256 * 1024,         /* payload sent ahead to one worker */
  MOST_SLOTS = 4096 + 2,            /* numbers of workers, 0 included */
  LITTLE_AHEAD = MCH_CLAIMS / 4,    /* a worker with fewer tasks wants more soon */
  LONGEST_LAST_LOG = 64 * 1024,     /* a longer log record is not kept for the report */
  UNSENT_LIMIT = 1024 * 1024,       /* a channel with more queued gets nothing new */
  LONGEST_LINE = 1024 * 1024 * 1024 /* a longer one is passed on in pieces */
};

static const uint64_t leave_grace = 500000000u; /* an idle worker that was asked to leave */
static const uint64_t unasked_rest = 20000000u; /* a worker without a task sets itself up later */
static const uint64_t end_grace = 200000000u;   /* between end of stream and end of process */
static const uint64_t fork_retry = 100000000u;  /* after a failed fork */
static const uint64_t passing_check = 1000000u; /* a worker passes over what was taken back */
static const uint64_t behind_check = 20000000u; /* the same of one that may have been stopped */
static const uint64_t slow_start = 20000000u;   /* an offered task that is not begun so long */
static const uint64_t ring_again = 200000000u;  /* a worker that does not begin it */
static const uint64_t unwatched_check = 20000000u; /* where ends of processes cannot be watched */

enum worker_state { LIVE, LEAVING, ENDED };

struct engine_fork;
struct child;

/* One of a worker's descriptors in the poller. */
struct source {
  struct child *child;
  unsigned bit; /* in child->ready */
};
enum { CHANNEL = 1, STDOUT = 2, STDERR = 4, PROCESS = 8, CHANNEL_WRITABLE = 16 };

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
  uint32_t first_ticket; /* of the oldest in `offered`, while there is one */
  uint32_t passed;       /* as the worker had it in the page when it was last looked at */
  uint64_t oldest_since; /* when the oldest became that */
  uint64_t ring_at;      /* when to ring for it again */
  uint32_t left_behind;  /* ticket that was taken back since it did not begin it; 0: none */
  unsigned outstanding;  /* tasks in `offered` */
  size_t ahead_bytes;    /* their payload */
  uint64_t tasks;        /* ended so far */
  unsigned slot;         /* from 1 */
  uint64_t offers;       /* tasks ever offered, less those taken back */
  uint64_t maxrss;
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
  int pristine;          /* it never took a task */
  int patient;           /* it sets itself up when it is asked for something */
  int eager;             /* what it does before its first task is the host's, and may take long */
  uint64_t prepares;     /* since when it does so, once that was seen; 0: not yet */
  int barren;            /* it did so for too long */
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
  struct child *passing;      /* of those in shut[0], who have yet to pass over tickets */
  struct child *awake;        /* to be visited by the next pump */
  struct child *unsent;       /* to be flushed */
  const struct child *hungry; /* where to look on for one that wants more soon; NULL: begin */
  size_t batches;             /* with all of them */
  int32_t lowest;             /* priority of what is with them and has not begun, or below it */
  uint64_t look;              /* when time has something to do with any of them, at the earliest */
  int started, quitting;
  uint64_t fork_again;        /* after a failed fork, not before */
  int unlucky;                /* a worker died before its first task: fork only for a task */
  uint64_t pumped;            /* when pump() last looked */
  uint64_t waits_for_tickets; /* a task waits only for a worker to pass over some: look so often */
  uint64_t look_for_slow;     /* for workers that begin nothing, not before */
  int log_level;
  int timeouts; /* some task has one */
  struct mch_chaos chaos;
  uint64_t forks; /* so far */
};

/* A fork copies locks as they stand: it waits until no thread of ours is at work or being born, and
 * none begins before it is over. Not a lock for reading and writing, which only the thread that
 * took it may let go: the maker of a thread takes it for the new one. One per process because
 * fork() is. */
struct gate {
  pthread_mutex_t lock; /* held around fork() */
  pthread_cond_t changed;
  unsigned inside; /* threads that hold forks off */
  unsigned forks;  /* that wait: they go first */
};
#define OPEN_GATE                                                                                  \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 }
static struct gate gate = OPEN_GATE;
static pthread_once_t gate_is_known = PTHREAD_ONCE_INIT;

/* In a new process, which has none of the threads that the fork found inside: one of the host's
 * comes by here as well, and may have pools of its own. */
static void open_copied_gate(void) {
  gate = (struct gate)OPEN_GATE;
}

static void know_gate(void) {
  pthread_atfork(NULL, NULL, open_copied_gate);
}

static void lock_gate(void) {
  pthread_once(&gate_is_known, know_gate);
  pthread_mutex_lock(&gate.lock);
}

void mch_fork_hold_off(void) {
  lock_gate();
  while (gate.forks > 0)
    pthread_cond_wait(&gate.changed, &gate.lock);
  gate.inside++;
  pthread_mutex_unlock(&gate.lock);
}

void mch_fork_let_go(void) {
  lock_gate();
  if (--gate.inside == 0)
    pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}

static void close_gate(void) {
  lock_gate();
  gate.forks++;
  while (gate.inside > 0)
    pthread_cond_wait(&gate.changed, &gate.lock);
}

static void open_gate(void) {
  if (--gate.forks == 0)
    pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}

/* -- lists of workers --------------------------------------------------------------------- */

static void take_out(struct child *child, enum membership kind) {
  struct link *link = &child->links[kind];
  if (link->list == NULL)
    return;
  if (link->next != NULL)
    link->next->links[kind].previous = link->previous;
  if (link->previous != NULL)
    link->previous->links[kind].next = link->next;
  else
    *link->list = link->next;
  link->list = NULL;
}

/* Be the first of this list, and in no other of its kind. */
static void put_into(struct child *child, enum membership kind, struct child **list) {
  struct link *link = &child->links[kind];
  take_out(child, kind);
  link->next = *list;
  link->previous = NULL;
  link->list = list;
  if (link->next != NULL)
    link->next->links[kind].previous = child;
  *list = child;
}

/* Something has happened to a worker: it may have room, and is looked at by the next pump. */
static void wake(struct child *child) {
  struct engine_fork *engine = child->engine;
  if (child->links[AWAKE].list == NULL)
    put_into(child, AWAKE, &engine->awake);
  if (child->state != LIVE) {
    take_out(child, LOAD);
    return;
  }
  if (child->links[LOAD].list != &engine->open[child->outstanding])
    put_into(child, LOAD, &engine->open[child->outstanding]);
  if (child->outstanding < engine->least)
    engine->least = child->outstanding;
  if (child->outstanding > engine->most)
    engine->most = child->outstanding;
}

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

/* At this time it is to be looked whether a worker's is up. */
static void look_at(struct engine_fork *engine, uint64_t when) {
  if (when < engine->look)
    engine->look = when;
}

static void kill_later(struct child *child, uint64_t when) {
  child->kill_at = when;
  look_at(child->engine, when);
}

/* -- bars --------------------------------------------------------------------------------- */

static size_t find_bar(const struct child *child, uint64_t id) {
  size_t i;
  for (i = 0; i < child->bar_count; i++)
    if (child->bar_ids[i] == id)
      break;
  return i;
}

static int bar_room(struct child *child) {
  size_t room = child->bar_room == 0 ? 8 : child->bar_room * 2;
  struct mch_bar **bars;
  uint64_t *ids;
  if (child->bar_count < child->bar_room)
    return 1;
  bars = realloc(child->bars, room * sizeof *bars);
  if (bars == NULL)
    return 0;
  child->bars = bars;
  ids = realloc(child->bar_ids, room * sizeof *ids);
  if (ids == NULL)
    return 0;
  child->bar_ids = ids;
  child->bar_room = room;
  return 1;
}

static void drop_bar(struct child *child, size_t i) {
  child->bar_count--;
  child->bars[i] = child->bars[child->bar_count];
  child->bar_ids[i] = child->bar_ids[child->bar_count];
}

static const struct mch_task *offered_with(const struct child *child, uint64_t runid) {
  size_t i;
  for (i = 0; i < MCH_CLAIMS; i++)
    if (child->offered[i] != NULL && runid >= child->offered[i]->runid &&
        runid - child->offered[i]->runid < mch_task_count(child->offered[i]))
      return child->offered[i];
  return NULL;
}

static void name_task(struct mch_bar_spec *spec, const struct mch_task *task) {
  if (task == NULL || task->extra == NULL)
    return;
  spec->task = task->extra->name;
  spec->task_length = task->extra->name_length;
}

/* Without memory a bar is not shown; the work goes on. */
static int bar_start(struct child *child, const struct mch_message_in *message) {
  struct mch_bar_spec spec;
  const unsigned char *body = message->body;
  uint32_t slot;
  if (message->length < 20 || !child->engine->config.bars || !bar_room(child))
    return message->length >= 20;
  memset(&spec, 0, sizeof spec);
  slot = mch_load_u32(body + 16);
  spec.slot_id = mch_load_u64(body);
  spec.runid = (int64_t)message->head.runid;
  spec.total = mch_load_u64(body + 8);
  spec.slot = slot < MCH_BARS ? &child->shared->bars[slot] : NULL;
  spec.name = (const char *)body + 20;
  spec.name_length = message->length - 20;
  name_task(&spec, offered_with(child, message->head.runid));
  child->bars[child->bar_count] = mch_output_bar_start(child->engine->config.output, &spec);
  if (child->bars[child->bar_count] != NULL)
    child->bar_ids[child->bar_count++] = spec.slot_id;
  return 1;
}

static int bar_update(struct child *child, const struct mch_message_in *message) {
  size_t i;
  if (message->length != 24)
    return 0;
  i = find_bar(child, mch_load_u64(message->body));
  if (i < child->bar_count) {
    mch_bar_set(child->bars[i], mch_load_u64(message->body + 8));
    mch_bar_set_total(child->bars[i], mch_load_u64(message->body + 16));
  }
  return 1;
}

/* How bars of a task end that is being stopped; else `usual`. */
static enum mch_bar_end stopped_or(const struct mch_task *task, enum mch_bar_end usual) {
  if (task == NULL || task->stop == 0)
    return usual;
  return task->stop == MCH_KIND_TIMEOUT ? MCH_BAR_TIMEOUT : MCH_BAR_CANCELLED;
}

/* A loop that is left by the error which stops its task says "broken". */
static enum mch_bar_end how_bar_ends(const struct child *child, uint64_t runid,
                                     enum mch_bar_end how) {
  return how == MCH_BAR_BROKEN ? stopped_or(offered_with(child, runid), how) : how;
}

static int bar_end(struct child *child, const struct mch_message_in *message) {
  size_t i;
  if (message->length != 25 || message->body[24] > MCH_BAR_CANCELLED)
    return 0;
  i = find_bar(child, mch_load_u64(message->body));
  if (i < child->bar_count) {
    mch_output_bar_end(
        child->engine->config.output, child->bars[i], mch_load_u64(message->body + 8),
        mch_load_u64(message->body + 16),
        how_bar_ends(child, message->head.runid, (enum mch_bar_end)message->body[24]));
    drop_bar(child, i);
  }
  return 1;
}

/* Where the newest bar stands, in words; NULL: none, or no memory. The caller frees it. */
static char *last_progress(const struct child *child) {
  struct mch_bar *bar;
  char text[256];
  if (child->bar_count == 0)
    return NULL;
  bar = child->bars[child->bar_count - 1];
  mch_progress_sample(bar);
  if (bar->total == MCH_BAR_UNKNOWN)
    snprintf(text, sizeof text, "%.*s: %llu", (int)bar->name_length, bar->text,
             (unsigned long long)bar->done);
  else
    snprintf(text, sizeof text, "%.*s: %llu / %llu", (int)bar->name_length, bar->text,
             (unsigned long long)bar->done, (unsigned long long)bar->total);
  return strdup(text);
}

/* The worker has gone: its bars stop where the shared page has them. */
static void stop_bars(struct child *child, enum mch_bar_end how) {
  while (child->bar_count > 0) {
    mch_output_bar_end(child->engine->config.output, child->bars[child->bar_count - 1],
                       MCH_BAR_UNKNOWN, MCH_BAR_UNKNOWN, how);
    child->bar_count--;
  }
}

/* -- task output -------------------------------------------------------------------------- */

/* Read once. Number of bytes, 0: nothing now (or ended). The page tells the worker when the count
 * and the pipe do not fit together. */
static size_t read_stream(struct child *child, int which) {
  struct stream *stream = &child->streams[which];
  struct mch_orders *shared = &child->shared->orders;
  unsigned char room[READ_ROOM];
  size_t count = READ_ROOM;
  ssize_t got;
  if (stream->fd < 0)
    return 0;
  mch_chaos_io(&child->engine->chaos, &count, 0);
  atomic_fetch_add(&shared->reading[which], 1);
  do
    got = read(stream->fd, room, count);
  while (got < 0 && errno == EINTR);
  mch_chaos_pause(&child->engine->chaos);
  if (got > 0) {
    stream->consumed += (uint64_t)got;
    atomic_store(&shared->consumed[which], stream->consumed);
  }
  atomic_fetch_add(&shared->reading[which], 1);
  if (got > 0) {
    mch_buf_append(&stream->raw, room, (size_t)got);
    stream->raw.failed = 0; /* without memory its output is lost, not its result */
    return (size_t)got;
  }
  if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
    mch_poller_remove(child->engine->base.poller, stream->fd);
    close(stream->fd);
    stream->fd = -1;
  }
  return 0;
}

/* Pass on a last line that its task did not end. */
static void complete_line(struct mch_output *output, int stream, const unsigned char *bytes,
                          size_t count) {
  struct mch_buf line;
  memset(&line, 0, sizeof line);
  mch_buf_append(&line, bytes, count);
  mch_buf_u8(&line, '\n');
  if (line.failed == 0)
    mch_output_lines(output, stream, (const char *)line.data, line.length);
  mch_buf_free(&line);
}

/* How many of the first `count` unread bytes are whole lines. However often a line grows, each of
 * its bytes is looked at once. */
static size_t whole_lines(struct stream *stream, size_t count) {
  const unsigned char *start = stream->raw.data + stream->raw.read;
  size_t whole = count;
  while (whole > stream->searched && start[whole - 1] != '\n')
    whole--;
  if (whole > stream->searched)
    return whole;
  if (count > stream->searched)
    stream->searched = count;
  return 0;
}

/* Pass on the whole lines among the first `count` unread bytes; with `complete` also a rest
 * without a newline, which gets one. */
static void pass_lines(struct child *child, int which, size_t count, int complete) {
  struct stream *stream = &child->streams[which];
  struct mch_output *output = child->engine->config.output;
  const unsigned char *start = stream->raw.data + stream->raw.read;
  size_t whole;
  if (count == 0)
    return;
  whole = whole_lines(stream, count);
  if (whole == 0 && !complete && count >= LONGEST_LINE)
    whole = count;
  if (whole > 0)
    mch_output_lines(output, which + 1, (const char *)start, whole);
  if (complete && whole < count) {
    complete_line(output, which + 1, start + whole, count - whole);
    whole = count;
  }
  if (whole > 0)
    stream->searched = complete ? 0 : count - whole;
  mch_buf_consume(&stream->raw, whole);
}

static void pass_ready_lines(struct child *child) {
  int which;
  for (which = 0; which < 2; which++)
    pass_lines(child, which, mch_buf_unread(&child->streams[which].raw), 0);
}

static void pass_last_lines(struct child *child) {
  int which;
  for (which = 0; which < 2; which++)
    pass_lines(child, which, mch_buf_unread(&child->streams[which].raw), 1);
}

/* A task ended when `position` bytes had gone into this pipe: take them all, and complete its last
 * line. What is behind them belongs to the next task. */
static void settle_stream(struct child *child, int which, uint64_t position) {
  struct stream *stream = &child->streams[which];
  uint64_t start, end;
  size_t unread;
  if (stream->consumed < position && stream->fd >= 0) {
    /* It was there when the task ended; a program that writes on and on is another matter. */
    long waiting = mch_platform_unread(stream->fd);
    end = stream->consumed + (waiting > 0 ? (uint64_t)waiting : 0);
    while (stream->consumed < position && stream->consumed < end && read_stream(child, which) > 0)
      ;
  }
  unread = mch_buf_unread(&stream->raw);
  start = stream->consumed - unread;
  if (position < stream->consumed)
    unread = position > start ? (size_t)(position - start) : 0;
  pass_lines(child, which, unread, 1);
}

/* -- tasks -------------------------------------------------------------------------------- */

static const struct mch_events *events(const struct child *child) {
  return &child->engine->config.events;
}

/* Whether ticket `a` was given out before `b`; both are of late. */
static int is_before(uint32_t a, uint32_t b) {
  return (int32_t)(a - b) < 0;
}

/* The ticket after `ticket`; 0 means none, so it is left out when the count wraps. */
static uint32_t after(uint32_t ticket) {
  return ticket == UINT32_MAX ? 1 : ticket + 1;
}

/* The oldest task with the worker, or NULL. It answers them in their order, so all others have
 * surely not begun when this one is not answered. */
static struct mch_task *oldest(const struct child *child) {
  return child->outstanding > 0 ? child->offered[child->first_ticket % MCH_CLAIMS] : NULL;
}

/* When to look at a worker again that has not begun the oldest task that it has. */
static uint64_t slow_at(const struct child *child) {
  uint64_t slow = child->oldest_since + slow_start;
  return child->engine->live > 1 && slow > child->engine->pumped ? slow : child->ring_at;
}

/* Forget an offered task; its claim is settled. */
static void settle(struct child *child, struct mch_task *task) {
  child->offered[task->ticket % MCH_CLAIMS] = NULL;
  child->outstanding--;
  child->ahead_bytes -= task->length;
  child->engine->batches -= task->batch != NULL;
  task->holder = NULL;
  wake(child);
  if (task->ticket != child->first_ticket)
    return;
  while (child->outstanding > 0 && oldest(child) == NULL)
    child->first_ticket = after(child->first_ticket);
  child->oldest_since = child->engine->pumped;
  child->ring_at = child->oldest_since + ring_again;
  if (child->outstanding > 0)
    look_at(child->engine, slow_at(child));
}

static void kill_now(struct child *child) {
  if (child->killed || child->state == ENDED)
    return;
  child->killed = 1;
  child->kill_at = MCH_NEVER;
  /* The group's number is safe to use while its leader is known to live. */
  if (!mch_platform_has_ended(child->watch)) {
    kill(-child->pid, SIGKILL);
    kill(child->pid, SIGKILL); /* when it has not made its group yet */
  }
}

/* The worker, or what a task did to it, broke the protocol: it is not listened to any longer. */
static void break_off(struct child *child) {
  child->broke = 1;
  kill_now(child);
}

static uint64_t claim_word(uint32_t ticket, enum mch_claim claim) {
  return (uint64_t)ticket << 2 | (uint64_t)claim;
}

static uint64_t claim_of(const struct child *child, uint32_t ticket) {
  return atomic_load(&child->shared->claims[ticket % MCH_CLAIMS]);
}

static int is_taken(const struct child *child, uint32_t ticket) {
  return claim_of(child, ticket) == claim_word(ticket, MCH_CLAIM_TAKEN);
}

/* Whether the mark says that this ticket was begun. It says nothing of tickets not given out. */
static int is_marked(const struct child *child, uint32_t ticket) {
  uint32_t last = mch_begun_ticket(mch_platform_mark_get(child->begun));
  return last != 0 && !is_before(child->last_ticket, last) && !is_before(last, ticket);
}

/* See to it that a task which has not begun never does. 0: it has begun. A claim can be written
 * over; the mark knows better. */
static int withdraw(struct child *child, const struct mch_task *task) {
  uint32_t ticket = task->ticket;
  uint64_t offered = claim_word(ticket, MCH_CLAIM_OFFERED);
  if (!atomic_compare_exchange_strong(&child->shared->claims[ticket % MCH_CLAIMS], &offered,
                                      claim_word(ticket, MCH_CLAIM_REVOKED)))
    return 0;
  if (is_marked(child, ticket)) {
    break_off(child);
    return 0;
  }
  atomic_store(&child->shared->orders.revoked[ticket % MCH_CLAIMS], ticket);
  return 1;
}

/* Take back a task that has not begun. 1 if it is ours again. */
static int take_back(struct child *child, struct mch_task *task) {
  if (!withdraw(child, task))
    return 0;
  settle(child, task);
  child->offers--;
  return 1;
}

static void give_back(struct child *child, struct mch_task *task) {
  events(child)->returned(events(child)->ud, task);
}

/* The task that the worker runs by what the page says, or NULL. Those before it may have answers
 * that are not read yet. */
static struct mch_task *begun(const struct child *child) {
  uint32_t passed = atomic_load(&child->shared->passed), ticket = child->first_ticket, i;
  if (child->outstanding == 0)
    return NULL;
  if (!is_before(passed, ticket) && !is_before(child->last_ticket, passed))
    ticket = after(passed);
  for (i = 0; i < MCH_CLAIMS && !is_before(child->last_ticket, ticket); i++) {
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task != NULL && task->ticket == ticket && is_taken(child, ticket))
      return task;
    ticket = after(ticket);
  }
  return NULL;
}

/* More of the worker's tasks, or items of one, are over. */
static void count_ended(struct child *child, uint32_t count) {
  mch_buf_clear(&child->last_log);
  child->tasks += count;
  child->pristine = 0;
}

static void count_one(struct child *child) {
  count_ended(child, 1);
}

/* The words of this side about a result that came: whose it is, and that it was stopped (0: not).
 */
static void judge(struct child *child, int stop, struct mch_result *result) {
  if (stop != 0)
    child->kill_at = MCH_NEVER;
  if (result == NULL)
    return;
  if (stop != 0) {
    if (result->kind == MCH_KIND_OK)
      result->length = 0; /* it caught the error and returned: that does not count */
    result->kind = (enum mch_kind)stop;
  }
  result->pid = (int)child->pid;
}

static void finish(struct child *child, struct mch_task *task, struct mch_result *result) {
  settle(child, task);
  count_one(child);
  judge(child, task->stop, result);
  events(child)->finished(events(child)->ud, task, result);
}

/* The result that a message has behind its head; a long one is not copied. NULL: no memory. */
static struct mch_result *result_of(struct child *child, const struct mch_message_in *message,
                                    enum mch_kind kind, size_t head) {
  const unsigned char *graph = message->body + head;
  void *memory;
  if (message->lost)
    return mch_result_new(MCH_KIND_ERROR, "not enough memory for the task's result", NULL, 0);
  memory = mch_channel_take(&child->channel);
  return memory != NULL ? mch_result_adopt(kind, memory, graph, message->length - head)
                        : mch_result_new(kind, NULL, graph, message->length - head);
}

/* -- batches ------------------------------------------------------------------------------ */

/* Nothing of it is with the worker any more; its items took so long. */
static void finish_batch(struct child *child, struct mch_task *task, uint64_t elapsed) {
  settle(child, task);
  if (task->stop != 0)
    child->kill_at = MCH_NEVER; /* the item that was to stop ended before */
  events(child)->batch_over(events(child)->ud, task, elapsed);
}

/* A batch that is stopped means its last item: those behind it were taken back. */
static int is_stopped_item(const struct mch_task *task) {
  return task->stop != 0 && task->batch->answered + 1 == task->batch->count;
}

static void fail_item(struct child *child, struct mch_task *task, struct mch_result *result) {
  int stop = is_stopped_item(task) ? task->stop : 0;
  count_one(child);
  judge(child, stop, result);
  if (stop != 0)
    task->stop = 0;
  events(child)->failed(events(child)->ud, task, result);
}

/* The items behind the last answer never began: let the pool have them. Without memory for that
 * they fail. */
static void return_rest(struct child *child, struct mch_task *task) {
  struct mch_batch *batch = task->batch;
  struct mch_task *rest;
  if (batch->answered == batch->count)
    return;
  rest = mch_task_split(task, batch->answered);
  if (rest != NULL) {
    batch->count = batch->answered;
    events(child)->split(events(child)->ud, task, rest);
  }
  while (batch->answered < batch->count)
    events(child)->failed(events(child)->ud, task, NULL);
}

/* Whether the page's word on items is about this batch, and can be right. */
static int is_items_word(const struct mch_task *task, uint64_t word) {
  return mch_items_ticket(word) == task->ticket && mch_items_limit(word) == task->batch->count &&
         mch_items_next(word) <= task->batch->count &&
         mch_items_next(word) >= task->batch->answered;
}

/* Whether the mark says that item `number` of the batch was begun, or one behind it. */
static int is_marked_item(const struct child *child, const struct mch_task *task, uint32_t number) {
  uint64_t mark = mch_platform_mark_get(child->begun);
  return (mark & MCH_BEGUN_EXACT) != 0 && mch_begun_ticket(mark) == task->ticket &&
         mch_begun_bound(mark) > number;
}

/* The first item of a batch that the worker has not begun: the page tells, unless the mark says
 * that it cannot. Then it is the one behind the first without an answer, which runs, while the
 * stream is whole; else answers may be lost, and all that may have begun had. */
static uint32_t first_unbegun(const struct child *child, const struct mch_task *task) {
  const struct mch_batch *batch = task->batch;
  uint64_t word = atomic_load(&child->shared->items), mark = mch_platform_mark_get(child->begun);
  uint32_t bound = mch_begun_bound(mark), next = mch_items_next(word);
  int is_marked_batch = mch_begun_ticket(mark) == task->ticket && bound <= batch->count;
  if (!is_marked_batch)
    bound = batch->count;
  if (is_items_word(task, word) && next <= (uint64_t)bound + 1 &&
      !is_marked_item(child, task, next))
    return next;
  if (bound <= batch->answered)
    return batch->answered;
  return child->garbled ? bound : batch->answered + 1;
}

/* Take back the items from `number` on that have not begun; with `half` only the later half. */
static void shorten_batch(struct child *child, struct mch_task *task, uint32_t number, int half) {
  struct mch_task *rest = NULL;
  uint64_t word = atomic_load(&child->shared->items);
  while (is_items_word(task, word)) {
    uint32_t limit = mch_items_limit(word), next = mch_items_next(word);
    uint32_t at = half ? next + (limit - next) / 2 : number > next ? number : next;
    mch_task_free(rest);
    rest = NULL;
    if (next >= limit || at >= limit || (rest = mch_task_split(task, at)) == NULL)
      return;
    if (atomic_compare_exchange_strong(&child->shared->items, &word,
                                       mch_items_word(task->ticket, at, next))) {
      if (is_marked_item(child, task, at))
        break;
      atomic_store(&child->shared->orders.limit, (uint64_t)task->ticket << 32 | at);
      task->batch->count = at;
      events(child)->split(events(child)->ud, task, rest);
      return;
    }
  }
  if (is_taken(child, task->ticket) && mch_items_ticket(word) == task->ticket)
    break_off(child); /* the page says of it what cannot be */
  mch_task_free(rest);
}

/* Whether the next item without an answer has begun. Nothing that it wrote is on its way. */
static int item_has_begun(const struct child *child, const struct mch_task *task) {
  return first_unbegun(child, task) > task->batch->answered;
}

/* The task that a message of the worker is about: the oldest that it has, which it must have begun.
 * NULL: another. */
static struct mch_task *told_of(const struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = oldest(child);
  /* A later task may have written over its claim. */
  return task != NULL && task->ticket == message->head.ticket &&
                 (is_taken(child, task->ticket) || is_marked(child, task->ticket))
             ? task
             : NULL;
}

static void settle_facts(struct child *child, const unsigned char *facts) {
  settle_stream(child, 0, mch_load_u64(facts + 17));
  settle_stream(child, 1, mch_load_u64(facts + 25));
  child->maxrss = mch_load_u64(facts + 9);
}

/* 0, or -1 when the message is not what it should be. */
static int task_result(struct child *child, const struct mch_message_in *message) {
  const unsigned char *facts = message->body;
  struct mch_task *task = told_of(child, message);
  struct mch_result *result;
  if (message->length < MCH_FACTS_SIZE || facts[0] > MCH_KIND_UNSENDABLE || task == NULL ||
      task->runid != message->head.runid)
    return -1;
  settle_facts(child, facts);
  if (task->batch != NULL) {
    return_rest(child, task);
    finish_batch(child, task, mch_load_u64(facts + 1));
    return 0;
  }
  result = result_of(child, message, (enum mch_kind)facts[0], MCH_FACTS_SIZE);
  if (result != NULL) {
    result->elapsed = mch_load_u64(facts + 1);
    result->maxrss = child->maxrss;
  }
  finish(child, task, result);
  return 0;
}

/* A piece of what a task will return. */
static int piece_ahead(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  if (task == NULL || task->runid != message->head.runid || task->batch != NULL)
    return -1;
  if (!message->lost && task->stop == 0)
    events(child)->ahead(events(child)->ud, task, message->body, message->length);
  return 0;
}

/* The same for an item. Most are OK and have nothing else to say. */
static int item_result(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  const unsigned char *facts = message->body + 4;
  struct mch_result *result;
  size_t head = 4 + MCH_FACTS_SIZE;
  int kind = MCH_KIND_OK;
  if (message->length < 5 || task == NULL || task->batch == NULL ||
      task->batch->answered >= task->batch->count ||
      mch_load_u32(message->body) != task->batch->answered)
    return -1;
  if (facts[0] == MCH_ITEM_OK)
    head = 4 + 1;
  else if (message->length < head || (kind = facts[0]) > MCH_KIND_UNSENDABLE)
    return -1;
  else
    settle_facts(child, facts);
  if (kind == MCH_KIND_OK && !is_stopped_item(task) && !message->lost) {
    count_one(child);
    events(child)->answered(events(child)->ud, task, message->body + head, message->length - head);
    return 0;
  }
  result = result_of(child, message, (enum mch_kind)kind, head);
  if (result != NULL && head > 5) {
    result->elapsed = mch_load_u64(facts + 1);
    result->maxrss = child->maxrss;
  }
  fail_item(child, task, result);
  return 0;
}

/* An item that was stopped, but has an OK answer. */
static void answer_stopped(struct child *child, struct mch_task *task, const unsigned char *graph,
                           size_t length) {
  fail_item(child, task, mch_result_new(MCH_KIND_OK, NULL, graph, length));
}

/* Answers of items in a row. An item that was stopped is the last of its batch. */
static int items_result(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  const unsigned char *last = message->body;
  uint32_t count = message->records, i;
  if (task == NULL || task->batch == NULL || count > task->batch->count - task->batch->answered ||
      message->head.runid + message->records_before != task->runid + task->batch->answered)
    return -1;
  if (task->stop != 0 && task->batch->answered + count == task->batch->count) {
    for (i = --count; i > 0; i--)
      last += 1 + *last;
  } else
    last += message->length;
  if (count > 0) {
    count_ended(child, count);
    events(child)->answered_many(events(child)->ud, task, message->body,
                                 (size_t)(last - message->body), count);
  }
  if (count < message->records)
    answer_stopped(child, task, last + 1, *last);
  return 0;
}

static int hello(const struct child *child, const struct mch_message_in *message) {
  const char *format = child->engine->config.runner.format;
  return message->length == 8 + strlen(format) &&
                 mch_load_u32(message->body) == MCH_PROTOCOL_VERSION &&
                 memcmp(message->body + 8, format, strlen(format)) == 0
             ? 0
             : -1;
}

static int handle(struct child *child, const struct mch_message_in *message) {
  if (message->lost && message->head.type == MCH_MESSAGE_LOG)
    return 0; /* without memory a log line is lost, not the task */
  switch (message->head.type) {
  case MCH_MESSAGE_HELLO:
    return hello(child, message);
  case MCH_MESSAGE_RESULT:
    return task_result(child, message);
  case MCH_MESSAGE_ITEM:
    return item_result(child, message);
  case MCH_MESSAGE_ITEMS:
    return items_result(child, message);
  case MCH_MESSAGE_AHEAD:
    return piece_ahead(child, message);
  case MCH_MESSAGE_LOG:
    events(child)->log(events(child)->ud, message->body, message->length);
    mch_buf_clear(&child->last_log);
    if (message->length <= LONGEST_LAST_LOG)
      mch_buf_append(&child->last_log, message->body, message->length);
    return 0;
  case MCH_MESSAGE_BAR_START:
    return bar_start(child, message) - 1;
  case MCH_MESSAGE_BAR_UPDATE:
    return bar_update(child, message) - 1;
  case MCH_MESSAGE_BAR_END:
    return bar_end(child, message) - 1;
  case MCH_MESSAGE_EXIT:
    if (message->length != 4)
      return -1;
    child->exit_said = 1;
    child->exit_status = (int)(mch_load_u32(message->body) & 0xff);
    return 0;
  default:
    return -1;
  }
}

/* Handle what the stream has, or as much that others come too. */
static void hear_all(struct child *child) {
  struct mch_message_in message;
  size_t taken = 0;
  ssize_t filled;
  int got = 0;
  do {
    filled = mch_channel_fill(&child->channel, 0, NULL);
    while ((got = mch_channel_next(&child->channel, &message, NULL)) == 1)
      if (handle(child, &message) != 0) {
        got = MCH_PROTOCOL;
        break;
      }
    taken += filled > 0 ? (size_t)filled : 0;
  } while (filled > 0 && got >= 0 && taken < AT_ONCE);
  if (filled < 0 || got < 0) { /* nothing that it says can be trusted any more */
    child->garbled = 1;
    break_off(child);
  }
}

/* Read and handle all that has come. Output first and lines last: a result that was sent before
 * some output is then handled before that output is passed on. */
static void drain(struct child *child) {
  if (child->ready & CHANNEL)
    mch_channel_hear(&child->channel);
  if (child->ready & STDOUT)
    read_stream(child, 0);
  if (child->ready & STDERR)
    read_stream(child, 1);
  if (!child->garbled)
    hear_all(child);
  if (child->channel.ended && child->stream_ended == 0) {
    child->stream_ended = mch_now();
    look_at(child->engine, child->stream_ended + end_grace);
  }
  pass_ready_lines(child);
}

/* Whether what the page says about the oldest task can be right. What is about a later one says
 * that the answer to this one is there: it has been read, unless bytes wait. */
static int fits(const struct child *child, const struct mch_task *task, uint32_t passed) {
  const struct mch_shared *shared = child->shared;
  uint64_t claim = claim_of(child, task->ticket), began; /* once: the worker may take it any time */
  if (claim == claim_word(task->ticket, MCH_CLAIM_OFFERED))
    return 1;
  if (claim != claim_word(task->ticket, MCH_CLAIM_TAKEN))
    return mch_channel_waiting(&child->channel);
  began = atomic_load(&shared->running_since);
  if (began > mch_now() || began < child->forked)
    return 0;
  if (is_before(passed, task->ticket) &&
      (task->batch == NULL || is_items_word(task, atomic_load(&shared->items))))
    return 1;
  return mch_channel_waiting(&child->channel);
}

/* Look at what a task may have written over. */
static void check_page(struct child *child) {
  const struct mch_shared *shared = child->shared;
  const struct mch_task *task = oldest(child);
  uint32_t passed = atomic_load(&shared->passed);
  if (child->killed)
    return;
  if (child->last_ticket - passed > child->last_ticket - child->passed ||
      child->channel.ring_put - atomic_load(&shared->down.read) > MCH_RING_SIZE ||
      (task != NULL && !fits(child, task, passed)))
    break_off(child);
  child->passed = passed;
}

/* -- deaths ------------------------------------------------------------------------------- */

static int has_exited(const struct child *child, const struct mch_ending *ending) {
  return !child->broke && (child->exit_said || (ending->known && ending->signal == 0));
}

/* When what the worker runs was begun: not later than now, nor before it could be. */
static uint64_t since(const struct child *child, uint64_t now) {
  uint64_t told = atomic_load(&child->shared->running_since);
  return told > now || told < child->forked ? now : told;
}

static struct mch_result *obituary(const struct child *child, const struct mch_task *victim,
                                   const struct mch_ending *ending, int had_begun,
                                   const char *progress) {
  uint64_t now = mch_now();
  uint64_t oom_count = atomic_load(&child->shared->oom_count);
  enum mch_kind kind = MCH_KIND_KILLED;
  struct mch_result *result;
  if (victim->stop != 0)
    kind = (enum mch_kind)victim->stop;
  else if (has_exited(child, ending))
    kind = MCH_KIND_EXITED;
  result = mch_result_new(kind,
                          kind == MCH_KIND_KILLED && child->broke ? "its worker broke the protocol"
                          : had_begun                             ? NULL
                                                                  : "before its first task",
                          child->last_log.data, child->last_log.length);
  if (result == NULL)
    return NULL;
  result->graph_is_log = 1;
  result->signal = ending->signal;
  result->exitcode = child->exit_said ? child->exit_status : ending->exitcode;
  result->maxrss = ending->maxrss;
  if (had_begun)
    result->elapsed = now - since(child, now);
  if (progress != NULL)
    result->progress = strdup(progress);
  result->perhaps_oom = kind == MCH_KIND_KILLED && ending->signal == SIGKILL && !child->killed &&
                        oom_count != 0 && mch_platform_oom_count() > oom_count;
  return result;
}

/* Tasks that were sent ahead to a worker that has gone: they never started. */
static void give_back_all(struct child *child) {
  uint32_t i;
  for (i = 0; i < MCH_CLAIMS; i++) {
    /* From the last to the first, since each goes to the head of the queue. */
    uint32_t ticket = child->last_ticket - i;
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    settle(child, task);
    give_back(child, task);
  }
}

/* Of a batch the item that ran goes with its worker; those behind it go to another one. */
static void bury_batch(struct child *child, struct mch_task *victim,
                       const struct mch_ending *ending, int had_begun, const char *progress) {
  uint32_t end = had_begun ? first_unbegun(child, victim) : victim->batch->answered + 1;
  while (victim->batch->answered < end && victim->batch->answered < victim->batch->count)
    fail_item(child, victim, obituary(child, victim, ending, had_begun, progress));
  return_rest(child, victim);
  finish_batch(child, victim, 0);
}

static void bury_task(struct child *child, struct mch_task *victim, const struct mch_ending *ending,
                      int had_begun, const char *progress) {
  if (victim->batch != NULL)
    bury_batch(child, victim, ending, had_begun, progress);
  else
    finish(child, victim, obituary(child, victim, ending, had_begun, progress));
}

/* Whether the oldest task was begun, as far as can be told: if it may have been, it was. */
static int may_have_begun(const struct child *child) {
  const struct mch_task *task = oldest(child);
  if (task == NULL)
    return 0;
  return is_taken(child, task->ticket) || is_marked(child, task->ticket) ||
         (child->begun < 0 &&
          claim_of(child, task->ticket) != claim_word(task->ticket, MCH_CLAIM_OFFERED));
}

static void bury(struct child *child, const struct mch_ending *ending) {
  struct engine_fork *engine = child->engine;
  struct mch_task *victim;
  char *progress;
  int had_begun, which, pristine, was_killed = child->killed;
  child->ready |= STDOUT | STDERR;
  child->channel.ended = 0; /* a task closed its bell, say: the ring may have got more since then */
  drain(child);
  for (which = 0; which < 2; which++)
    while (read_stream(child, which) > 0)
      ;
  if (mch_platform_mark_get(child->begun) & MCH_BEGUN_BROKEN)
    child->broke = 1;
  pristine = child->pristine && !was_killed; /* by all that it said */
  had_begun = may_have_begun(child);
  victim = oldest(child);
  pass_last_lines(child);
  progress = last_progress(child);
  stop_bars(child, stopped_or(had_begun ? victim : NULL,
                              has_exited(child, ending) ? MCH_BAR_EXITED : MCH_BAR_KILLED));
  if (child->state == LIVE)
    engine->live--;
  child->state = ENDED;
  engine->ended++;
  take_out(child, LOAD);
  if (!had_begun && pristine && victim != NULL)
    bury_task(child, victim, ending, 0, progress);
  while (may_have_begun(child)) /* more than one: answers were lost */
    bury_task(child, oldest(child), ending, 1, progress);
  free(progress);
  engine->unlucky = child->barren || (pristine && !had_begun);
  give_back_all(child);
}

/* A worker that died with a task takes what it started along; one that left in peace does not. */
static int takes_group_along(const struct child *child) {
  return child->killed || !child->exit_said;
}

/* Look whether the worker has gone, and settle everything if so. */
static void check_end(struct child *child, uint64_t now) {
  struct mch_ending ending;
  int suspicious = (child->ready & PROCESS) != 0 || child->stream_ended != 0 || child->watch < 0;
  if (child->state == ENDED || !suspicious)
    return;
  if (child->state == LIVE)
    drain(child); /* an EXIT that is on its way decides about its group */
  if (mch_platform_ended(child->pid, child->watch, child->state == LIVE && takes_group_along(child),
                         &ending))
    bury(child, &ending);
  else if (child->stream_ended != 0 && now >= child->stream_ended + end_grace)
    kill_now(child); /* it cannot answer any more, whatever it does */
}

/* What belongs to its process, which has gone. */
static void close_process(struct child *child) {
  struct engine_fork *engine = child->engine;
  if (child->channel.fd >= 0)
    mch_poller_remove(engine->base.poller, child->channel.fd);
  mch_channel_close(&child->channel);
  if (child->watch >= 0) {
    mch_poller_remove(engine->base.poller, child->watch);
    close(child->watch);
  }
  if (child->lifeline >= 0)
    close(child->lifeline);
  child->watch = child->lifeline = -1;
}

static void close_child(struct child *child) {
  struct engine_fork *engine = child->engine;
  int which;
  for (which = 0; which < MEMBERSHIPS; which++)
    take_out(child, (enum membership)which);
  engine->hungry = NULL;
  close_process(child);
  if (child->begun >= 0)
    close(child->begun);
  for (which = 0; which < 2; which++) {
    if (child->streams[which].fd >= 0) {
      mch_poller_remove(engine->base.poller, child->streams[which].fd);
      close(child->streams[which].fd);
    }
    mch_buf_free(&child->streams[which].raw);
  }
  mch_platform_unshare(child->shared, sizeof *child->shared);
  mch_buf_free(&child->codes);
  mch_buf_free(&child->last_log);
  free(child->bars);
  free(child->bar_ids);
  free(child);
}

/* Programs that it started may outlive it and have its pipes: they are read to their end. */
static int is_heard(const struct child *child) {
  return child->streams[0].fd >= 0 || child->streams[1].fd >= 0;
}

static void remove_ended(struct engine_fork *engine) {
  struct child **at = &engine->children;
  unsigned heard = 0;
  while (engine->ended > 0 && *at != NULL) {
    struct child *child = *at;
    if (child->state == ENDED && !engine->quitting && is_heard(child) && heard++ < MOST_HEARD)
      close_process(child);
    else if (child->state == ENDED) {
      *at = child->next;
      pass_last_lines(child);
      close_child(child);
      engine->ended--;
      continue;
    }
    at = &child->next;
  }
}

/* -- stopping ----------------------------------------------------------------------------- */

static void stop(struct mch_engine *base, struct mch_task *task) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child = task->holder;
  if (child == NULL)
    return;
  if (task->batch != NULL) {
    shorten_batch(child, task, 0, 0);
    if (!item_has_begun(child, task)) {
      task->stop = 0; /* it ended this moment */
      return;
    }
  } else if (take_back(child, task)) {
    struct mch_result *result = mch_result_new((enum mch_kind)task->stop, NULL, NULL, 0);
    engine->config.events.finished(engine->config.events.ud, task, result);
    return;
  }
  atomic_store(&child->shared->orders.stop, task->ticket);
  kill(child->pid, MCH_STOP_SIGNAL);
  kill_later(child, mch_now() + engine->config.grace);
  child->insist_at = child->kill_at - engine->config.grace / 5 * 2;
  look_at(engine, child->insist_at);
}

/* What has met the error of the stop and runs on meets it once more before it is killed: it may
 * have been caught by code that knows nothing of it. A task that has ended by now is not meant. */
static void insist(struct child *child) {
  child->insist_at = MCH_NEVER;
  atomic_store(&child->shared->orders.insist, atomic_load(&child->shared->orders.stop));
  if (!child->killed && !mch_platform_has_ended(child->watch))
    kill(child->pid, MCH_STOP_SIGNAL);
}

static int reclaim(struct mch_engine *base, struct mch_task *batch) {
  struct child *child = batch->holder;
  (void)base;
  if (child == NULL || !take_back(child, batch))
    return 0;
  give_back(child, batch);
  return 1;
}

static void shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number) {
  struct child *child = batch->holder;
  (void)base;
  if (child != NULL)
    shorten_batch(child, batch, number, 0);
}

static uint64_t timeout_of(const struct engine_fork *engine, const struct mch_task *task) {
  return task->extra != NULL && task->extra->timeout != 0 ? task->extra->timeout
                                                          : engine->config.timeout;
}

/* When the task or item that the worker has begun will have run too long. MCH_NEVER: it may run as
 * long as it likes, or it is being stopped. */
static uint64_t limit_of(const struct child *child, const struct mch_task *task) {
  uint64_t timeout = timeout_of(child->engine, task);
  uint64_t began;
  if (timeout == 0 || task->stop != 0)
    return MCH_NEVER;
  /* Read after its claim, before which the worker has written it. */
  began = atomic_load(&child->shared->running_since);
  return began <= mch_now() && timeout < MCH_NEVER - began ? began + timeout : MCH_NEVER;
}

/* When the pool's time for what comes before the first task is over: the earliest time, while it
 * has not begun. MCH_NEVER: it may take any time, or is over. */
static uint64_t init_limit(struct child *child) {
  uint64_t timeout = child->engine->config.timeout, now = mch_now(), since;
  if (!child->eager || timeout == 0 || child->state != LIVE)
    return MCH_NEVER;
  since = atomic_load(&child->shared->preparing_since);
  if (since == MCH_NEVER)
    return MCH_NEVER;
  if (child->prepares == 0 && since != 0)
    child->prepares = since < now ? since : now;
  return (child->prepares != 0 ? child->prepares : now) + timeout;
}

/* When to look at the worker's time-outs: when what it has begun will have run too long; for tasks
 * that have not begun the earliest time at which that may be. MCH_NEVER: no need. */
static uint64_t timeout_at(struct child *child) {
  const struct engine_fork *engine = child->engine;
  const struct mch_task *task = begun(child);
  uint64_t limit = task != NULL ? limit_of(child, task) : init_limit(child), least = 0;
  uint32_t i;
  if (limit != MCH_NEVER)
    return limit;
  for (i = 0; i < MCH_CLAIMS; i++)
    if ((task = child->offered[i]) != NULL && timeout_of(engine, task) != 0 &&
        (least == 0 || timeout_of(engine, task) < least))
      least = timeout_of(engine, task);
  return least == 0 ? MCH_NEVER : mch_now() + least;
}

/* The ticket after the last one; 0 means none, so it is left out when the count wraps. */
static uint32_t next_ticket(const struct child *child) {
  return after(child->last_ticket);
}

/* Note that the worker is offered this task, by its next ticket. */
static void book(struct child *child, struct mch_task *task) {
  uint32_t ticket = next_ticket(child);
  child->last_ticket = task->ticket = ticket;
  if (child->outstanding == 0) {
    child->first_ticket = ticket;
    child->oldest_since = mch_now();
    child->ring_at = child->oldest_since + ring_again;
    look_at(child->engine, slow_at(child));
  }
  atomic_store(&child->shared->claims[ticket % MCH_CLAIMS],
               (uint64_t)ticket << 2 | MCH_CLAIM_OFFERED);
  child->offered[ticket % MCH_CLAIMS] = task;
  child->outstanding++;
  child->offers++;
  child->ahead_bytes += task->length;
  child->engine->batches += task->batch != NULL;
  task->holder = child;
  if (task->priority < child->engine->lowest)
    child->engine->lowest = task->priority;
  if (task->extra != NULL && task->extra->timeout != 0)
    child->engine->timeouts = 1;
  if (timeout_of(child->engine, task) != 0)
    look_at(child->engine, sooner(mch_now() + timeout_of(child->engine, task), init_limit(child)));
}

/* -- forking ------------------------------------------------------------------------------ */

/* Descriptors of a worker in the making; index 0 is the end that reads, for the pairs of pipes. */
struct plumbing {
  int sockets[2]; /* [0] ours, [1] the worker's */
  int out[2], err[2], life[2];
  int begun;   /* of both: see mch_begun_word() */
  pid_t owner; /* the process that forks */
};

static void close_pair(int fds[2]) {
  if (fds[0] >= 0)
    close(fds[0]);
  if (fds[1] >= 0)
    close(fds[1]);
  fds[0] = fds[1] = -1;
}

static void close_plumbing(struct plumbing *plumbing) {
  close_pair(plumbing->sockets);
  close_pair(plumbing->out);
  close_pair(plumbing->err);
  close_pair(plumbing->life);
  if (plumbing->begun >= 0)
    close(plumbing->begun);
  plumbing->begun = -1;
}

static int make_plumbing(struct plumbing *plumbing, struct mch_error *error) {
  int code;
  memset(plumbing, -1, sizeof *plumbing);
  if ((code = mch_platform_socketpair(plumbing->sockets, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->out, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->err, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->life, error)) != 0 ||
      (code = mch_platform_mark_open(&plumbing->begun, error)) != 0) {
    close_plumbing(plumbing);
    return code;
  }
  mch_platform_nonblocking(plumbing->out[0]);
  mch_platform_nonblocking(plumbing->err[0]);
  plumbing->owner = getpid();
  return 0;
}

/* Handlers of the host become default; what it ignores stays ignored, as after exec. */
static void child_reset_signals(void) {
  int number;
  for (number = 1; number < NSIG; number++) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0)
      continue;
    if ((action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL)
      continue;
    if ((action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN && number != SIGCHLD)
      continue;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
  }
}

static void child_set_mask_empty(void) {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* Close what belongs to the pool: its ends to other workers (else their ends of stream are lost on
 * it) and its poller. */
static void child_close_pools(struct engine_fork *engine) {
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next) {
    close(child->channel.fd);
    close(child->lifeline);
    if (child->streams[0].fd >= 0)
      close(child->streams[0].fd);
    if (child->streams[1].fd >= 0)
      close(child->streams[1].fd);
    if (child->watch >= 0)
      close(child->watch);
    if (child->begun >= 0)
      close(child->begun);
    if (!child->unforked)
      mch_platform_unshare(child->shared, sizeof *child->shared);
    child->shared = NULL;
  }
  if (mch_poller_fd(engine->base.poller) >= 0)
    close(mch_poller_fd(engine->base.poller));
}

static void child_set_stdio(const struct plumbing *plumbing) {
  int null = open("/dev/null", O_RDONLY);
  if (null >= 0) {
    dup2(null, 0); /* nothing happens when it is 0 already: so without O_CLOEXEC */
    if (null > 2)
      close(null);
  }
  dup2(plumbing->out[1], 1);
  dup2(plumbing->err[1], 2);
  clearerr(stdin);
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  setvbuf(stderr, NULL, _IONBF, 0);
}

/* Most workers of a pool that lives for moments only are never asked for anything: until there is a
 * message or some time has passed no more is set up. All signals are blocked so long; and nobody
 * waits for the ends of other workers' streams that this one has yet to close. */
static void child_wait_to_be_asked(int socket) {
  mch_platform_await(&socket, 1, mch_now() + unasked_rest, NULL);
  if (mch_platform_stream_ended(socket))
    _exit(0);
}

/* The child's way from the fork to its task loop. What is undone here, in this order, and why:
 *  1. group: of its own, so that a terminal's Ctrl-C and Ctrl-Z reach the parent only, and so that
 *     it can be killed together with what it starts;
 *  2. lifeline: from here on it does not outlive the parent;
 *  3. handlers: a worker must not run the host's (print its summary, reset its terminal);
 *  4. the pool's descriptors: else this process keeps other workers' streams open;
 *  5. stdio: stdin empty, stdout and stderr into the pipes; nothing buffered of the parent's;
 *  6. signal mask: empty;
 *  7. the outer worker's descriptors, when this is a worker's worker;
 *  8. the gate, should the C library not know what is to be done with it.
 * Random state, pools, os.exit and finalizers are Lua's: the runner's `begin` sees to them. */
static void child_main(const struct child *self, struct plumbing *plumbing,
                       const struct mch_task *only) __attribute__((noreturn));
static void child_main(const struct child *self, struct plumbing *plumbing,
                       const struct mch_task *only) {
  struct engine_fork *engine = self->engine;
  struct mch_worker *worker;
  setpgid(0, 0);
  close(plumbing->life[1]);
  if (mch_platform_lifeline(plumbing->life[0]) != 0)
    _exit(71);
  close(plumbing->sockets[0]);
  if (self->patient)
    child_wait_to_be_asked(plumbing->sockets[1]);
  child_reset_signals();
  child_close_pools(engine);
  close(plumbing->out[0]);
  close(plumbing->err[0]);
  mch_platform_limit(engine->config.limit_memory, engine->config.limit_cpu,
                     engine->config.limit_files);
  mch_platform_purge_stdio();
  child_set_stdio(plumbing);
  child_set_mask_empty();
  if (engine->config.self != NULL)
    mch_worker_disown(engine->config.self);
  open_copied_gate();
  worker = calloc(1, sizeof *worker);
  if (worker == NULL)
    _exit(71);
  mch_channel_open(&worker->channel, plumbing->sockets[1]);
  mch_channel_use_rings(&worker->channel, &self->shared->down, &self->shared->up);
  worker->shared = self->shared;
  worker->begun = plumbing->begun;
  mch_platform_protect(self->shared->down.bytes,
                       sizeof *self->shared - offsetof(struct mch_shared, down.bytes));
  worker->only = only;
  worker->chaos = mch_chaos_split(&engine->chaos, engine->forks);
  worker->lifeline = plumbing->life[0];
  worker->owner = plumbing->owner;
  worker->pipes[0] = plumbing->out[1];
  worker->pipes[1] = plumbing->err[1];
  worker->runner = engine->config.runner;
  if (engine->config.child_hook != NULL)
    engine->config.child_hook(engine->config.child_hook_ud);
  mch_worker_main(worker);
}

static int watch(struct child *child, size_t index, int fd, unsigned bit) {
  child->sources[index].child = child;
  child->sources[index].bit = bit;
  return mch_poller_add(child->engine->base.poller, fd, MCH_READABLE, &child->sources[index]);
}

/* The least number that no living worker has; there are at most as many as MOST_SLOTS. */
static unsigned free_slot(const struct engine_fork *engine) {
  unsigned char taken[MOST_SLOTS] = {0};
  const struct child *child;
  unsigned slot = 1;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->state == LIVE && child->slot < MOST_SLOTS)
      taken[child->slot] = 1;
  while (slot < MOST_SLOTS - 1 && taken[slot])
    slot++;
  return slot;
}

/* The parent's side of a fresh worker. 0, or -1: it cannot be listened to. */
static int adopt(struct child *child, struct plumbing *plumbing) {
  struct engine_fork *engine = child->engine;
  int deaf;
  setpgid(child->pid, child->pid); /* both do it, so that it is done for both */
  close(plumbing->sockets[1]);
  close(plumbing->out[1]);
  close(plumbing->err[1]);
  close(plumbing->life[0]);
  mch_channel_open(&child->channel, plumbing->sockets[0]);
  mch_channel_use_rings(&child->channel, &child->shared->up, &child->shared->down);
  child->channel.chaos = &engine->chaos;
  child->streams[0].fd = plumbing->out[0];
  child->streams[1].fd = plumbing->err[0];
  child->lifeline = plumbing->life[1];
  child->begun = plumbing->begun;
  child->watch = mch_platform_watch_process(child->pid);
  deaf = watch(child, 0, child->channel.fd, CHANNEL) != 0 ||
         watch(child, 1, child->streams[0].fd, STDOUT) != 0 ||
         watch(child, 2, child->streams[1].fd, STDERR) != 0;
  if (child->watch >= 0 && watch(child, 3, child->watch, PROCESS) != 0) {
    close(child->watch);
    child->watch = -1; /* looked at from time to time instead */
  }
  child->unforked = mch_platform_keep_from_forks(child->shared, sizeof *child->shared);
  child->slot = free_slot(engine);
  child->next = engine->children;
  engine->children = child;
  engine->live++;
  wake(child);
  if (child->watch < 0)
    look_at(engine, mch_now() + unwatched_check);
  return deaf ? -1 : 0;
}

/* A worker that came to nothing goes, as one that has left; its task was never its own. */
static int disown(struct child *child, struct mch_task *only, struct mch_error *error) {
  int code = mch_error_system(error, "cannot listen to a worker");
  if (only != NULL)
    settle(child, only);
  kill_now(child);
  child->state = LEAVING;
  child->engine->live--;
  wake(child);
  return code;
}

/* Chaos makes it fail at times, but only while there are workers: so the promise stands. */
static pid_t fork_now(struct engine_fork *engine) {
  if (engine->live > 0 && mch_chaos_strikes(&engine->chaos)) {
    errno = EAGAIN;
    return -1;
  }
  return fork();
}

/* The one function that forks. Signals are blocked around it, so that no handler of the host runs
 * in the child before it is reset; locks of ours are free in the child. */
static int fork_worker(struct engine_fork *engine, struct mch_task *only, int patient,
                       struct mch_error *error) {
  struct plumbing plumbing;
  struct child *child = calloc(1, sizeof *child);
  sigset_t all, old;
  int code;
  if (child == NULL)
    return mch_error_set(error, MCH_NOMEM, "cannot start a worker: not enough memory");
  child->shared = mch_platform_share(sizeof *child->shared);
  if (child->shared == NULL) {
    free(child);
    return mch_error_set(error, MCH_NOMEM, "cannot start a worker: not enough memory");
  }
  if ((code = make_plumbing(&plumbing, error)) != 0) {
    mch_platform_unshare(child->shared, sizeof *child->shared);
    free(child);
    return code;
  }
  child->engine = engine;
  child->kill_at = child->insist_at = MCH_NEVER;
  child->begun = -1;
  child->forked = mch_now();
  child->pristine = 1;
  child->eager = engine->config.runner.eager(engine->config.runner.ud);
  child->patient = patient && !child->eager;
  atomic_store(&child->shared->orders.log_threshold, engine->log_level);
  atomic_store(&child->shared->down.reader_sleeps, 1); /* who is patient wants a bell */
  if (only != NULL)
    book(child, only);
  mch_platform_flush_streams();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  close_gate();
  engine->forks++;
  child->pid = fork_now(engine);
  if (child->pid == 0)
    child_main(child, &plumbing, only);
  open_gate();
  if (child->pid < 0) {
    code = mch_error_system(error, "cannot start a worker");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (only != NULL)
      only->holder = NULL;
    close_plumbing(&plumbing);
    mch_platform_unshare(child->shared, sizeof *child->shared);
    free(child);
    return code;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return adopt(child, &plumbing) == 0 ? 0 : disown(child, only, error);
}

/* How many workers there shall be now. */
static unsigned wanted(const struct engine_fork *engine) {
  return engine->base.frugal ? 1 : engine->config.nworkers;
}

/* Fork up to the number of workers. 0 when at least one lives. */
static int fork_missing(struct engine_fork *engine, size_t queued, struct mch_error *error) {
  int code = 0;
  while (code == 0 && engine->live < wanted(engine))
    code = fork_worker(engine, NULL, queued == 0, error);
  engine->fork_again = code == 0 ? 0 : mch_now() + fork_retry;
  return engine->live > 0 ? 0 : code;
}

static int start(struct mch_engine *base, struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  engine->quitting = 0;
  engine->started = 1;
  engine->unlucky = 0;
  return engine->config.snapshot || engine->live > 0 ? 0 : fork_worker(engine, NULL, 0, error);
}

/* Workers that ended are replaced; after one that did not live to its first task only for a task.
 */
static int short_of_workers(struct mch_engine *base, size_t queued) {
  struct engine_fork *engine = (struct engine_fork *)base;
  return engine->started && !engine->quitting && engine->live < wanted(engine) &&
         mch_now() >= engine->fork_again &&
         ((!engine->unlucky && !engine->config.snapshot) || queued > 0);
}

static int add(struct mch_engine *base, size_t queued, struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  engine->unlucky = 0;
  return engine->config.snapshot ? 0 : fork_missing(engine, queued, error);
}

/* A worker of its own for the task, forked now. */
static int submit_snapshot(struct engine_fork *engine, struct mch_task *task, int owner,
                           struct mch_error *error) {
  int code;
  if (!owner || engine->live >= engine->config.nworkers || mch_now() < engine->fork_again)
    return MCH_FULL;
  code = fork_worker(engine, task, 0, error);
  engine->fork_again = code == 0 ? 0 : mch_now() + fork_retry;
  return code != 0 && engine->live > 0 ? MCH_FULL : code;
}

/* -- dispatch ----------------------------------------------------------------------------- */

static int has_code(const struct child *child, uint32_t id) {
  size_t low = 0, high = child->codes.length / sizeof id;
  const uint32_t *ids = (const uint32_t *)(const void *)child->codes.data;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (ids[middle] == id)
      return 1;
    if (ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return 0;
}

/* Remember an id; they come mostly in rising order. */
static int add_code(struct child *child, uint32_t id) {
  uint32_t *ids;
  size_t at;
  mch_buf_append(&child->codes, &id, sizeof id);
  if (child->codes.failed != 0) {
    child->codes.failed = 0; /* the next task may find memory */
    return MCH_NOMEM;
  }
  ids = (uint32_t *)(void *)child->codes.data;
  for (at = child->codes.length / sizeof id - 1; at > 0 && ids[at - 1] > id; at--)
    ids[at] = ids[at - 1];
  ids[at] = id;
  return 0;
}

/* Send the bytecode that `task` needs and the worker does not have. */
static int send_codes(struct child *child, const struct mch_task *task, struct mch_error *error) {
  const struct mch_codes *codes = &child->engine->config.codes;
  uint32_t i;
  for (i = 0; i < task->codes; i++) {
    struct mch_message_head head = {MCH_MESSAGE_CODE, 0, 0, 0};
    uint32_t id;
    size_t length;
    const void *bytes;
    memcpy(&id, task->body + i * sizeof id, sizeof id);
    if (has_code(child, id))
      continue;
    bytes = codes->get(codes->ud, id, &length);
    head.runid = id;
    if (bytes == NULL || mch_channel_put(&child->channel, &head, bytes, length, error) != 0)
      return mch_error_set(error, MCH_NOMEM, "not enough memory to send a task");
    if (add_code(child, id) != 0)
      return mch_error_set(error, MCH_NOMEM, "not enough memory to send a task");
  }
  return 0;
}

/* Offer `task` to the worker. */
static int offer(struct child *child, struct mch_task *task, struct mch_error *error) {
  struct mch_message_head head = {MCH_MESSAGE_TASK, task->attempt, 0, task->runid};
  size_t name_length = task->extra == NULL ? 0 : task->extra->name_length;
  struct mch_body graph = mch_task_graph(task);
  size_t front_length;
  unsigned char front[2 + MCH_NAME_MAX];
  uint32_t ticket = next_ticket(child);
  int code;
  if ((code = send_codes(child, task, error)) != 0)
    return code;
  if (task->batch != NULL) {
    head.type = MCH_MESSAGE_BATCH;
    mch_store_u32(front, task->batch->count);
    mch_store_u32(front + 4, task->batch->function_length);
    front_length = 8;
  } else {
    if (name_length > MCH_NAME_MAX)
      name_length = MCH_NAME_MAX;
    front_length = 2 + name_length;
    mch_store_u16(front, (uint16_t)name_length);
    if (name_length > 0)
      memcpy(front + 2, task->extra->name, name_length);
  }
  head.ticket = ticket;
  code = task->cargo != NULL ? mch_channel_put_body(&child->channel, &head, front, front_length,
                                                    &graph, task->cargo, error)
                             : mch_channel_put2(&child->channel, &head, front, front_length,
                                                graph.bytes, graph.length, error);
  put_into(child, UNSENT, &child->engine->unsent);
  if (code != 0)
    return code;
  book(child, task);
  wake(child);
  return 0;
}

/* Whether the next ticket may be given out. The worker has passed what it was sent so long ago
 * (also what was taken back), and the answer to the ticket that had the same place has been read.
 */
static int has_ticket(const struct child *child) {
  uint32_t ahead = child->last_ticket - atomic_load(&child->shared->passed);
  return ahead < MCH_CLAIMS - 1 && child->offered[(child->last_ticket + 1) % MCH_CLAIMS] == NULL;
}

/* Whether the worker has yet to come to a task that was taken back for this. */
static int is_behind(const struct child *child) {
  return child->left_behind != 0 &&
         is_before(atomic_load(&child->shared->passed), child->left_behind);
}

/* Whether one more task may be sent ahead to the worker. */
static int has_room(const struct engine_fork *engine, const struct child *child) {
  uint64_t most = engine->config.max_tasks_per_worker;
  if (child->state != LIVE || child->killed || child->stream_ended != 0 || child->exit_said)
    return 0;
  if (most > 0 && child->offers >= most)
    return 0;
  if (!has_ticket(child) || is_behind(child))
    return 0;
  return child->outstanding == 0 ||
         (child->outstanding < MCH_CLAIMS / 2 && child->ahead_bytes < AHEAD_BYTES &&
          mch_channel_unsent(&child->channel) < UNSENT_LIMIT);
}

/* It has no room now; what changes that wakes it. But nothing comes from one with nothing to do,
 * which is full for a moment after much was taken back from it: it is looked at again soon. */
static void shut(struct engine_fork *engine, struct child *child) {
  int passes =
      child->state == LIVE && child->outstanding == 0 && (!has_ticket(child) || is_behind(child));
  put_into(child, LOAD, passes ? &engine->passing : &engine->shut[child->outstanding]);
}

/* How soon to look again whether one of those may have room. */
static uint64_t ticket_pause(const struct engine_fork *engine) {
  const struct child *child;
  uint64_t pause = 0;
  for (child = engine->passing; child != NULL; child = child->links[LOAD].next)
    if (!has_ticket(child))
      return passing_check;
    else
      pause = behind_check;
  return pause;
}

static void open_passing(struct engine_fork *engine) {
  while (engine->passing != NULL)
    wake(engine->passing);
}

/* The least loaded worker with room; one that runs a task that shall stop is no good choice. */
static struct child *choose(struct engine_fork *engine) {
  for (; engine->least <= engine->most; engine->least++) {
    struct child *child;
    while ((child = engine->open[engine->least]) != NULL) {
      if (has_room(engine, child) && (child->kill_at == MCH_NEVER || child->outstanding == 0))
        return child;
      shut(engine, child);
    }
  }
  return NULL;
}

static int submit(struct mch_engine *base, struct mch_task *task, int owner,
                  struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  if (engine->config.snapshot)
    return submit_snapshot(engine, task, owner, error);
  child = choose(engine);
  if (child == NULL) {
    engine->waits_for_tickets = ticket_pause(engine);
    return MCH_FULL;
  }
  engine->unlucky = 0; /* a task is there: a missing worker may be forked for it */
  return offer(child, task, error);
}

/* Take back the later half of a batch that a worker has begun, the longest one by what is left. */
static void split_running(struct engine_fork *engine) {
  struct child *child, *holds = NULL;
  struct mch_task *longest = NULL;
  uint32_t most = 0;
  for (child = engine->children; child != NULL && engine->batches > 0; child = child->next) {
    struct mch_task *task = begun(child);
    uint64_t word = atomic_load(&child->shared->items);
    if (task == NULL || task->batch == NULL || !is_items_word(task, word) ||
        mch_items_limit(word) - mch_items_next(word) <= most)
      continue;
    most = mch_items_limit(word) - mch_items_next(word);
    longest = task;
    holds = child;
  }
  if (longest != NULL)
    shorten_batch(holds, longest, 0, 1);
}

static int has_idle(struct engine_fork *engine) {
  while (engine->open[0] != NULL && !has_room(engine, engine->open[0]))
    shut(engine, engine->open[0]);
  return engine->open[0] != NULL;
}

/* One that has more than it runs; or NULL. */
static struct child *find_busiest(struct engine_fork *engine) {
  for (; engine->most > 1; engine->most--) {
    if (engine->open[engine->most] != NULL)
      return engine->open[engine->most];
    if (engine->shut[engine->most] != NULL)
      return engine->shut[engine->most];
  }
  return NULL;
}

/* Whether the worker has had its only task for a while and not begun it: it was stopped, say, or
 * sets itself up. */
static int is_slow(const struct child *child) {
  const struct mch_task *task = oldest(child);
  return child->state == LIVE && child->outstanding == 1 &&
         claim_of(child, task->ticket) == claim_word(task->ticket, MCH_CLAIM_OFFERED);
}

/* Take such a task back; its worker gets none before it has come so far. Whether there was one. */
static int take_unbegun(struct engine_fork *engine) {
  struct child *child;
  if (engine->pumped < engine->look_for_slow)
    return 0;
  engine->look_for_slow = engine->pumped + slow_start / 4;
  for (child = engine->children; child != NULL; child = child->next) {
    struct mch_task *task = oldest(child);
    if (!is_slow(child) || engine->pumped < child->oldest_since + slow_start ||
        !take_back(child, task))
      continue;
    child->left_behind = task->ticket;
    give_back(child, task);
    return 1;
  }
  return 0;
}

/* Something may have taken the bell that it waits for. */
static void ring_for(struct child *child, uint64_t now) {
  const struct mch_task *task = oldest(child);
  if (task == NULL || now < child->ring_at || is_taken(child, task->ticket))
    return;
  mch_channel_ring(&child->channel);
  child->ring_at = now + ring_again;
}

/* Move half of what waits at the busiest worker to the queue when another has nothing to do. */
static void steal(struct engine_fork *engine, size_t queued) {
  struct child *busiest;
  uint32_t ticket;
  unsigned share;
  if (queued > 0 || !has_idle(engine))
    return;
  busiest = find_busiest(engine);
  if (busiest == NULL) {
    if (!take_unbegun(engine))
      split_running(engine);
    return;
  }
  share = busiest->outstanding / 2;
  for (ticket = busiest->last_ticket; share > 0 && busiest->last_ticket - ticket < MCH_CLAIMS;
       ticket--) {
    struct mch_task *task = busiest->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    if (!take_back(busiest, task))
      break; /* the worker has come so far */
    give_back(busiest, task);
    share--;
  }
}

/* Take back what this worker has not begun and is less urgent, unless that is all it has. The
 * lowest priority of what stays. */
static int32_t recall_from(struct child *child, int32_t priority) {
  uint32_t i, left = child->outstanding;
  int32_t lowest = INT32_MAX;
  for (i = 0; i < MCH_CLAIMS && left > 0; i++) {
    uint32_t ticket = child->last_ticket - i;
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    left--;
    if (task->priority < priority && child->outstanding > 1 && take_back(child, task))
      give_back(child, task);
    else if (task->priority < lowest && claim_of(child, ticket) == MCH_CLAIM_OFFERED)
      lowest = task->priority;
  }
  return lowest;
}

static void recall(struct mch_engine *base, int32_t priority) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  int32_t lowest = INT32_MAX;
  if (engine->lowest >= priority)
    return;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->outstanding > 0) {
      int32_t stays = recall_from(child, priority);
      lowest = stays < lowest ? stays : lowest;
    }
  engine->lowest = lowest;
}

/* One that was never asked for anything has nothing to finish: the end of its stream will do. */
static void send_quit(struct child *child) {
  struct mch_message_head head = {MCH_MESSAGE_QUIT, 0, 0, 0};
  if (child->state != LIVE)
    return;
  if (child->patient && child->last_ticket == 0)
    mch_platform_end_stream(child->channel.fd);
  else if (mch_channel_put(&child->channel, &head, NULL, 0, NULL) != 0) {
    kill_now(child);
    return;
  }
  child->state = LEAVING;
  child->engine->live--;
  put_into(child, UNSENT, &child->engine->unsent);
  kill_later(child, mch_now() + leave_grace);
  wake(child);
}

/* A worker that did its share leaves once nothing is with it. */
static void retire(struct engine_fork *engine, struct child *child) {
  uint64_t most = engine->config.max_tasks_per_worker;
  if (most > 0 && child->state == LIVE && child->tasks >= most && child->outstanding == 0)
    send_quit(child);
}

/* What does not fit stays; the worker rings when it has made room. */
static void flush(struct child *child) {
  if (child->state != ENDED && mch_channel_unsent(&child->channel) > 0)
    mch_channel_flush(&child->channel, 0, NULL); /* its end is seen when reading */
  if (child->state == ENDED || mch_channel_unsent(&child->channel) == 0)
    take_out(child, UNSENT);
}

/* Its `init` takes too long. The task that waits for it ends by that, the others are for other
 * workers; this one is stopped like a task, and leaves. They are taken back from the last to the
 * first: when the first is among them the worker has none, and begins none. */
static void end_init(struct child *child, uint64_t now) {
  struct mch_task *task = oldest(child);
  struct mch_result *result;
  uint32_t ticket;
  for (ticket = child->last_ticket; ticket != task->ticket; ticket--) {
    struct mch_task *other = child->offered[ticket % MCH_CLAIMS];
    if (other != NULL && other->ticket == ticket && take_back(child, other))
      give_back(child, other);
  }
  if (!withdraw(child, task))
    return; /* it is over this moment */
  atomic_store(&child->shared->orders.stop, task->ticket);
  kill(child->pid, MCH_STOP_SIGNAL);
  child->barren = 1;
  result = mch_result_new(MCH_KIND_TIMEOUT, "init", NULL, 0);
  if (result != NULL)
    result->elapsed = now - child->prepares;
  if (task->batch != NULL) {
    fail_item(child, task, result);
    return_rest(child, task);
    finish_batch(child, task, 0);
  } else
    finish(child, task, result);
  send_quit(child);
  flush(child);
}

/* Of a batch no other item begins from here on, so that the one that is stopped is the one that
 * runs too long. */
static void check_time(struct child *child, uint64_t now) {
  struct mch_task *task;
  if (child->kill_at <= now)
    kill_now(child);
  else if (child->insist_at <= now)
    insist(child);
  if (!child->engine->timeouts || child->outstanding == 0 || child->killed)
    return;
  if ((task = begun(child)) == NULL) {
    if (init_limit(child) <= now)
      end_init(child, now);
    return;
  }
  if (limit_of(child, task) > now)
    return;
  if (task->batch != NULL) {
    shorten_batch(child, task, 0, 0);
    if (limit_of(child, task) > now)
      return;
  }
  task->stop = MCH_KIND_TIMEOUT;
  stop(&child->engine->base, task);
}

/* A stream that has ended stays "ready" for ever: do not watch it any longer. */
static void unwatch_ended(struct child *child) {
  if (child->stream_ended != 0 && child->channel.fd >= 0) {
    mch_poller_remove(child->engine->base.poller, child->channel.fd);
    close(child->channel.fd);
    child->channel.fd = -1;
  }
}

static void collect_ready(struct engine_fork *engine) {
  struct mch_ready ready[64];
  int count = mch_poller_wait(engine->base.poller, ready, 64, 0, NULL), i;
  for (i = 0; i < count; i++) {
    struct source *source = ready[i].ud;
    if (source == NULL || !(ready[i].events & MCH_READABLE) || mch_chaos_strikes(&engine->chaos))
      continue;
    source->child->ready |= source->bit;
    wake(source->child);
  }
}

/* Serve the workers in another order from now on. */
static void rotate(struct engine_fork *engine) {
  struct child *first = engine->children, **end = &engine->children;
  if (first == NULL)
    return;
  engine->children = first->next;
  while (*end != NULL)
    end = &(*end)->next;
  *end = first;
  first->next = NULL;
}

static void stir(struct engine_fork *engine) {
  mch_chaos_pause(&engine->chaos);
  if (mch_chaos_strikes(&engine->chaos))
    rotate(engine);
  if (mch_chaos_strikes(&engine->chaos))
    recall(&engine->base, INT32_MAX);
  if (mch_chaos_strikes(&engine->chaos))
    steal(engine, 0);
}

/* Do all that there is to do with this worker now. */
static void visit(struct engine_fork *engine, struct child *child, uint64_t now) {
  if ((child->ready & (CHANNEL | STDOUT | STDERR)) || mch_channel_waiting(&child->channel))
    drain(child);
  mch_chaos_pause(&engine->chaos);
  unwatch_ended(child);
  check_end(child, now);
  child->ready = 0;
  if (child->state != ENDED) {
    check_page(child);
    ring_for(child, now);
    check_time(child, now);
    retire(engine, child);
  }
}

/* When time has something to do with this worker. */
static uint64_t due_at(struct child *child, uint64_t now) {
  uint64_t due = sooner(child->kill_at, child->insist_at);
  if (child->state == ENDED)
    return MCH_NEVER;
  if (child->stream_ended != 0 && !child->killed)
    due = sooner(due, child->stream_ended + end_grace);
  if (child->watch < 0)
    due = sooner(due, now + unwatched_check);
  if (child->outstanding > 0 && !is_taken(child, child->first_ticket))
    due = sooner(due, slow_at(child));
  if (child->engine->timeouts && child->outstanding > 0)
    due = sooner(due, timeout_at(child));
  return due;
}

/* Time is up for one of them at least, or may be. */
static void visit_all(struct engine_fork *engine, uint64_t now) {
  struct child *child;
  engine->look = MCH_NEVER;
  for (child = engine->children; child != NULL; child = child->next) {
    visit(engine, child, now);
    look_at(engine, due_at(child, now));
  }
}

static void pump(struct mch_engine *base, int owner, size_t queued) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child, *next;
  uint64_t now;
  (void)owner;
  if (engine->chaos.rate != 0)
    stir(engine);
  collect_ready(engine);
  engine->pumped = now = mch_now();
  engine->waits_for_tickets = 0;
  open_passing(engine);
  if (engine->look <= now)
    visit_all(engine, now);
  else
    for (child = engine->awake; child != NULL; child = next) {
      next = child->links[AWAKE].next;
      visit(engine, child, now);
    }
  remove_ended(engine);
  steal(engine, queued);
}

/* After the pool has submitted what it could. */
static void flush_all(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child, *next;
  for (child = engine->unsent; child != NULL; child = next) {
    next = child->links[UNSENT].next;
    mch_chaos_pause(&engine->chaos);
    flush(child);
  }
}

/* Only a few are asked at each time, one after the other. */
static int hungry(struct mch_engine *base) {
  enum { ASKED = 8 };
  struct engine_fork *engine = (struct engine_fork *)base;
  int i;
  for (i = 0; i < ASKED; i++) {
    const struct child *child = engine->hungry != NULL ? engine->hungry : engine->children;
    if (child == NULL)
      return 0;
    engine->hungry = child->next;
    if (child->state == LIVE &&
        child->last_ticket - atomic_load_explicit(&child->shared->passed, memory_order_relaxed) <
            LITTLE_AHEAD)
      return 1;
  }
  return 0;
}

/* Those that have nothing to say are told to ring from now on. */
static uint64_t deadline(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  uint64_t soonest = engine->look;
  struct child *child, *next;
  for (child = engine->awake; child != NULL; child = next) {
    next = child->links[AWAKE].next;
    if (child->state != ENDED && mch_channel_stays_awake(&child->channel))
      soonest = 0;
    else
      take_out(child, AWAKE);
  }
  /* Once only: the owner forks at the pump that it brings, the driver's thread never can. */
  if (engine->started && !engine->quitting && engine->live < wanted(engine) &&
      engine->fork_again > engine->pumped)
    soonest = sooner(soonest, engine->fork_again);
  if (engine->waits_for_tickets != 0)
    soonest = sooner(soonest, mch_now() + engine->waits_for_tickets);
  return soonest;
}

/* -- the rest of the interface ------------------------------------------------------------ */

/* The task that runs as far as its owner is concerned: a batch whose items are all answered has
 * only its last word to say. */
static struct mch_task *runs(const struct child *child) {
  struct mch_task *task = begun(child);
  return task != NULL && task->batch != NULL && task->batch->answered == task->batch->count ? NULL
                                                                                            : task;
}

static unsigned running(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  unsigned count = 0;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next)
    count += runs(child) != NULL;
  return count;
}

/* The run ID of a task that runs; of a batch, that of the first item without an answer. */
static uint64_t running_id(const struct mch_task *task) {
  return task->runid + (task->batch != NULL ? task->batch->answered : 0);
}

static int by_slot(const void *one, const void *other) {
  unsigned a = ((const struct mch_worker_info *)one)->slot;
  unsigned b = ((const struct mch_worker_info *)other)->slot;
  return (a > b) - (a < b);
}

static size_t workers(struct mch_engine *base, struct mch_worker_info *infos, size_t room) {
  struct engine_fork *engine = (struct engine_fork *)base;
  size_t count = 0;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next) {
    const struct mch_task *task = runs(child);
    if (child->state != LIVE || count == room)
      continue;
    infos[count].pid = (int)child->pid;
    infos[count].busy = task != NULL;
    infos[count].runid = task != NULL ? running_id(task) : 0;
    infos[count].tasks = child->tasks;
    infos[count].slot = child->slot;
    infos[count].maxrss = child->maxrss;
    count++;
  }
  qsort(infos, count, sizeof *infos, by_slot);
  return count;
}

static void log_threshold(struct mch_engine *base, int level) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  engine->log_level = level;
  for (child = engine->children; child != NULL; child = child->next)
    atomic_store(&child->shared->orders.log_threshold, level);
}

static void quit(struct mch_engine *base, int kill) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  engine->quitting = 1;
  for (child = engine->children; child != NULL; child = child->next)
    if (kill)
      kill_now(child);
    else {
      send_quit(child);
      flush(child);
    }
}

static int gone(struct mch_engine *base) {
  return ((struct engine_fork *)base)->children == NULL;
}

static void free_engine(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  while (engine->children != NULL) {
    struct child *child = engine->children;
    engine->children = child->next;
    close_child(child);
  }
  mch_output_unref(engine->config.output);
  mch_poller_free(base->poller);
  free(engine);
}

static const struct mch_engine_ops ops = {start,  submit,    stop,       reclaim, shorten,
                                          recall, flush_all, pump,       hungry,  short_of_workers,
                                          add,    deadline,  running,    workers, log_threshold,
                                          quit,   gone,      free_engine};

struct mch_engine *mch_engine_fork_new(const struct mch_engine_config *config,
                                       struct mch_error *error) {
  struct engine_fork *engine = calloc(1, sizeof *engine);
  if (engine == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory for a pool");
    return NULL;
  }
  engine->base.ops = &ops;
  engine->look = MCH_NEVER;
  engine->lowest = INT32_MAX;
  engine->base.poller = mch_poller_new(error);
  if (engine->base.poller == NULL) {
    free(engine);
    return NULL;
  }
  engine->config = *config;
  engine->chaos = config->chaos;
  if (config->self != NULL)
    engine->chaos = mch_chaos_nest(&config->self->chaos);
  engine->timeouts = config->timeout != 0;
  engine->log_level = config->log_level;
  mch_output_ref(config->output);
  return &engine->base;
}
