/* Runs in: parent.
 *
 * All that a worker says, from its HELLO to its last line: bars, output, results of tasks and of
 * items, log records, EXIT. Nothing of it is believed that can be checked; a worker that says what
 * it may not is killed. What becomes of its tasks then is in fork_bury.c. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/buf.h"
#include "runtime/base/chaos.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"
#include "runtime/show/output_state.h"
#include "runtime/show/progress.h"
#include "runtime/wire/facts.h"
#include "runtime/wire/protocol.h"
#include "runtime/wire/ring.h"
#include "task.h"

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
  const struct mch_task *task;
  if (message->length < MCH_BAR_START_SIZE || body[20] >= MCH_UNITS || body[21] > MCH_LEAVE_FAILED)
    return 0;
  if (!child->engine->config.bars || !bar_room(child))
    return 1;
  memset(&spec, 0, sizeof spec);
  slot = mch_load_u32(body + 16);
  spec.slot_id = mch_load_u64(body);
  spec.runid = (int64_t)message->head.runid;
  spec.total = mch_load_u64(body + 8);
  spec.slot = slot < MCH_BARS ? &child->shared->bars[slot] : NULL;
  spec.unit = (enum mch_bar_unit)body[20];
  spec.leave = (enum mch_bar_leave)body[21];
  spec.name = (const char *)body + MCH_BAR_START_SIZE;
  spec.name_length = message->length - MCH_BAR_START_SIZE;
  if (spec.leave == MCH_LEAVE_ALWAYS && child->engine->config.leave_failed)
    spec.leave = MCH_LEAVE_FAILED;
  task = mch_child_offered_with(child, message->head.runid);
  name_task(&spec, task);
  child->bars[child->bar_count] = mch_output_bar_start(child->engine->config.output, &spec);
  if (child->bars[child->bar_count] == NULL)
    return 1;
  if (task != NULL && task->stop == MCH_KIND_CANCELLED)
    mch_output_bar_stopping(child->engine->config.output, child->bars[child->bar_count]);
  child->bar_ids[child->bar_count++] = spec.slot_id;
  return 1;
}

void mch_hear_stopping(struct child *child) {
  size_t i;
  for (i = 0; i < child->bar_count; i++)
    mch_output_bar_stopping(child->engine->config.output, child->bars[i]);
}

static int bar_name(struct child *child, const struct mch_message_in *message) {
  size_t i;
  if (message->length < 8)
    return 0;
  i = find_bar(child, mch_load_u64(message->body));
  if (i < child->bar_count)
    mch_output_bar_name(child->engine->config.output, child->bars[i],
                        (const char *)message->body + 8, message->length - 8);
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
enum mch_bar_end mch_hear_stopped_or(const struct mch_task *task, enum mch_bar_end usual) {
  if (task == NULL || task->stop == 0)
    return usual;
  return task->stop == MCH_KIND_TIMEOUT ? MCH_BAR_TIMEOUT : MCH_BAR_CANCELLED;
}

/* A loop that is left by the error which stops its task says "broken", or "error". */
static enum mch_bar_end how_bar_ends(const struct child *child, uint64_t runid,
                                     enum mch_bar_end how) {
  return how == MCH_BAR_BROKEN || how == MCH_BAR_ERROR || how == MCH_BAR_CANCELLED
             ? mch_hear_stopped_or(mch_child_offered_with(child, runid), how)
             : how;
}

static void pass_lines_until(struct child *child, int which, uint64_t position, int complete);

static int bar_end(struct child *child, const struct mch_message_in *message) {
  size_t i;
  int which;
  if (message->length != MCH_BAR_END_SIZE || message->body[24] > MCH_BAR_CANCELLED)
    return 0;
  for (which = 0; which < 2; which++)
    pass_lines_until(child, which, mch_load_u64(message->body + 25 + 8 * which), 0);
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
char *mch_hear_last_progress(const struct child *child) {
  struct mch_bar *bar;
  char text[256];
  if (child->bar_count == 0)
    return NULL;
  bar = child->bars[child->bar_count - 1];
  mch_progress_sample(bar);
  if (bar->total == MCH_BAR_UNKNOWN)
    snprintf(text, sizeof text, "%.*s: %llu", (int)bar->name_length, mch_progress_name(bar),
             (unsigned long long)bar->done);
  else
    snprintf(text, sizeof text, "%.*s: %llu / %llu", (int)bar->name_length, mch_progress_name(bar),
             (unsigned long long)bar->done, (unsigned long long)bar->total);
  return strdup(text);
}

/* The worker has gone: its bars stop where the shared page has them. */
void mch_hear_stop_bars(struct child *child, enum mch_bar_end how) {
  while (child->bar_count > 0) {
    mch_output_bar_end(child->engine->config.output, child->bars[child->bar_count - 1],
                       MCH_BAR_UNKNOWN, MCH_BAR_UNKNOWN, how);
    child->bar_count--;
  }
}

/* -- task output -------------------------------------------------------------------------- */

/* Read once. Number of bytes, 0: nothing now (or ended). The page tells the worker when the count
 * and the pipe do not fit together. */
size_t mch_hear_read_stream(struct child *child, int which) {
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
    mch_output_task_lines(output, stream, (const char *)line.data, line.length);
  mch_buf_free(&line);
}

/* How many of the first `count` unread bytes are whole lines. However often a line grows, each of
 * its bytes is looked at once. */
size_t mch_hear_whole_lines(struct stream *stream, size_t count) {
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
  whole = mch_hear_whole_lines(stream, count);
  if (whole == 0 && !complete && count >= LONGEST_LINE)
    whole = count;
  if (whole > 0)
    mch_output_task_lines(output, which + 1, (const char *)start, whole);
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

void mch_hear_pass_last_lines(struct child *child) {
  int which;
  for (which = 0; which < 2; which++)
    pass_lines(child, which, mch_buf_unread(&child->streams[which].raw), 1);
}

/* A task, or a bar, ended when `position` bytes had gone into this pipe: take them all; with
 * `complete`, complete its last line. What is behind them belongs to the next task. */
static void pass_lines_until(struct child *child, int which, uint64_t position, int complete) {
  struct stream *stream = &child->streams[which];
  uint64_t start, end;
  size_t unread;
  if (stream->consumed < position && stream->fd >= 0) {
    /* It was there when the task ended; a program that writes on and on is another matter. */
    long waiting = mch_platform_unread(stream->fd);
    end = stream->consumed + (waiting > 0 ? (uint64_t)waiting : 0);
    while (stream->consumed < position && stream->consumed < end &&
           mch_hear_read_stream(child, which) > 0)
      ;
  }
  unread = mch_buf_unread(&stream->raw);
  start = stream->consumed - unread;
  if (position < stream->consumed)
    unread = position > start ? (size_t)(position - start) : 0;
  pass_lines(child, which, unread, complete);
}

/* -- results ------------------------------------------------------------------------------ */

/* More of the worker's tasks, or items of one, are over. */
static void count_ended(struct child *child, uint32_t count) {
  mch_buf_clear(&child->last_log);
  child->tasks += count;
  child->never_ran = 0;
}

static void count_one(struct child *child) {
  count_ended(child, 1);
}

/* What was to stop has ended. If a later task was told to stop meanwhile, its time goes on. */
static void stopped(struct child *child, const struct mch_task *task) {
  if (atomic_load(&child->shared->orders.stop) == task->ticket)
    child->kill_at = MCH_NEVER;
}

/* The words of this side about a result that came: whose it is, and that it was stopped (0: not).
 */
static void judge(struct child *child, const struct mch_task *task, int stop,
                  struct mch_result *result) {
  if (stop != 0)
    stopped(child, task);
  if (result == NULL)
    return;
  if (stop != 0) {
    if (result->kind == MCH_KIND_OK)
      result->length = 0; /* it caught the error and returned: that does not count */
    result->kind = (enum mch_kind)stop;
  }
  result->pid = (int)child->pid;
  result->slot = child->slot;
}

void mch_hear_finish(struct child *child, struct mch_task *task, struct mch_result *result) {
  mch_child_settle(child, task);
  count_one(child);
  judge(child, task, task->stop, result);
  mch_child_events(child)->finished(mch_child_events(child)->ud, task, result);
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
void mch_hear_finish_batch(struct child *child, struct mch_task *task, uint64_t elapsed) {
  mch_child_settle(child, task);
  if (task->stop != 0)
    stopped(child, task); /* the item that was to stop ended before */
  mch_child_events(child)->batch_over(mch_child_events(child)->ud, task, elapsed);
}

/* A batch that is stopped means its last item: those behind it were taken back. */
static int is_stopped_item(const struct mch_task *task) {
  return task->stop != 0 && task->batch->answered + 1 == task->batch->count;
}

void mch_hear_fail_item(struct child *child, struct mch_task *task, struct mch_result *result) {
  int stop = is_stopped_item(task) ? task->stop : 0;
  count_one(child);
  judge(child, task, stop, result);
  if (stop != 0)
    task->stop = 0;
  mch_child_events(child)->failed(mch_child_events(child)->ud, task, result);
}

/* The items behind the last answer never began: let the pool have them. Without memory for that
 * they fail. */
void mch_hear_return_rest(struct child *child, struct mch_task *task) {
  struct mch_batch *batch = task->batch;
  struct mch_task *rest;
  if (batch->answered == batch->count)
    return;
  rest = mch_task_split(task, batch->answered);
  if (rest != NULL) {
    batch->count = batch->answered;
    mch_child_events(child)->split(mch_child_events(child)->ud, task, rest, 0);
  }
  while (batch->answered < batch->count)
    mch_child_events(child)->failed(mch_child_events(child)->ud, task, NULL);
}

/* Take back the items from `number` on that have not begun; with `half` only the later half. */
void mch_hear_shorten_batch(struct child *child, struct mch_task *task, uint32_t number, int half) {
  struct mch_task *rest = NULL;
  uint64_t word = atomic_load(&child->shared->items);
  while (mch_child_is_items_word(task, word)) {
    uint32_t limit = mch_items_limit(word), next = mch_items_next(word);
    uint32_t at = half ? next + (limit - next) / 2 : number > next ? number : next;
    mch_task_free(rest);
    rest = NULL;
    if (next >= limit || at >= limit || (rest = mch_task_split(task, at)) == NULL)
      return;
    if (atomic_compare_exchange_strong(&child->shared->items, &word,
                                       mch_items_word(task->ticket, at, next))) {
      if (mch_fork_is_marked_item(child, task, at))
        break;
      atomic_store(&child->shared->orders.limit, (uint64_t)task->ticket << 32 | at);
      task->batch->count = at;
      mch_child_events(child)->split(mch_child_events(child)->ud, task, rest, 0);
      return;
    }
  }
  if (mch_child_is_taken(child, task->ticket) && mch_items_ticket(word) == task->ticket)
    mch_child_break_off(child); /* the page says of it what cannot be */
  mch_task_free(rest);
}

/* Whether the next item without an answer has begun. Nothing that it wrote is on its way. */
int mch_hear_item_has_begun(const struct child *child, const struct mch_task *task) {
  return mch_fork_first_unbegun(child, task) > task->batch->answered;
}

/* -- messages ----------------------------------------------------------------------------- */

/* The task that a message of the worker is about: the oldest that it has, which it must have begun.
 * NULL: another. */
static struct mch_task *told_of(const struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = mch_child_oldest(child);
  /* A later task may have written over its claim. */
  return task != NULL && task->ticket == message->head.ticket &&
                 (mch_child_is_taken(child, task->ticket) ||
                  mch_child_is_marked(child, task->ticket))
             ? task
             : NULL;
}

static void settle_facts(struct child *child, const struct mch_facts *facts) {
  pass_lines_until(child, 0, facts->stdout_position, 1);
  pass_lines_until(child, 1, facts->stderr_position, 1);
  child->maxrss = facts->maxrss;
}

/* What the worker said of when and how long a task or item ran; `facts` may be all zero. */
static struct mch_course course_of(const struct child *child, const struct mch_facts *facts) {
  int is_told = facts->started != 0;
  struct mch_course course = {(int)child->pid,
                              child->slot,
                              mch_child_believed(child, facts->started),
                              is_told ? facts->elapsed : MCH_UNMEASURED,
                              is_told ? facts->cpu : MCH_UNMEASURED,
                              is_told ? facts->maxrss : MCH_UNMEASURED,
                              NULL};
  return course;
}

/* The result of a message that has facts in front of its graph. NULL: no memory. */
static struct mch_result *result_with(struct child *child, const struct mch_message_in *message,
                                      const struct mch_facts *facts, size_t head) {
  struct mch_result *result = result_of(child, message, facts->kind, head);
  if (result != NULL) {
    result->begun = 1;
    result->started = mch_child_believed(child, facts->started);
    result->cpu = facts->started != 0 ? facts->cpu : MCH_UNMEASURED;
    result->elapsed = facts->elapsed;
    result->maxrss = facts->maxrss;
  }
  return result;
}

/* An answer was taken: its worker may wait for what the pool makes of it. `items`: of a batch, so
 * many are dealt with by that. */
static void note_heard(struct child *child, const struct mch_task *task, uint32_t items) {
  if (!task->careful)
    return;
  child->heard = mch_heard_word(task->ticket, items);
  child->engine->heard = 1;
}

/* 0, or -1 when the message is not what it should be. */
static int task_result(struct child *child, const struct mch_message_in *message) {
  struct mch_facts facts;
  struct mch_task *task = told_of(child, message);
  if (mch_facts_load(&facts, message->body, message->length) != 0 || task == NULL ||
      task->runid != message->head.runid)
    return -1;
  settle_facts(child, &facts);
  note_heard(child, task, MCH_HEARD_ALL);
  mch_child_count_work(child, facts.elapsed);
  if (task->batch != NULL) {
    mch_hear_return_rest(child, task);
    mch_hear_finish_batch(child, task, facts.elapsed);
  } else
    mch_hear_finish(child, task, result_with(child, message, &facts, MCH_FACTS_SIZE));
  return 0;
}

/* A task, or the next item of a batch, begins. */
static int task_started(struct child *child, const struct mch_message_in *message) {
  const struct mch_task *task = told_of(child, message);
  struct mch_facts facts = {.kind = MCH_KIND_OK};
  struct mch_course course;
  uint64_t next;
  if (message->length != 8 || task == NULL)
    return -1;
  next = task->runid + (task->batch != NULL ? task->batch->answered : 0);
  if (message->head.runid != next ||
      (task->batch != NULL && task->batch->answered >= task->batch->count))
    return -1;
  facts.started = mch_load_u64(message->body);
  course = course_of(child, &facts);
  mch_child_events(child)->started(mch_child_events(child)->ud, mch_child_oldest(child), &course);
  return 0;
}

/* Values that the task that runs gives to the pool. */
static int values_emitted(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  if (task == NULL || message->head.runid < task->runid ||
      message->head.runid - task->runid >= mch_task_count(task))
    return -1;
  if (message->lost ||
      !mch_child_events(child)->emitted(mch_child_events(child)->ud, task, (int)child->pid, NULL,
                                        message->body, message->length))
    atomic_fetch_add(&child->shared->orders.accepted, message->length);
  return 0;
}

/* A piece of what a task will return. */
static int early_piece(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  if (task == NULL || task->runid != message->head.runid || task->batch != NULL)
    return -1;
  if (!message->lost && task->stop == 0)
    mch_child_events(child)->early(mch_child_events(child)->ud, task, message->body,
                                   message->length);
  return 0;
}

/* The result of one item. Most are OK and have nothing else to say. */
static int item_result(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  struct mch_facts facts = {.kind = MCH_KIND_OK};
  struct mch_course course;
  size_t head = 4 + 1;
  if (message->length < 5 || task == NULL || task->batch == NULL ||
      task->batch->answered >= task->batch->count ||
      mch_load_u32(message->body) != task->batch->answered)
    return -1;
  if (message->body[4] != MCH_ITEM_OK) {
    head = 4 + MCH_FACTS_SIZE;
    if (mch_facts_load(&facts, message->body + 4, message->length - 4) != 0)
      return -1;
    settle_facts(child, &facts);
  }
  note_heard(child, task, task->batch->answered + 1);
  if (facts.kind == MCH_KIND_OK && !is_stopped_item(task) && !message->lost) {
    count_one(child);
    course = course_of(child, &facts);
    mch_child_events(child)->answered(mch_child_events(child)->ud, task, message->body + head,
                                      message->length - head, &course);
    return 0;
  }
  mch_hear_fail_item(child, task, result_with(child, message, &facts, head));
  return 0;
}

/* An item that was stopped, but has an OK answer. */
static void answer_stopped(struct child *child, struct mch_task *task, const unsigned char *graph,
                           size_t length) {
  struct mch_result *result = mch_result_new(MCH_KIND_OK, NULL, graph, length);
  if (result != NULL)
    result->begun = 1;
  mch_hear_fail_item(child, task, result);
}

/* Answers of items in a row. An item that was stopped is the last of its batch. */
static int items_result(struct child *child, const struct mch_message_in *message) {
  struct mch_task *task = told_of(child, message);
  const unsigned char *last = message->body;
  uint32_t count = message->records, i;
  struct mch_facts facts = {.kind = MCH_KIND_OK};
  struct mch_course course = course_of(child, &facts);
  if (task == NULL || task->batch == NULL || count > task->batch->count - task->batch->answered ||
      message->head.runid + message->records_before != task->runid + task->batch->answered)
    return -1;
  note_heard(child, task, task->batch->answered + count);
  if (task->stop != 0 && task->batch->answered + count == task->batch->count) {
    for (i = --count; i > 0; i--)
      last += 1 + *last;
  } else
    last += message->length;
  if (count > 0) {
    count_ended(child, count);
    mch_child_events(child)->answered_many(mch_child_events(child)->ud, task, message->body,
                                           (size_t)(last - message->body), count, &course);
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

/* It leaves, with its task or between tasks. In the latter case its `fini` may take some time: no
 * task waits for that, and another worker may have its place. */
static int exit_said(struct child *child, const struct mch_message_in *message) {
  if (message->length != 4)
    return -1;
  child->exit_said = 1;
  child->exit_status = (int)(mch_load_u32(message->body) & 0xff);
  if (child->engine->config.runner.end == NULL || child->state != LIVE)
    return 0;
  mch_feed_withdraw_from(child);
  if (child->outstanding == 0)
    mch_time_leaves(child);
  return 0;
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
  case MCH_MESSAGE_STARTED:
    return task_started(child, message);
  case MCH_MESSAGE_EMITTED:
    return values_emitted(child, message);
  case MCH_MESSAGE_EARLY:
    return early_piece(child, message);
  case MCH_MESSAGE_LOG:
    mch_child_events(child)->log(mch_child_events(child)->ud, message->body, message->length);
    mch_buf_clear(&child->last_log);
    if (message->length <= LONGEST_LAST_LOG)
      mch_buf_append(&child->last_log, message->body, message->length);
    return 0;
  case MCH_MESSAGE_BAR_START:
    return bar_start(child, message) - 1;
  case MCH_MESSAGE_BAR_UPDATE:
    return bar_update(child, message) - 1;
  case MCH_MESSAGE_BAR_NAME:
    return bar_name(child, message) - 1;
  case MCH_MESSAGE_BAR_END:
    return bar_end(child, message) - 1;
  case MCH_MESSAGE_EXIT:
    return exit_said(child, message);
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
    mch_child_break_off(child);
  }
}

/* Read and handle all that has come. Output first and lines last: a result that was sent before
 * some output is then handled before that output is passed on. */
void mch_hear_drain(struct child *child) {
  if (child->ready & CHANNEL)
    mch_channel_hear(&child->channel);
  if (child->ready & STDOUT)
    mch_hear_read_stream(child, 0);
  if (child->ready & STDERR)
    mch_hear_read_stream(child, 1);
  if (!child->garbled)
    hear_all(child);
  if (child->channel.ended && child->stream_ended == 0) {
    child->stream_ended = mch_now();
    mch_child_look_at(child->engine, child->stream_ended + end_grace);
  }
  pass_ready_lines(child);
}

/* -- the page ----------------------------------------------------------------------------- */

/* Whether what the page says about the oldest task can be right. What is about a later one says
 * that the answer to this one is there: it has been read, unless bytes wait. */
static int fits(const struct child *child, const struct mch_task *task, uint32_t passed) {
  const struct mch_shared *shared = child->shared;
  uint64_t claim = mch_child_claim_of(child, task->ticket); /* once: it may be taken meanwhile */
  uint64_t began;
  if (claim == mch_child_claim_word(task->ticket, MCH_CLAIM_OFFERED))
    return 1;
  if (claim != mch_child_claim_word(task->ticket, MCH_CLAIM_TAKEN))
    return mch_channel_waiting(&child->channel);
  began = atomic_load(&shared->running_since);
  if (began > mch_now() || began < child->forked)
    return 0;
  if (mch_child_is_before(passed, task->ticket) &&
      (task->batch == NULL || mch_child_is_items_word(task, atomic_load(&shared->items))))
    return 1;
  return mch_channel_waiting(&child->channel);
}

/* Look at what a task may have written over. */
void mch_hear_check_page(struct child *child) {
  const struct mch_shared *shared = child->shared;
  const struct mch_task *task = mch_child_oldest(child);
  uint32_t passed = atomic_load(&shared->passed);
  if (child->killed)
    return;
  if (child->last_ticket - passed > child->last_ticket - child->passed ||
      child->channel.ring_put - atomic_load(&shared->down.read) > MCH_RING_SIZE ||
      (task != NULL && !fits(child, task, passed)))
    mch_child_break_off(child);
  child->passed = passed;
}
