/* Runs in: a supervisor. Purpose: supervisor.h.
 *
 * Its loop, and what the pool says. What the fork engine says goes up in supervisor_tell.c, modules
 * that workers ask for in supervisor_ask.c. */
#define _POSIX_C_SOURCE 200809L
#include "supervisor_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/memory.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"

enum { UNSENT_MOST = 8 * 1024 * 1024, AT_ONCE = 64 * 1024 * 1024, MOST_MESSAGES = 4096 };
enum { HELD_BACK = 32 * 1024, MUCH = 4, CROWD = 16, LARGE = 1024 * 1024 };
static const uint64_t held_for = 200000u;
static const uint64_t shortest_nap = 50000u, longest_nap = 500000u, longest_step = 50000000u;
static const uint64_t look_at_memory = 100000000u;
static const uint64_t look_soon = 1000000u, look_late = 50000000u; /* at what workers do */

/* -- tasks that are here ------------------------------------------------------------------ */

struct here *mch_supervisor_here(struct supervisor *self, uint32_t ticket) {
  struct here *here = self->here[mch_hosts_place(ticket)];
  return here != NULL && here->ticket == ticket ? here : NULL;
}

/* In its order: what comes back, or is new to this queue and not to the pool's, is before others.
 */
static void enqueue(struct supervisor *self, struct here *here) {
  struct here *before = self->last;
  here->queued = 1;
  self->queued++;
  if (before != NULL && mch_task_goes_before(here->task, self->first->task))
    before = NULL;
  while (before != NULL && mch_task_goes_before(here->task, before->task))
    before = before->previous;
  here->previous = before;
  here->next = before != NULL ? before->next : self->first;
  *(before != NULL ? &before->next : &self->first) = here;
  *(here->next != NULL ? &here->next->previous : &self->last) = here;
}

static void dequeue(struct supervisor *self, struct here *here) {
  if (!here->queued)
    return;
  here->queued = 0;
  self->queued--;
  if (here->previous != NULL)
    here->previous->next = here->next;
  else
    self->first = here->next;
  if (here->next != NULL)
    here->next->previous = here->previous;
  else
    self->last = here->previous;
}

static int is_large(const struct mch_task *task) {
  return task->cargo != NULL && task->cargo->size >= LARGE;
}

void mch_supervisor_forget(struct supervisor *self, struct here *here) {
  mch_supervisor_look_soon(self);
  self->large -= is_large(here->task) ? 1 : 0;
  dequeue(self, here);
  self->here[mch_hosts_place(here->ticket)] = NULL;
  self->count--;
  if (here->task->batch != NULL)
    self->items -= here->task->batch->count - here->task->batch->answered;
  mch_task_free(here->task);
  free(here);
}

/* A task that is here from now on. NULL: no memory. */
static struct here *admit(struct supervisor *self, struct mch_task *task, uint32_t ticket) {
  struct here *here = calloc(1, sizeof *here);
  if (here == NULL)
    return NULL;
  here->task = task;
  task->accepted = here->ticket = ticket;
  self->here[mch_hosts_place(ticket)] = here;
  self->count++;
  self->items += task->batch != NULL ? task->batch->count : 0;
  self->large += is_large(task) ? 1 : 0;
  return here;
}

/* A graph that is large goes when its task has begun: the result may be as large. */
static void let_go(struct supervisor *self) {
  enum { MOST = 256 };
  struct mch_worker_info infos[MOST];
  size_t count = self->engine->ops->workers(self->engine, infos, MOST);
  uint32_t place;
  for (place = 0; place < MCH_HOSTS_PLACES; place++) {
    struct here *here = self->here[place];
    if (here == NULL || !here->submitted || !is_large(here->task) ||
        !mch_is_run_by(infos, count, here->task->runid))
      continue;
    self->large--;
    here->is_bare = 1;
    mch_cargo_drop(here->task->cargo);
    here->task->cargo = NULL;
  }
}

uint32_t mch_supervisor_keep(struct supervisor *self, struct mch_task *part) {
  uint32_t ticket = mch_hosts_after(self->last_part | MCH_HOSTS_PART);
  struct here *here;
  if (self->here[mch_hosts_place(ticket)] != NULL || (here = admit(self, part, ticket)) == NULL)
    return 0;
  self->last_part = ticket;
  here->granted = 1;
  enqueue(self, here);
  return ticket;
}

/* It never begins here. */
void mch_supervisor_return(struct supervisor *self, struct here *here) {
  unsigned char body[4];
  mch_store_u32(body, here->ticket);
  if (here->granted)
    mch_supervisor_say(self, MCH_HOSTS_RETURNED, body, sizeof body);
  mch_supervisor_forget(self, here);
}

/* The fork engine does not have it any more, and it has not begun. */
void mch_supervisor_requeue(struct supervisor *self, struct here *here) {
  here->submitted = 0;
  if (here->is_bare) /* never, since it has begun */
    mch_supervisor_fail(self, here, "what it came with is not here any more");
  else if (self->recalling)
    mch_supervisor_return(self, here);
  else
    enqueue(self, here);
}

/* Where memory is scarce one at a time begins, and what was sent ahead comes back. */
static int admits(struct supervisor *self, uint64_t now) {
  const struct mch_engine_ops *ops = self->engine->ops;
  unsigned waiting;
  int was_scarce = self->scarce;
  if (self->min_free == 0 || ops->running(self->engine, NULL, &waiting) + waiting == 0)
    return 1;
  if (now < self->looked_at_memory + look_at_memory)
    return !self->scarce;
  self->looked_at_memory = now;
  self->scarce = mch_memory_available("") < self->min_free;
  if (self->scarce && !was_scarce)
    ops->withdraw(self->engine);
  return !self->scarce;
}

static void submit_all(struct supervisor *self) {
  const struct mch_engine_ops *ops = self->engine->ops;
  struct mch_error error;
  while (self->first != NULL && self->owed == 0 && admits(self, mch_now())) {
    struct here *here = self->first;
    int code = ops->submit(self->engine, here->task, 1, &error);
    if (code == MCH_FULL)
      break;
    dequeue(self, here);
    mch_supervisor_look_soon(self);
    if (code == 0)
      here->submitted = 1;
    else
      mch_supervisor_fail(self, here, error.text);
  }
  if (self->owed == 0)
    ops->flush(self->engine);
}

/* -- what the pool says ------------------------------------------------------------------- */

/* What the script wants, but not more than its share in a fleet. */
static uint32_t fair(const struct supervisor *self, uint32_t slots) {
  return self->fleet_slots != 0 && self->fleet_slots < slots ? self->fleet_slots : slots;
}

static int configure(struct supervisor *self, struct mch_reader_of *reader) {
  const struct mch_supervisor_config *own = self->config;
  struct mch_engine_config engine = {0};
  struct mch_hosts_config said;
  struct mch_error error;
  unsigned char body[4];
  int code;
  if (self->engine != NULL || mch_hosts_take_config(reader, &said) != 0)
    return -1;
  self->wanted_slots = (unsigned)said.slots;
  self->slots = fair(self, self->wanted_slots);
  engine.nworkers = self->slots;
  engine.timeout = said.timeout;
  engine.max_tasks_per_worker = said.max_tasks_per_worker;
  engine.max_memory_per_worker = said.max_memory_per_worker;
  engine.limit_cpu = said.limit_cpu;
  engine.limit_files = said.limit_files;
  engine.grace = said.grace;
  engine.log_level = (int)(int64_t)said.log_level;
  engine.bars = said.bars != 0;
  engine.output = own->output;
  self->min_free = said.min_free_memory;
  mch_supervisor_listen_to_output(self, said.joined != 0);
  code = own->configure(own->ud, &said, &engine, &error);
  if (code != 0)
    mch_supervisor_say(self, MCH_HOSTS_NOTICE, error.text, strlen(error.text));
  if (code != 0 && code != MCH_FULL) {
    self->leaving = 1;
    return 0;
  }
  mch_supervisor_fill_events(self, &engine);
  self->engine = mch_engine_fork_new(&engine, &error);
  if (self->engine != NULL)
    self->engine->ops->listen(self->engine, said.listening != 0);
  if (self->engine == NULL || self->engine->ops->start(self->engine, &error) != 0 ||
      self->engine->ops->add(self->engine, 1, &error) != 0) {
    mch_supervisor_say(self, MCH_HOSTS_NOTICE, error.text, strlen(error.text));
    self->leaving = 1;
    return 0;
  }
  mch_store_u32(body, engine.nworkers);
  mch_supervisor_tell_workers(self);
  mch_supervisor_say(self, MCH_HOSTS_START, body, sizeof body);
  return 0;
}

static int take_code(struct supervisor *self, struct mch_reader_of *reader) {
  uint32_t id = mch_take_u32(reader);
  if (reader->bad || id == 0 ||
      self->config->put_code(self->config->ud, id, reader->at, reader->left) != 0)
    return -1;
  if (reader->left == 0 && self->engine != NULL)
    self->engine->ops->forget_code(self->engine, id);
  return 0;
}

/* A task with its graph, which may be cargo. */
static int accept_task(struct supervisor *self, const struct mch_hosts_task *head,
                       const unsigned char *graph, size_t length, struct mch_cargo *cargo) {
  struct mch_task *task;
  struct here *here;
  int broken;
  if (head->ticket == 0 || (head->ticket & MCH_HOSTS_PART) != 0 ||
      self->here[mch_hosts_place(head->ticket)] != NULL)
    return -1;
  task = mch_hosts_make_task(head, graph, length, cargo, &broken);
  if (task == NULL || (here = admit(self, task, head->ticket)) == NULL) {
    mch_task_free(task);
    return -1; /* without memory for it the connection ends: its tasks are told to be lost */
  }
  here->granted = (head->options & MCH_HOSTS_GRANTED) != 0;
  if (here->granted)
    enqueue(self, here);
  return 0;
}

static int take_task(struct supervisor *self, struct mch_reader_of *reader, int is_batch) {
  const unsigned char *start = reader->at;
  struct mch_hosts_task head;
  if (mch_hosts_take_task(reader, &head, is_batch) != 0)
    return -1;
  if ((head.options & MCH_HOSTS_APART) == 0)
    return accept_task(self, &head, reader->at, reader->left, NULL);
  if (reader->left != 0 || self->bodiless)
    return -1;
  mch_buf_clear(&self->head);
  mch_buf_append(&self->head, start, (size_t)(reader->at - start));
  self->bodiless = is_batch ? MCH_HOSTS_BATCH : MCH_HOSTS_TASK;
  return self->head.failed != 0 ? -1 : 0;
}

/* The graph of the task whose head came before. Takes the buffer; `is_new`: much of it
 * was not there before, and it may be kept. */
static int accept_graph(struct supervisor *self, struct mch_buf *graph, int is_new) {
  struct mch_reader_of reader = {self->head.data, self->head.length, 0};
  struct mch_hosts_task head;
  struct mch_cargo *cargo = mch_cargo_new(graph, NULL, 0, NULL);
  int code = -1;
  mch_buf_free(graph);
  if (cargo != NULL && self->bodiless &&
      mch_hosts_take_task(&reader, &head, self->bodiless == MCH_HOSTS_BATCH) == 0) {
    self->bodiless = 0;
    if (is_new && mch_kept_wants(cargo->size))
      mch_kept_put(&self->kept, cargo);
    code = accept_task(self, &head, cargo->body.bytes, cargo->size, cargo);
  }
  mch_cargo_drop(cargo);
  return code;
}

static int take_body(struct supervisor *self) {
  struct mch_buf graph = {0};
  return mch_link_keep(self->link, &graph) != 0 ? -1 : accept_graph(self, &graph, 1);
}

static int take_same(struct supervisor *self, struct mch_reader_of *reader) {
  struct mch_same same;
  const struct mch_body *base;
  struct mch_buf graph = {0};
  int is_new;
  same.place = mch_take_u8(reader);
  same.first = mch_take_u32(reader);
  same.last = mch_take_u32(reader);
  base = reader->bad ? NULL : mch_kept_get(&self->kept, &same);
  if (base == NULL)
    return -1;
  is_new = reader->left >= MCH_KEPT_LEAST;
  mch_buf_reserve(&graph, (size_t)same.first + reader->left + same.last);
  mch_buf_append(&graph, base->bytes, same.first);
  if (reader->left > 0)
    mch_buf_append(&graph, reader->at, reader->left);
  mch_buf_append(&graph, base->bytes + base->length - same.last, same.last);
  if (graph.failed == 0)
    return accept_graph(self, &graph, is_new);
  mch_buf_free(&graph);
  return -1;
}

static int take_grants(struct supervisor *self, struct mch_reader_of *reader) {
  while (reader->left > 0 && !reader->bad) {
    struct here *here = mch_supervisor_here(self, mch_take_u32(reader));
    if (here == NULL || here->granted)
      return -1;
    here->granted = 1;
    enqueue(self, here);
  }
  return reader->bad ? -1 : 0;
}

/* Take back from the fork engine what has not begun, and say so. Whether it is gone. */
static int recall(struct supervisor *self, struct here *here, uint32_t number) {
  struct mch_task *task = here->task;
  int taken;
  if (!here->submitted) {
    mch_supervisor_return(self, here);
    return 1;
  }
  self->recalling = 1;
  taken = number == 0 && self->engine->ops->reclaim(self->engine, task);
  if (!taken && task->batch != NULL)
    self->engine->ops->shorten(self->engine, task, number);
  self->recalling = 0;
  return taken;
}

static int take_recall(struct supervisor *self, struct mch_reader_of *reader) {
  struct here *here = mch_supervisor_here(self, mch_take_u32(reader));
  uint32_t number = mch_take_u32(reader);
  if (reader->bad)
    return -1;
  if (here != NULL)
    recall(self, here, number);
  return 0;
}

static int take_stop(struct supervisor *self, struct mch_reader_of *reader) {
  struct here *here = mch_supervisor_here(self, mch_take_u32(reader));
  uint8_t kind = mch_take_u8(reader);
  if (reader->bad || kind < MCH_KIND_EXITED || kind >= MCH_KIND_COUNT)
    return -1;
  if (here == NULL || recall(self, here, 0))
    return 0;
  if (here->task->batch != NULL && here->task->batch->answered == here->task->batch->count)
    return 0;
  here->task->stop = kind;
  self->engine->ops->stop(self->engine, here->task);
  return 0;
}

/* The batch with this item. */
static struct here *with_item(struct supervisor *self, uint64_t runid) {
  uint32_t i;
  for (i = 0; i < MCH_HOSTS_PLACES; i++) {
    struct here *here = self->here[i];
    if (here != NULL && here->task->batch != NULL && runid >= here->task->runid &&
        runid - here->task->runid < here->task->batch->count)
      return here;
  }
  return NULL;
}

/* Cut off what is behind `count` items. Whether nothing is now. */
static int cut(struct supervisor *self, struct here *here, uint32_t count) {
  struct mch_task *task = here->task, *rest;
  if (count == task->batch->count)
    return 1;
  if (here->submitted)
    self->engine->ops->shorten(self->engine, task, count);
  else if ((rest = mch_task_split(task, count)) != NULL) {
    task->batch->count = count;
    mch_supervisor_split(self, task, rest);
  }
  return count == task->batch->count;
}

/* Cancel one item of a batch, and no other. What cannot be done is none of the pool's troubles: it
 * knows which items are to end so. */
static int take_stop_item(struct supervisor *self, struct mch_reader_of *reader) {
  uint64_t runid = mch_take_u64(reader);
  struct here *here = with_item(self, runid);
  uint32_t number;
  if (reader->bad || (here != NULL && !here->granted))
    return -1;
  if (here == NULL || runid - here->task->runid < here->task->batch->answered)
    return 0;
  number = (uint32_t)(runid - here->task->runid);
  if (here->submitted)
    self->engine->ops->reclaim(self->engine, here->task);
  if (!cut(self, here, number + 1))
    return 0; /* later ones have begun: it is over */
  if (number > 0 && cut(self, here, number))
    here = with_item(self, runid);
  if (here == NULL)
    return 0;
  if (!here->submitted) {
    if (here->task->runid == runid)
      mch_supervisor_end(self, here, MCH_KIND_CANCELLED, NULL);
  } else if (here->task->batch->answered < here->task->batch->count) {
    here->task->stop = MCH_KIND_CANCELLED;
    self->engine->ops->stop(self->engine, here->task);
  }
  return 0;
}

/* So many tasks at a time from now on. */
static void take_slots(struct supervisor *self, uint32_t slots) {
  if (slots != 0 && slots <= MCH_HOSTS_SLOTS)
    self->wanted_slots = slots;
  slots = fair(self, slots);
  if (self->engine == NULL || slots == 0 || slots > MCH_HOSTS_SLOTS || slots == self->slots)
    return;
  self->slots = slots;
  self->engine->ops->resize(self->engine, slots);
}

static int take_level(struct supervisor *self, struct mch_reader_of *reader) {
  int level = (int)(int32_t)mch_take_u32(reader);
  uint8_t listening = mch_take_u8(reader);
  uint32_t slots = mch_take_u32(reader);
  if (reader->bad || slots > MCH_HOSTS_SLOTS)
    return -1;
  self->engine->ops->log_threshold(self->engine, level);
  self->engine->ops->listen(self->engine, listening != 0);
  take_slots(self, slots);
  return 0;
}

static void leave(struct supervisor *self, int kill) {
  self->leaving = 1;
  if (self->engine != NULL)
    self->engine->ops->quit(self->engine, kill);
}

int mch_supervisor_hear(struct supervisor *self, const struct mch_link_event *event) {
  struct mch_reader_of reader = {event->bytes, event->length, 0};
  if (self->engine == NULL && event->type != MCH_HOSTS_CONFIG && event->type != MCH_HOSTS_QUIT &&
      event->type != MCH_HOSTS_CODE)
    return -1;
  if (self->bodiless && event->type != MCH_HOSTS_BODY && event->type != MCH_HOSTS_SAME)
    return -1;
  switch (event->type) {
  case MCH_HOSTS_CONFIG:
    return configure(self, &reader);
  case MCH_HOSTS_CODE:
    return take_code(self, &reader);
  case MCH_HOSTS_MODULE:
    return mch_supervisor_module(self, &reader);
  case MCH_HOSTS_TASK:
    return take_task(self, &reader, 0);
  case MCH_HOSTS_BATCH:
    return take_task(self, &reader, 1);
  case MCH_HOSTS_BODY:
    return take_body(self);
  case MCH_HOSTS_SAME:
    return take_same(self, &reader);
  case MCH_HOSTS_GRANT:
    return take_grants(self, &reader);
  case MCH_HOSTS_STOP:
    return take_stop(self, &reader);
  case MCH_HOSTS_STOP_ITEM:
    return take_stop_item(self, &reader);
  case MCH_HOSTS_RECALL:
    return take_recall(self, &reader);
  case MCH_HOSTS_LEVEL:
    return take_level(self, &reader);
  case MCH_HOSTS_HEARD:
    self->owed -= self->owed > 0;
    return 0;
  case MCH_HOSTS_ACCEPT: {
    uint32_t pid = mch_take_u32(&reader);
    uint64_t bytes = mch_take_u64(&reader);
    if (!reader.bad)
      self->engine->ops->accept(self->engine, (int)pid, (size_t)bytes);
    return reader.bad ? -1 : 0;
  }
  case MCH_HOSTS_QUIT:
    leave(self, mch_take_u8(&reader));
    return reader.bad ? -1 : 0;
  case MCH_HOSTS_PING:
    mch_supervisor_say(self, MCH_HOSTS_PONG, event->bytes, event->length);
    return 0;
  default:
    return -1;
  }
}

/* -- the loop ----------------------------------------------------------------------------- */

/* 0, or -1: the pool has gone, or said what it may not. */
static int hear_all(struct supervisor *self) {
  struct mch_link_event event;
  size_t taken = 0, count = 0;
  while (taken < AT_ONCE && count++ < MOST_MESSAGES) {
    switch (mch_link_next(self->link, &event)) {
    case MCH_LINK_MESSAGE:
      taken += event.length;
      if (mch_supervisor_hear(self, &event) != 0) {
        fprintf(stderr, "mantichora worker: the pool broke the protocol by message %d\n",
                event.type);
        return -1;
      }
      break;
    case MCH_LINK_LOST:
      return -1;
    case MCH_LINK_LEAVE:
      leave(self, 1);
      break;
    case MCH_LINK_SLOTS:
      self->fleet_slots = event.number;
      if (self->wanted_slots != 0)
        take_slots(self, self->wanted_slots);
      break;
    case MCH_LINK_NOTHING:
      return 0;
    default:
      break;
    }
  }
  return 0;
}

static void work(struct supervisor *self) {
  const struct mch_engine_ops *ops = self->engine->ops;
  struct mch_error error;
  if (mch_link_queued(self->link) < UNSENT_MOST)
    ops->pump(self->engine, 1, self->queued);
  if (self->leaving)
    return;
  submit_all(self);
  if (ops->short_of_workers(self->engine, self->queued)) {
    ops->add(self->engine, self->queued, &error);
    submit_all(self);
  }
}

static uint64_t next_deadline(struct supervisor *self) {
  uint64_t due = mch_link_deadline(self->link);
  if (self->replies != NULL)
    due = mch_sooner(due, mch_now() + 1000000u);
  if (self->engine == NULL)
    return due;
  if (mch_link_queued(self->link) < UNSENT_MOST)
    due = mch_sooner(due, self->engine->ops->deadline(self->engine));
  else
    due = mch_sooner(due, mch_now() + 1000000u);
  due = mch_sooner(due, mch_output_next(self->config->output));
  if (self->scarce && self->first != NULL)
    due = mch_sooner(due, self->looked_at_memory + look_at_memory);
  return mch_sooner(due, self->look_at);
}

/* Something has changed: what the workers do is told soon. */
void mch_supervisor_look_soon(struct supervisor *self) {
  self->look_step = look_soon;
  if (self->look_at > self->looked_at_workers + 10 * look_soon)
    self->look_at = mch_now() + look_soon;
}

/* From time to time while they work; with nothing to do, whatever woke this process: one of them
 * may have come or gone. */
static void tell_workers(struct supervisor *self, uint64_t now) {
  if (now < self->look_at && self->look_at != MCH_NEVER)
    return;
  self->looked_at_workers = now;
  mch_supervisor_tell_workers(self);
  self->look_step = self->look_step < look_late ? 2 * self->look_step : look_late;
  self->look_at = self->count > 0 || self->told_busy ? now + self->look_step : MCH_NEVER;
}

/* How long to sleep without being woken by workers: where answers of items come in crowds, half of
 * the time that the others will take at that pace. 0: too short a time. */
static uint64_t nap(struct supervisor *self, uint64_t now) {
  uint64_t step = now - self->looked, answered = self->answered, length;
  self->looked = now;
  self->answered = 0;
  if (answered < CROWD || step > longest_step)
    return 0;
  length = step * (self->items / answered) / 2;
  return length < shortest_nap ? 0 : length < longest_nap ? length : longest_nap;
}

/* What is to be said goes, or waits a moment for more of it while there is much to do: each write
 * wakes all the processes on the way. When it is to go then. */
static uint64_t flush(struct supervisor *self, uint64_t now, int naps) {
  size_t queued;
  mch_supervisor_say_records(self);
  queued = mch_link_queued(self->link);
  if (queued == 0)
    return MCH_NEVER;
  if (queued < HELD_BACK && (naps || self->count > (size_t)MUCH * self->slots) &&
      now < self->flushed + held_for)
    return self->flushed + held_for;
  mch_link_flush(self->link);
  self->flushed = now;
  return MCH_NEVER;
}

static int loop(struct supervisor *self) {
  int asked = 1;
  for (;;) {
    int fds[3];
    uint64_t due, now, naps;
    if (hear_all(self) != 0)
      return -1;
    if (asked || self->replies != NULL)
      mch_supervisor_hear_asks(self);
    if (self->engine != NULL) {
      work(self);
      if (self->large > 0)
        let_go(self);
      tell_workers(self, mch_now());
      if (mch_output_next(self->config->output) <= mch_now())
        mch_output_pump(self->config->output, mch_now(), 1);
    }
    now = mch_now();
    naps = nap(self, now);
    due = flush(self, now, naps > 0);
    due = mch_sooner(due, naps > 0 ? now + naps : next_deadline(self));
    if (self->leaving && (self->engine == NULL || self->engine->ops->gone(self->engine)))
      return 0;
    fds[0] = self->config->asks;
    fds[1] = mch_link_fd(self->link);
    fds[2] = self->engine != NULL && naps == 0 ? mch_poller_fd(self->engine->poller) : -1;
    asked = due <= mch_now() || mch_platform_await(fds, 3, due, NULL);
  }
}

/* What is queued still goes. */
static void say_goodbye(struct supervisor *self) {
  struct mch_link_event event;
  uint64_t until = mch_now() + 2000000000u;
  mch_supervisor_say(self, MCH_HOSTS_GONE, NULL, 0);
  mch_link_close(self->link);
  while (mch_now() < until) {
    int fd = mch_link_fd(self->link);
    enum mch_link_what what = mch_link_next(self->link, &event);
    if (what == MCH_LINK_LOST || what == MCH_LINK_LEAVE)
      break;
    if (what != MCH_LINK_NOTHING)
      continue;
    mch_platform_await(&fd, 1, mch_sooner(until, mch_link_deadline(self->link)), NULL);
  }
}

static void free_all(struct supervisor *self) {
  uint32_t i;
  mch_buf_free(&self->told);
  for (i = 0; i < MCH_HOSTS_PLACES; i++)
    if (self->here[i] != NULL)
      mch_supervisor_forget(self, self->here[i]);
  mch_supervisor_free_asks(self);
  mch_buf_free(&self->head);
  mch_buf_free(&self->scratch);
  mch_buf_free(&self->records);
  mch_buf_free(&self->front);
  mch_kept_clear(&self->kept);
  mch_link_free(self->link);
  free(self);
}

int mch_supervisor_run(const struct mch_supervisor_config *config) {
  struct supervisor *self = calloc(1, sizeof *self);
  int status;
  if (self == NULL)
    return 71;
  self->config = config;
  self->link = config->link;
  self->look_at = MCH_NEVER;
  mch_supervisor_say_hello(self);
  status = loop(self);
  if (self->engine != NULL) {
    if (status != 0)
      self->engine->ops->quit(self->engine, 1);
    else
      say_goodbye(self);
    self->engine->ops->free(self->engine); /* its workers' lifelines end */
  } else
    say_goodbye(self);
  free_all(self);
  return status == 0 ? 0 : 1;
}
