/* Runs in: parent.
 *
 * Which worker gets which task. Tasks are sent ahead, as many as a worker has room for, so that it
 * never waits for the pool; so they are also taken back: when another worker has nothing to do
 * (half of what the busiest one has), for a more urgent task, from a worker that does not begin
 * what it has, and the later half of a batch that runs. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <stdatomic.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/wire/cargo.h"
#include "runtime/wire/protocol.h"
#include "task.h"

/* How soon to look again at a worker without a free ticket, which passes over what was taken back
 * from it; and at one that may have been stopped (SIGSTOP). */
static const uint64_t ticket_check = 1000000u;
static const uint64_t behind_check = 20000000u;

int mch_feed_reclaim(struct mch_engine *base, struct mch_task *task) {
  struct child *child = task->holder;
  (void)base;
  if (child == NULL || !mch_child_take_back(child, task))
    return 0;
  mch_child_give_back(child, task);
  return 1;
}

void mch_feed_shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number) {
  struct child *child = batch->holder;
  (void)base;
  if (child != NULL)
    mch_hear_shorten_batch(child, batch, number, 0);
}

/* Note that the worker is offered this task, by its next ticket. */
void mch_feed_book(struct child *child, struct mch_task *task) {
  uint32_t ticket = mch_child_next_ticket(child);
  child->last_ticket = task->ticket = ticket;
  if (child->outstanding == 0) {
    child->first_ticket = ticket;
    child->oldest_since = mch_now();
    child->ring_at = child->oldest_since + ring_again;
    mch_child_look_at(child->engine, mch_child_slow_at(child));
  }
  atomic_store(&child->shared->claims[ticket % MCH_CLAIMS],
               (uint64_t)ticket << 2 | MCH_CLAIM_OFFERED);
  child->offered[ticket % MCH_CLAIMS] = task;
  child->outstanding++;
  child->offers++;
  child->in_flight_bytes += task->length;
  child->engine->batches += task->batch != NULL;
  task->holder = child;
  if (task->priority < child->engine->lowest)
    child->engine->lowest = task->priority;
  if (task->extra != NULL && task->extra->timeout != 0)
    child->engine->timeouts = 1;
  if (mch_time_timeout_of(child->engine, task) != 0)
    mch_child_look_at(child->engine,
                      mch_sooner(mch_now() + mch_time_timeout_of(child->engine, task),
                                 mch_time_init_limit(child)));
}

/* A worker of its own for the task, forked now. */
static int submit_snapshot(struct engine_fork *engine, struct mch_task *task, int owner,
                           struct mch_error *error) {
  int code;
  if (!owner || engine->live >= engine->config.nworkers || mch_now() < engine->fork_again)
    return MCH_FULL;
  code = mch_spawn_fork_worker(engine, task, 0, error);
  engine->fork_again = code == 0 ? 0 : mch_now() + fork_retry;
  return code != 0 && engine->live > 0 ? MCH_FULL : code;
}

/* -- dispatch ----------------------------------------------------------------------------- */

/* Where the id is among those that the worker has, or NULL. */
static uint32_t *find_code(const struct child *child, uint32_t id) {
  size_t low = 0, high = child->codes.length / sizeof id;
  uint32_t *ids = (uint32_t *)(void *)child->codes.data;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (ids[middle] == id)
      return &ids[middle];
    if (ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return NULL;
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
    if (find_code(child, id) != NULL)
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

/* A worker that cannot be told keeps it. */
int mch_feed_forget_code(struct mch_engine *base, uint32_t id) {
  struct engine_fork *engine = (struct engine_fork *)base;
  const struct mch_message_head head = {MCH_MESSAGE_CODE, 0, 0, id};
  struct child *child;
  struct mch_error error;
  for (child = engine->children; child != NULL; child = child->next) {
    uint32_t *at = find_code(child, id);
    if (at == NULL || child->state != LIVE)
      continue;
    memmove(at, at + 1,
            child->codes.length - (size_t)((unsigned char *)(at + 1) - child->codes.data));
    child->codes.length -= sizeof id;
    mch_channel_put(&child->channel, &head, NULL, 0, &error);
    mch_child_put_into(child, UNSENT, &engine->unsent);
  }
  return 1;
}

/* Offer `task` to the worker. */
static int offer(struct child *child, struct mch_task *task, struct mch_error *error) {
  struct mch_message_head head = {MCH_MESSAGE_TASK, task->attempt, 0, task->runid};
  size_t name_length = task->extra == NULL ? 0 : task->extra->name_length;
  struct mch_body graph = mch_task_graph(task);
  size_t front_length = 1;
  unsigned char front[1 + 8 + 2 + MCH_NAME_MAX] = {task->careful ? MCH_OPTION_CAREFUL : 0};
  uint32_t ticket = mch_child_next_ticket(child);
  int code;
  if ((code = send_codes(child, task, error)) != 0)
    return code;
  if (task->batch != NULL) {
    head.type = MCH_MESSAGE_BATCH;
    mch_store_u32(front + 1, task->batch->count);
    mch_store_u32(front + 5, task->batch->function_length);
    front_length += 8;
  } else {
    if (name_length > MCH_NAME_MAX)
      name_length = MCH_NAME_MAX;
    if (task->extra != NULL && task->extra->keyed) {
      front[0] |= MCH_OPTION_STREAM;
      mch_store_u64(front + 1, task->extra->stream);
      front_length += 8;
    }
    mch_store_u16(front + front_length, (uint16_t)name_length);
    if (name_length > 0)
      memcpy(front + front_length + 2, task->extra->name, name_length);
    front_length += 2 + name_length;
  }
  head.ticket = ticket;
  code = task->cargo != NULL ? mch_channel_put_body(&child->channel, &head, front, front_length,
                                                    &graph, task->cargo, error)
                             : mch_channel_put2(&child->channel, &head, front, front_length,
                                                graph.bytes, graph.length, error);
  mch_child_put_into(child, UNSENT, &child->engine->unsent);
  if (code != 0)
    return code;
  mch_feed_book(child, task);
  mch_child_wake(child);
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
         mch_child_is_before(atomic_load(&child->shared->passed), child->left_behind);
}

/* Whether one more task may be sent ahead to the worker. */
int mch_feed_has_room(const struct engine_fork *engine, const struct child *child) {
  uint64_t most = engine->config.max_tasks_per_worker;
  if (child->state != LIVE || child->killed || child->stream_ended != 0 || child->exit_said)
    return 0;
  if (most > 0 && child->offers >= most)
    return 0;
  if (!has_ticket(child) || is_behind(child))
    return 0;
  return child->outstanding == 0 ||
         (child->outstanding < MCH_CLAIMS / 2 && child->in_flight_bytes < MOST_IN_FLIGHT_BYTES &&
          mch_channel_unsent(&child->channel) < UNSENT_LIMIT);
}

/* It has no room now; what changes that wakes it. But nothing comes from one with nothing to do,
 * which is full for a moment after much was taken back from it: it is looked at again soon. */
static void shut(struct engine_fork *engine, struct child *child) {
  int lacks_tickets =
      child->state == LIVE && child->outstanding == 0 && (!has_ticket(child) || is_behind(child));
  mch_child_put_into(child, LOAD,
                     lacks_tickets ? &engine->out_of_tickets : &engine->shut[child->outstanding]);
}

/* How soon to look again whether one of those may have room. */
static uint64_t ticket_pause(const struct engine_fork *engine) {
  const struct child *child;
  uint64_t pause = 0;
  for (child = engine->out_of_tickets; child != NULL; child = child->links[LOAD].next)
    if (!has_ticket(child))
      return ticket_check;
    else
      pause = behind_check;
  return pause;
}

void mch_feed_open_all(struct engine_fork *engine) {
  while (engine->out_of_tickets != NULL)
    mch_child_wake(engine->out_of_tickets);
}

/* The last task that the worker has. */
static struct mch_task *newest(const struct child *child) {
  uint32_t ticket = child->last_ticket;
  while (child->offered[ticket % MCH_CLAIMS] == NULL)
    ticket--;
  return child->offered[ticket % MCH_CLAIMS];
}

/* Whether the task would come behind one that is to begin after it, which may take long. */
static int is_late_for(const struct mch_task *task, const struct child *child) {
  return child->outstanding > 0 && mch_task_goes_before(task, newest(child));
}

/* The least loaded worker with room; one that runs a task that shall stop is no good choice. */
static struct child *least_loaded(struct engine_fork *engine) {
  for (; engine->least <= engine->most; engine->least++) {
    struct child *child;
    while ((child = engine->open[engine->least]) != NULL) {
      if (mch_feed_has_room(engine, child) &&
          (child->kill_at == MCH_NEVER || child->outstanding == 0))
        return child;
      shut(engine, child);
    }
  }
  return NULL;
}

/* The one with room that has the least, and nothing that is to begin after this task. */
static struct child *least_loaded_before(struct engine_fork *engine, const struct mch_task *task) {
  struct child *child, *best = NULL;
  for (child = engine->children; child != NULL; child = child->next)
    if (mch_feed_has_room(engine, child) && child->kill_at == MCH_NEVER &&
        !is_late_for(task, child) && (best == NULL || child->outstanding < best->outstanding))
      best = child;
  return best;
}

/* Take back what was sent ahead and is to begin after this task, the last first. */
static void make_way(struct engine_fork *engine, const struct mch_task *task) {
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next)
    while (child->outstanding > 1 && is_late_for(task, child)) {
      struct mch_task *last = newest(child);
      if (!mch_child_take_back(child, last))
        break;
      mch_child_give_back(child, last);
    }
}

/* Who gets this task; NULL: nobody, for now. One that came back goes to a worker with nothing to
 * do, or behind earlier ones, never behind a later one: that would begin before it. */
static struct child *choose(struct engine_fork *engine, const struct mch_task *task) {
  struct child *child = least_loaded(engine);
  if (child == NULL || !is_late_for(task, child))
    return child;
  child = least_loaded_before(engine, task);
  if (child != NULL)
    return child;
  make_way(engine, task);
  return least_loaded_before(engine, task);
}

int mch_feed_submit(struct mch_engine *base, struct mch_task *task, int owner,
                    struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  if (engine->config.snapshot)
    return submit_snapshot(engine, task, owner, error);
  if (mch_time_has_too_many(engine))
    return MCH_FULL;
  child = choose(engine, task);
  if (child == NULL) {
    engine->waits_for_tickets = ticket_pause(engine);
    return MCH_FULL;
  }
  engine->died_idle = 0; /* a task is there: a missing worker may be forked for it */
  return offer(child, task, error);
}

/* Take back the later half of a batch that a worker has begun, the longest one by what is left. */
static void split_running(struct engine_fork *engine) {
  struct child *child, *holds = NULL;
  struct mch_task *longest = NULL;
  uint32_t most = 0;
  for (child = engine->children; child != NULL && engine->batches > 0; child = child->next) {
    struct mch_task *task = mch_child_begun(child);
    uint64_t word = atomic_load(&child->shared->items);
    if (task == NULL || task->batch == NULL || !mch_child_is_items_word(task, word) ||
        mch_items_limit(word) - mch_items_next(word) <= most)
      continue;
    most = mch_items_limit(word) - mch_items_next(word);
    longest = task;
    holds = child;
  }
  if (longest != NULL)
    mch_hear_shorten_batch(holds, longest, 0, 1);
}

static int has_idle(struct engine_fork *engine) {
  while (engine->open[0] != NULL && !mch_feed_has_room(engine, engine->open[0]))
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
  const struct mch_task *task = mch_child_oldest(child);
  return child->state == LIVE && child->outstanding == 1 &&
         mch_child_claim_of(child, task->ticket) ==
             mch_child_claim_word(task->ticket, MCH_CLAIM_OFFERED);
}

/* Take such a task back; its worker gets none before it has come so far. Whether there was one. */
static int take_unbegun(struct engine_fork *engine) {
  struct child *child;
  if (engine->pumped < engine->look_for_slow)
    return 0;
  engine->look_for_slow = engine->pumped + slow_start / 4;
  for (child = engine->children; child != NULL; child = child->next) {
    struct mch_task *task = mch_child_oldest(child);
    if (!is_slow(child) || engine->pumped < child->oldest_since + slow_start ||
        !mch_child_take_back(child, task))
      continue;
    child->left_behind = task->ticket;
    mch_child_give_back(child, task);
    return 1;
  }
  return 0;
}

/* Something may have taken the bell that it waits for. */
void mch_feed_ring_for(struct child *child, uint64_t now) {
  const struct mch_task *task = mch_child_oldest(child);
  if (task == NULL || now < child->ring_at || mch_child_is_taken(child, task->ticket))
    return;
  mch_channel_ring(&child->channel);
  child->ring_at = now + ring_again;
}

/* How many have nothing to do and would get a task at once; at most `most`. */
static unsigned count_idle(const struct engine_fork *engine, unsigned most) {
  const struct child *child = engine->open[0];
  unsigned count = 0;
  for (; child != NULL && count < most; child = child->links[LOAD].next)
    count += (unsigned)mch_feed_has_room(engine, child);
  return count;
}

/* Move what waits at the busiest worker to the queue when others have nothing to do: one for each,
 * since a second one would wait there behind later ones, which may take long. */
void mch_feed_steal(struct engine_fork *engine, size_t queued) {
  struct child *busiest;
  uint32_t ticket;
  unsigned share;
  if (engine->base.gated && queued > 0 && has_idle(engine))
    take_unbegun(engine);
  if (queued > 0 || !has_idle(engine))
    return;
  busiest = find_busiest(engine);
  if (busiest == NULL) {
    if (!take_unbegun(engine))
      split_running(engine);
    return;
  }
  share = count_idle(engine, busiest->outstanding / 2);
  for (ticket = busiest->last_ticket; share > 0 && busiest->last_ticket - ticket < MCH_CLAIMS;
       ticket--) {
    struct mch_task *task = busiest->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    if (!mch_child_take_back(busiest, task))
      break; /* the worker has come so far */
    mch_child_give_back(busiest, task);
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
    if (task->priority < priority && child->outstanding > 1 && mch_child_take_back(child, task))
      mch_child_give_back(child, task);
    else if (task->priority < lowest && mch_child_claim_of(child, ticket) == MCH_CLAIM_OFFERED)
      lowest = task->priority;
  }
  return lowest;
}

void mch_feed_recall(struct mch_engine *base, int32_t priority) {
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

/* Take back all that this worker has not begun, the items behind the one that runs as well. */
void mch_feed_withdraw_from(struct child *child) {
  uint32_t i;
  for (i = 0; i < MCH_CLAIMS && child->outstanding > 0; i++) {
    /* From the last to the first, since each goes to the head of the queue. */
    uint32_t ticket = child->last_ticket - i;
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    if (mch_child_take_back(child, task))
      mch_child_give_back(child, task);
    else if (task->batch != NULL)
      mch_hear_shorten_batch(child, task, 0, 0);
  }
}

void mch_feed_withdraw(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->state == LIVE)
      mch_feed_withdraw_from(child);
}

int mch_feed_could_start(struct mch_engine *base, int owner) {
  struct engine_fork *engine = (struct engine_fork *)base;
  if (engine->config.snapshot)
    return owner && engine->live < engine->config.nworkers && mch_now() >= engine->fork_again;
  return !mch_time_has_too_many(engine) && has_idle(engine);
}

/* Only a few are asked at each time, one after the other. */
int mch_feed_wants_tasks(struct mch_engine *base) {
  enum { ASKED = 8 };
  struct engine_fork *engine = (struct engine_fork *)base;
  int i;
  for (i = 0; i < ASKED; i++) {
    const struct child *child =
        engine->wants_tasks != NULL ? engine->wants_tasks : engine->children;
    if (child == NULL)
      return 0;
    engine->wants_tasks = child->next;
    if (child->state == LIVE &&
        child->last_ticket - atomic_load_explicit(&child->shared->passed, memory_order_relaxed) <
            FEW_IN_FLIGHT)
      return 1;
  }
  return 0;
}
