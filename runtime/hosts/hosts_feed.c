/* Runs in: parent.
 *
 * Which machine gets which task, and when it may begin. Tasks are sent ahead of their grants; what
 * is not granted has provably not begun, and is taken back without asking. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"

enum {
  UNSENT_LIMIT = 1024 * 1024,    /* a link with more queued gets nothing new */
  IN_FLIGHT_LIMIT = 1024 * 1024, /* bytes of payload ahead on one machine */
  SMALL_BODY = 16 * 1024,        /* a graph up to that is copied */
  LARGE_BODY = MCH_KEPT_LEAST,   /* from there on it comes as a message of its own */
  MOST_AHEAD = 512,              /* tasks a slot that may begin */
  FEW = 8                        /* tasks a slot that are sent one by one */
};

static const char no_memory[] = "not enough memory to send a task";

struct held *mch_hfeed_held(struct machine *machine, uint32_t ticket) {
  struct held *held = machine->held[mch_hosts_place(ticket)];
  return held != NULL && held->ticket == ticket ? held : NULL;
}

/* The task's place among this engine's; NULL: none has it. */
static struct held *held_of(const struct mch_task *task) {
  struct machine *machine = task->holder;
  return machine != NULL ? mch_hfeed_held(machine, task->ticket) : NULL;
}

static struct held_list *list_of(struct machine *machine, const struct held *held) {
  return held->granted ? &machine->may : &machine->waits;
}

static void unlist(struct machine *machine, struct held *held) {
  struct held_list *list = list_of(machine, held);
  *(held->previous != NULL ? &held->previous->next : &list->first) = held->next;
  *(held->next != NULL ? &held->next->previous : &list->last) = held->previous;
}

static void enlist(struct machine *machine, struct held *held) {
  struct held_list *list = list_of(machine, held);
  struct held *before = list->last;
  while (before != NULL && mch_task_goes_before(held->task, before->task))
    before = before->previous;
  held->previous = before;
  held->next = before != NULL ? before->next : list->first;
  *(before != NULL ? &before->next : &list->first) = held;
  *(held->next != NULL ? &held->next->previous : &list->last) = held;
}

void mch_hfeed_settle(struct machine *machine, struct held *held) {
  size_t length = held->task->length;
  unlist(machine, held);
  machine->outstanding--;
  machine->granted -= (unsigned)held->granted;
  machine->in_flight -= length < machine->in_flight ? length : machine->in_flight;
  machine->held[mch_hosts_place(held->ticket)] = NULL;
  held->task->holder = NULL;
  free(held);
}

/* What seems to run for longer than others have: what was allowed ahead is too much. */
static double patience(const struct machine *machine) {
  return 2e6 + 4 * machine->trip;
}

/* -- windows ------------------------------------------------------------------------------ */

/* How long nothing has ended there that may run. */
static double quiet(const struct machine *machine) {
  uint64_t now = machine->engine->now;
  return machine->granted > 0 && now > machine->last_end ? (double)(now - machine->last_end) : 0;
}

/* How many may have been allowed to begin: one for each slot, and one behind it; more where the way
 * there and back takes longer than a task. */
static unsigned most_granted(const struct machine *machine) {
  double ahead = 1, run_time = machine->run_time;
  if (run_time > 0 && quiet(machine) > patience(machine))
    run_time = quiet(machine) * machine->share;
  if (run_time > 0 && machine->trip > run_time / 4)
    ahead = 2 + 2 * machine->trip / run_time;
  if (ahead > (double)MOST_AHEAD)
    ahead = (double)MOST_AHEAD;
  return machine->share + (unsigned)(ahead * machine->share);
}

/* With what is there for them to begin with next. */
static unsigned most_sent(const struct machine *machine) {
  unsigned most = 2 * most_granted(machine);
  return most < MCH_HOSTS_WINDOW / 2 ? most : MCH_HOSTS_WINDOW / 2;
}

/* A large window is filled again once half of it is over: a message for each task that ends would
 * wake all the processes on its way. */
static int is_filled(const struct machine *machine, unsigned most) {
  return machine->filled && machine->outstanding > most / 2 && most > FEW * machine->share;
}

int mch_hfeed_has_room(const struct machine *machine) {
  unsigned most;
  if (machine->state != UP || machine->share == 0)
    return 0;
  if (machine->held[mch_hosts_place(mch_hosts_after(machine->last_ticket))] != NULL)
    return 0;
  if (machine->outstanding < machine->share)
    return 1;
  most = most_sent(machine);
  return machine->outstanding < most && !is_filled(machine, most) &&
         machine->in_flight < IN_FLIGHT_LIMIT && mch_link_queued(machine->link) < UNSENT_LIMIT;
}

/* The one with the least to do for each of its slots. */
static struct machine *choose(struct engine_hosts *engine) {
  struct machine *best = NULL;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    if (mch_hfeed_has_room(machine) &&
        (best == NULL || (uint64_t)machine->outstanding * best->share <
                             (uint64_t)best->outstanding * machine->share))
      best = machine;
  }
  return best;
}

static int may_begin(const struct machine *machine) {
  return machine->state == UP && machine->granted < most_granted(machine);
}

static void ask_for(struct machine *machine, unsigned most, int32_t priority);

void mch_hfeed_ask_back(struct machine *machine) {
  uint64_t now = mch_now();
  const struct held *held;
  unsigned stay;
  if (machine->state != UP || now < mch_hfeed_ask_at(machine))
    return;
  machine->asked_at = now;
  stay = machine->granted;
  for (held = machine->may.first; held != NULL; held = held->next)
    stay -= (unsigned)held->recalled;
  if (stay > most_granted(machine))
    ask_for(machine, stay - most_granted(machine), INT32_MAX);
}

uint64_t mch_hfeed_ask_at(const struct machine *machine) {
  if (machine->state != UP || machine->granted <= 2 * machine->share ||
      machine->asked_at >= machine->last_end)
    return MCH_NEVER;
  return machine->last_end + (uint64_t)patience(machine) + 1000;
}

void mch_hfeed_grant(struct machine *machine) {
  unsigned char tickets[4 * 256];
  unsigned most = machine->waits.first != NULL && machine->state == UP ? most_granted(machine) : 0;
  size_t count = 0;
  if (most > FEW * machine->share && machine->granted > most / 4 * 3)
    return; /* there is enough for now */
  while (machine->waits.first != NULL && machine->granted < most) {
    struct held *held = machine->waits.first;
    unlist(machine, held);
    held->granted = 1;
    enlist(machine, held);
    if (machine->granted++ == 0)
      machine->last_end = mch_now();
    mch_store_u32(tickets + 4 * count++, held->ticket);
    if (4 * count == sizeof tickets) {
      mch_machine_send(machine, MCH_HOSTS_GRANT, tickets, 4 * count);
      count = 0;
    }
  }
  if (count > 0)
    mch_machine_send(machine, MCH_HOSTS_GRANT, tickets, 4 * count);
}

/* -- sending ------------------------------------------------------------------------------ */

static int has_code(const struct machine *machine, uint32_t id) {
  return id / 8 < machine->code_room && (machine->codes[id / 8] >> (id % 8) & 1) != 0;
}

static int add_code(struct machine *machine, uint32_t id) {
  if (id / 8 >= machine->code_room) {
    uint32_t room = 2 * (id / 8) + 64;
    unsigned char *codes = realloc(machine->codes, room);
    if (codes == NULL)
      return -1;
    memset(codes + machine->code_room, 0, room - machine->code_room);
    machine->codes = codes;
    machine->code_room = room;
  }
  machine->codes[id / 8] |= (unsigned char)(1u << (id % 8));
  return 0;
}

/* What the machine does not have of these ids. 0, or MCH_NOMEM. */
int mch_hfeed_send_codes(struct machine *machine, const unsigned char *ids, uint32_t count) {
  const struct mch_codes *codes = &machine->engine->config.codes;
  uint32_t i;
  for (i = 0; i < count; i++) {
    unsigned char head[4];
    uint32_t id;
    size_t length;
    struct mch_link_body body = {NULL, 0, NULL, NULL};
    memcpy(&id, ids + i * sizeof id, sizeof id);
    if (has_code(machine, id))
      continue;
    body.bytes = codes->get(codes->ud, id, &length);
    body.length = length;
    mch_store_u32(head, id);
    if (body.bytes == NULL || add_code(machine, id) != 0 ||
        mch_link_send(machine->link, MCH_HOSTS_CODE, head, sizeof head, &body) != 0)
      return MCH_NOMEM;
  }
  return 0;
}

/* Where some of the code has yet to be written, it is needed still. */
int mch_hfeed_forget_code(struct mch_engine *base, uint32_t id) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  unsigned char body[4];
  size_t i;
  for (i = 0; i < engine->count; i++) {
    const struct machine *machine = &engine->machines[i];
    if (has_code(machine, id) && machine->link != NULL && mch_link_queued(machine->link) > 0)
      return 0;
  }
  mch_store_u32(body, id);
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    if (!has_code(machine, id))
      continue;
    machine->codes[id / 8] &= (unsigned char)~(1u << (id % 8));
    if (machine->link != NULL)
      mch_machine_send(machine, MCH_HOSTS_CODE, body, sizeof body);
  }
  return 1;
}

/* The graph of a task; of a batch without the items that were split off. */
static struct mch_body graph_of(const struct mch_task *task) {
  struct mch_body graph = mch_task_graph(task);
  size_t at;
  uint32_t i;
  if (task->batch == NULL || task->batch->count == task->batch->whole)
    return graph;
  at = task->batch->function_length;
  for (i = 0; i < task->batch->count; i++)
    at += 4 + mch_load_u32(graph.bytes + at);
  graph.length = at;
  return graph;
}

static void release_task(void *ud) {
  mch_task_free(ud);
}

/* A graph in one piece, in memory of its own. NULL: no memory. */
static struct mch_cargo *one_piece(const struct mch_body *graph) {
  struct mch_cargo *cargo = NULL;
  struct mch_buf bytes = {0};
  size_t size = mch_body_size(graph);
  if (mch_buf_reserve(&bytes, size) == 0) {
    mch_body_copy(graph, bytes.data);
    bytes.length = size;
    cargo = mch_cargo_new(&bytes, NULL, 0, NULL);
  }
  mch_buf_free(&bytes);
  return cargo;
}

static void release_cargo(void *ud) {
  mch_cargo_drop(ud);
}

/* Send the graph of a task by itself: whole, or by what of it is not kept there. If that is much,
 * it is kept on both sides. */
static int send_apart(struct machine *machine, const struct mch_task *task) {
  struct mch_buf *head = &machine->engine->scratch;
  struct mch_body graph = graph_of(task);
  struct mch_cargo *cargo = one_piece(&graph);
  struct mch_link_body body;
  struct mch_same same;
  unsigned type = MCH_HOSTS_BODY;
  int code = MCH_NOMEM, is_new;
  if (cargo == NULL)
    return code;
  graph = cargo->body;
  body = (struct mch_link_body){graph.bytes, graph.length, release_cargo, cargo};
  mch_buf_clear(head);
  if (mch_kept_find(&machine->kept, graph.bytes, graph.length, &same)) {
    type = MCH_HOSTS_SAME;
    mch_buf_u8(head, same.place);
    mch_buf_u32(head, same.first);
    mch_buf_u32(head, same.last);
    body.bytes = graph.bytes + same.first;
    body.length -= (size_t)same.first + same.last;
  }
  is_new = body.length >= MCH_KEPT_LEAST;
  mch_cargo_hold(cargo); /* for the link, which may write and drop it at once */
  if (head->failed == 0 &&
      mch_link_send(machine->link, (unsigned char)type, head->data, head->length, &body) == 0)
    code = 0;
  else
    mch_cargo_drop(cargo);
  if (code == 0 && is_new)
    mch_kept_put(&machine->kept, cargo);
  mch_cargo_drop(cargo);
  return code;
}

/* Send the graph of the task as it is, or in one piece. */
static int send_body(struct machine *machine, unsigned type, const struct mch_buf *head,
                     struct mch_task *task, const struct mch_body *graph) {
  struct mch_link_body body = {graph->bytes, graph->length, NULL, NULL};
  if (task->cargo != NULL) {
    unsigned char *copy = malloc(mch_body_size(graph) + 1);
    if (copy == NULL)
      return MCH_NOMEM;
    mch_body_copy(graph, copy);
    body = (struct mch_link_body){copy, mch_body_size(graph), free, copy};
  } else
    body = (struct mch_link_body){graph->bytes, graph->length, release_task, mch_task_hold(task)};
  if (mch_link_send(machine->link, (unsigned char)type, head->data, head->length, &body) == 0)
    return 0;
  body.release(body.ud);
  return MCH_NOMEM;
}

static int send_task(struct machine *machine, struct mch_task *task, uint32_t ticket,
                     unsigned options) {
  struct mch_buf *head = &machine->engine->scratch;
  unsigned type = task->batch != NULL ? MCH_HOSTS_BATCH : MCH_HOSTS_TASK;
  struct mch_body graph = graph_of(task);
  size_t size = mch_body_size(&graph);
  mch_buf_clear(head);
  mch_hosts_put_task(head, task, ticket, options | (size >= LARGE_BODY ? MCH_HOSTS_APART : 0));
  if (size <= SMALL_BODY && graph.count == 0) {
    mch_buf_append(head, graph.bytes, graph.length);
    if (head->failed != 0)
      return MCH_NOMEM;
    return mch_link_send(machine->link, (unsigned char)type, head->data, head->length, NULL);
  }
  if (head->failed != 0)
    return MCH_NOMEM;
  if (size < LARGE_BODY)
    return send_body(machine, type, head, task, &graph);
  if (mch_link_send(machine->link, (unsigned char)type, head->data, head->length, NULL) != 0)
    return MCH_NOMEM;
  if (mch_kept_wants(size))
    return send_apart(machine, task);
  mch_buf_clear(head);
  return send_body(machine, MCH_HOSTS_BODY, head, task, &graph);
}

int mch_hfeed_hold(struct machine *machine, struct mch_task *task, uint32_t ticket, int granted) {
  struct held *held = calloc(1, sizeof *held);
  if (held == NULL)
    return MCH_NOMEM;
  held->ticket = task->ticket = ticket;
  held->task = task;
  held->granted = granted;
  task->holder = machine;
  machine->held[mch_hosts_place(ticket)] = held;
  machine->outstanding++;
  if (machine->granted == 0)
    machine->last_end = mch_now();
  machine->granted += (unsigned)granted;
  machine->in_flight += task->length;
  enlist(machine, held);
  return 0;
}

/* No machine is left that is up, or may be again. */
static int is_hopeless(const struct engine_hosts *engine) {
  size_t i;
  for (i = 0; i < engine->count; i++)
    if (engine->machines[i].state != REFUSED)
      return 0;
  return 1;
}

static int doom(struct engine_hosts *engine, struct mch_task *task, struct mch_error *error) {
  if (engine->doomed_count == engine->doomed_room) {
    size_t room = 2 * engine->doomed_room + 16;
    struct mch_task **doomed = realloc(engine->doomed, room * sizeof(struct mch_task *));
    if (doomed == NULL)
      return mch_error_set(error, MCH_NOMEM, "not enough memory to end a task");
    engine->doomed = doomed;
    engine->doomed_room = room;
  }
  engine->doomed[engine->doomed_count++] = task;
  task->holder = NULL;
  return 0;
}

int mch_hfeed_submit(struct mch_engine *base, struct mch_task *task, int owner,
                     struct mch_error *error) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  struct machine *machine = choose(engine);
  uint32_t ticket;
  int granted;
  (void)owner;
  if (machine == NULL)
    return is_hopeless(engine) && !engine->quitting ? doom(engine, task, error) : MCH_FULL;
  ticket = mch_hosts_after(machine->last_ticket);
  granted = machine->waits.first == NULL && may_begin(machine);
  if (mch_hfeed_send_codes(machine, task->body, task->codes) != 0 ||
      mch_hfeed_hold(machine, task, ticket, granted) != 0)
    return mch_error_set(error, MCH_NOMEM, no_memory);
  if (send_task(machine, task, ticket, granted ? MCH_HOSTS_GRANTED : 0) != 0) {
    mch_hfeed_settle(machine, mch_hfeed_held(machine, ticket));
    return mch_error_set(error, MCH_NOMEM, no_memory);
  }
  machine->last_ticket = ticket;
  machine->filled = machine->outstanding >= most_sent(machine) ||
                    (machine->filled && machine->outstanding > most_sent(machine) / 2);
  return 0;
}

/* -- taking back -------------------------------------------------------------------------- */

static void send_recall(struct machine *machine, const struct held *held, uint32_t number) {
  unsigned char body[8];
  mch_store_u32(body, held->ticket);
  mch_store_u32(body + 4, number);
  mch_machine_send(machine, MCH_HOSTS_RECALL, body, sizeof body);
}

/* It is not granted: it never begins there. */
static void take_back(struct machine *machine, struct held *held) {
  const struct mch_events *events = &machine->engine->config.events;
  struct mch_task *task = held->task;
  send_recall(machine, held, 0);
  mch_hfeed_settle(machine, held);
  events->returned(events->ud, task);
}

int mch_hfeed_reclaim(struct mch_engine *base, struct mch_task *task) {
  struct held *held = held_of(task);
  (void)base;
  if (held == NULL || held->granted)
    return 0;
  take_back(task->holder, held);
  return 1;
}

/* What has not begun of a batch that may: it comes by SPLIT. */
void mch_hfeed_shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number) {
  struct held *held = held_of(batch);
  (void)base;
  if (held != NULL && held->granted)
    send_recall(batch->holder, held, number);
}

/* Those of `count` tasks or items from this run ID on. */
static void stop_bars(struct machine *machine, uint64_t runid, uint32_t count) {
  size_t i;
  for (i = 0; i < machine->bar_count; i++)
    if (machine->bar_runids[i] >= runid && machine->bar_runids[i] - runid < count)
      mch_output_bar_stopping(machine->engine->config.output, machine->bars[i]);
}

void mch_hfeed_stop_item(struct mch_engine *base, struct mch_task *batch, uint32_t number) {
  struct held *held = held_of(batch);
  unsigned char body[8];
  (void)base;
  if (held == NULL || held->cancelled)
    return;
  stop_bars(batch->holder, batch->runid + number, 1);
  mch_store_u64(body, batch->runid + number);
  mch_machine_send(batch->holder, MCH_HOSTS_STOP_ITEM, body, sizeof body);
}

void mch_hfeed_stop(struct mch_engine *base, struct mch_task *task) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  struct held *held = held_of(task);
  struct machine *machine = task->holder;
  unsigned char body[5];
  size_t i;
  for (i = 0; held == NULL && i < engine->doomed_count; i++)
    if (engine->doomed[i] == task) { /* it ends at the next pump anyway */
      engine->doomed[i] = engine->doomed[--engine->doomed_count];
      engine->config.events.returned(engine->config.events.ud, task);
      return;
    }
  if (held == NULL)
    return;
  if (!held->granted) {
    take_back(machine, held);
    return;
  }
  held->cancelled = task->batch != NULL;
  stop_bars(machine, task->runid, mch_task_count(task));
  mch_store_u32(body, held->ticket);
  body[4] = task->stop;
  mch_machine_send(machine, MCH_HOSTS_STOP, body, sizeof body);
}

/* Ask for those that may begin, from the last on; they come by RETURNED. */
static void ask_for(struct machine *machine, unsigned most, int32_t priority) {
  struct held *held;
  for (held = machine->may.last; held != NULL && most > 0; held = held->previous) {
    if (held->recalled || held->task->priority >= priority)
      continue;
    held->recalled = 1;
    send_recall(machine, held, 0);
    most--;
  }
}

static void take_back_from(struct machine *machine, int32_t priority, unsigned most) {
  struct held *held, *previous;
  for (held = machine->waits.last; held != NULL && most > 0; held = previous) {
    previous = held->previous;
    if (held->task->priority < priority) {
      take_back(machine, held);
      most--;
    }
  }
}

void mch_hfeed_take_back_all(struct machine *machine) {
  take_back_from(machine, INT32_MAX, UINT32_MAX);
}

void mch_hfeed_recall(struct mch_engine *base, int32_t priority) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    take_back_from(machine, priority, UINT32_MAX);
    if (machine->granted > 0)
      ask_for(machine, machine->granted, priority);
  }
}

void mch_hfeed_withdraw(struct mch_engine *base) {
  mch_hfeed_recall(base, INT32_MAX);
}

/* The one with nothing to do, and the one that has most of what waits for its slots. */
static void compare(struct engine_hosts *engine, struct machine **idle, struct machine **busy) {
  size_t i;
  *idle = *busy = NULL;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i], *most = *busy;
    if (machine->state == UP && machine->outstanding < machine->share)
      *idle = machine;
    if ((machine->state == UP || machine->state == SUSPECT) &&
        machine->outstanding > machine->share &&
        (most == NULL || machine->outstanding - machine->share > most->outstanding - most->share))
      *busy = machine;
  }
}

/* Take from the busy one what the idle one has slots for, at most half. */
static void even_out(struct machine *busy, const struct machine *idle) {
  unsigned excess = idle->share - idle->outstanding;
  if (excess > (busy->outstanding - busy->share + 1) / 2)
    excess = (busy->outstanding - busy->share + 1) / 2;
  if (busy->waits.first != NULL)
    take_back_from(busy, INT32_MAX, excess);
  else if (mch_now() > busy->asked_at + (uint64_t)patience(busy)) {
    busy->asked_at = mch_now();
    ask_for(busy, excess, INT32_MAX);
  }
}

/* Items of a batch that may be left to begin, but for the next. */
static uint32_t left_of(const struct held *held) {
  const struct mch_batch *batch = held->task->batch;
  return batch == NULL || held->cancelled || batch->answered == batch->count
             ? 0
             : batch->count - batch->answered - 1;
}

static const struct held *longest_batch(const struct machine *machine) {
  const struct held *held, *longest = NULL;
  for (held = machine->may.first; held != NULL; held = held->next)
    if (left_of(held) > (longest != NULL ? left_of(longest) : 0))
      longest = held;
  return longest;
}

/* Ask for the later half of a long batch, where nothing has been heard for a while. */
static void halve_batch(struct engine_hosts *engine, const struct machine *idle) {
  const struct held *longest = NULL;
  struct machine *from = NULL;
  uint32_t number;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    const struct held *held;
    uint64_t due = (machine->last_end > machine->asked_at ? machine->last_end : machine->asked_at) +
                   (uint64_t)patience(machine);
    if (machine == idle || machine->state != UP || (held = longest_batch(machine)) == NULL)
      continue;
    if (engine->now < due)
      engine->halve_at = mch_sooner(engine->halve_at, due);
    else if (longest == NULL || left_of(held) > left_of(longest)) {
      longest = held;
      from = machine;
    }
  }
  if (longest == NULL)
    return;
  number = longest->task->batch->answered + 1 + left_of(longest) / 2;
  from->asked_at = engine->now;
  send_recall(from, longest, number);
}

/* A machine has nothing to do, and others have more than they can do at once. */
void mch_hfeed_steal(struct engine_hosts *engine) {
  struct machine *idle, *busy;
  compare(engine, &idle, &busy);
  if (idle != NULL && busy != NULL && idle != busy)
    even_out(busy, idle);
  else if (idle != NULL && engine->count > 1)
    halve_batch(engine, idle);
}

/* -- a machine was lost ------------------------------------------------------------------- */

static struct mch_result *obituary(struct machine *machine, const struct mch_task *task,
                                   const char *why) {
  char text[256];
  struct mch_result *result;
  enum mch_kind kind = task->stop != 0 ? (enum mch_kind)task->stop : MCH_KIND_KILLED;
  (void)why;
  strcpy(text, "its machine ");
  strncat(text, machine->host->name, sizeof text - 32);
  strcat(text, " was lost");
  result = mch_result_new(kind, text, NULL, 0);
  if (result == NULL)
    return NULL;
  result->begun = 1;
  result->whole = 1;
  result->host = machine->host->name;
  return result;
}

/* What may have begun ends with it; what had not goes back. */
void mch_hfeed_fail_all(struct machine *machine, const char *why) {
  const struct mch_events *events = &machine->engine->config.events;
  struct held *held;
  while ((held = machine->waits.last) != NULL) {
    struct mch_task *task = held->task;
    mch_hfeed_settle(machine, held);
    events->returned(events->ud, task);
  }
  while ((held = machine->may.first) != NULL) {
    struct mch_task *task = held->task;
    mch_hfeed_settle(machine, held);
    if (task->batch == NULL) {
      events->finished(events->ud, task, obituary(machine, task, why));
      continue;
    }
    while (task->batch->answered < task->batch->count)
      events->failed(events->ud, task, obituary(machine, task, why));
    events->batch_over(events->ud, task, 0);
  }
}
