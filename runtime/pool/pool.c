/* Runs in: parent only. Purpose: pool.h. */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#include "runtime/wire/codes.h"
#include "driver.h"
#include "runtime/base/platform.h"
#include "queue.h"

/* A log record on its way to Lua. */
struct record {
  struct record *next;
  size_t length;
  unsigned char graph[];
};

/* A part of a result on its way to Lua. */
struct piece {
  struct mch_piece head;
  struct piece *next;
  unsigned char bytes[];
};

/* With so many bytes of log records or lines waiting for the owner, the driver reads no more. */
enum { MOST_RECORD_BYTES = 64 * 1024 * 1024, MOST_BACKLOG = 16 * 1024 * 1024 };

static const uint64_t rush = 10000u;          /* 10 us between two tasks */
static const uint64_t held_for = 300000u;     /* 0.3 ms: a task that waits for others to go with */
static const uint64_t nap = 30000u;           /* 30 us, and what the kernel adds */
static const uint64_t longest_nap = 1000000u; /* 1 ms */
static const uint64_t longest_look =
    250000000u; /* a signal that another thread took is seen so late */

enum {
  CROWD = 32,    /* so many results at once are many */
  FEED = 192,    /* with so many tasks in the queue it is looked whether workers want some */
  FEED_STEP = 16 /* how often */
};

static const uint64_t patience_without_workers = 5000000000u; /* 5 s */

struct mch_pool {
  pthread_mutex_t lock;
  struct mch_engine *engine;
  struct mch_output *output;
  int background;            /* whether a thread is wanted while there are tasks */
  struct mch_driver *driver; /* NULL: none, or not yet */
  struct mch_queue queue;
  /* Every accepted task that was not taken, by run ID: index[(runid - base) + start]. */
  struct mch_task **index;
  size_t index_start, index_room;
  uint64_t base, next_runid;
  size_t submitted;
  size_t unfinished; /* tasks and items of all groups that have not ended */
  struct record *records, *last_record;
  size_t record_bytes;
  struct piece *pieces, *last_piece;
  struct mch_result *no_memory; /* stands in for a result that there is no memory for */
  struct mch_dictionary dictionary;
  char *bar_name;               /* NULL: no bar for all tasks */
  struct mch_bar *bar;          /* while there are tasks that were not taken */
  struct mch_bar_tasks counted; /* what it shows */
  uint64_t accepted;            /* since it began */
  size_t coming;                /* tasks that groups have announced */
  int overfull;                 /* a group is since the last pump */
  size_t harvest;               /* tasks that ended since the owner last waited */
  int attended;                 /* the owner waits inside, or works for it */
  uint64_t workless_since;      /* no worker could be forked and none lives; 0: not so */
  uint64_t drives, drives_seen; /* pumps by the driver; those before the owner's last pump */
  uint64_t runs_seen;           /* next_runid at the driver's last pump */
  uint64_t last_run;            /* when a task came that could go at once */
  uint64_t held_until; /* tasks in the queue go then at the latest; MCH_NEVER: none is held */
  int started;
  struct mch_poller *outer;  /* for mch_pool_fd(): the engine's poller and `attention` */
  struct mch_poller *joined; /* somebody's who waits for several pools: the same two; or NULL */
  int attention[2];          /* a pipe: there is something for the owner that no worker says; -1:
                                nobody waits by a descriptor */
  int attention_raised;
};

/* -- tasks and results -------------------------------------------------------------------- */

struct mch_task *mch_task_new(const uint32_t *ids, uint32_t codes, const void *graph,
                              size_t length) {
  size_t id_bytes = codes * sizeof *ids;
  struct mch_task *task;
  if (length > SIZE_MAX - id_bytes - sizeof *task)
    return NULL;
  task = malloc(sizeof *task + id_bytes + length);
  if (task == NULL)
    return NULL;
  memset(task, 0, sizeof *task);
  task->codes = codes;
  task->length = id_bytes + length;
  if (codes > 0)
    memcpy(task->body, ids, id_bytes);
  if (length > 0 && graph != NULL)
    memcpy(task->body + id_bytes, graph, length);
  return task;
}

struct mch_task *mch_batch_new(const uint32_t *ids, uint32_t codes, const void *graph,
                               size_t length, size_t function_length, uint32_t count,
                               uint64_t index) {
  struct mch_task *task = mch_task_new(ids, codes, graph, length);
  if (task == NULL)
    return NULL;
  task->batch = calloc(1, sizeof *task->batch);
  if (task->batch == NULL) {
    mch_task_free(task);
    return NULL;
  }
  task->batch->count = task->batch->kept = count;
  task->batch->function_length = (uint32_t)function_length;
  task->batch->index = index;
  return task;
}

/* Where in the body the item of this number begins. */
static size_t item_at(const struct mch_task *batch, uint32_t number) {
  size_t at = batch->codes * sizeof(uint32_t) + batch->batch->function_length;
  for (; number > 0; number--)
    at += 4 + mch_load_u32(batch->body + at);
  return at;
}

struct mch_task *mch_task_split(const struct mch_task *task, uint32_t number) {
  const struct mch_batch *batch = task->batch;
  size_t ids = task->codes * sizeof(uint32_t), at = item_at(task, number);
  size_t front = ids + batch->function_length;
  struct mch_task *rest =
      mch_batch_new(NULL, 0, NULL, front + task->length - at, batch->function_length,
                    batch->count - number, batch->index + number);
  if (rest == NULL)
    return NULL;
  memcpy(rest->body, task->body, front);
  memcpy(rest->body + front, task->body + at, task->length - at);
  rest->codes = task->codes;
  rest->runid = task->runid + number;
  rest->priority = task->priority;
  rest->group = task->group;
  return rest;
}

void mch_task_free(struct mch_task *task) {
  if (task == NULL)
    return;
  if (task->batch != NULL)
    mch_buf_free(&task->batch->answers);
  free(task->batch);
  mch_cargo_drop(task->cargo);
  mch_cargo_drop(task->ahead);
  free(task->extra);
  free(task);
}

void mch_task_carry(struct mch_task *task, struct mch_cargo *cargo) {
  task->cargo = cargo;
  task->length += cargo->size;
}

struct mch_body mch_task_graph(const struct mch_task *task) {
  size_t ids = task->codes * sizeof(uint32_t);
  struct mch_body body = {task->body + ids, task->length - ids, NULL, 0};
  return task->cargo != NULL ? task->cargo->body : body;
}

struct mch_result *mch_result_new(enum mch_kind kind, const char *text, const void *graph,
                                  size_t length) {
  struct mch_result *result;
  if (length > SIZE_MAX - sizeof *result)
    return NULL;
  result = malloc(sizeof *result + length);
  if (result == NULL)
    return NULL;
  memset(result, 0, sizeof *result);
  result->kind = kind;
  result->length = length;
  result->graph = result->inlined;
  if (length > 0)
    memcpy(result->inlined, graph, length);
  if (text != NULL && (result->text = strdup(text)) == NULL) {
    free(result);
    return NULL;
  }
  return result;
}

struct mch_result *mch_result_adopt(enum mch_kind kind, void *memory, const unsigned char *graph,
                                    size_t length) {
  struct mch_result *result = mch_result_new(kind, NULL, NULL, 0);
  if (result == NULL) {
    free(memory);
    return NULL;
  }
  result->memory = memory;
  result->graph = graph;
  result->length = length;
  return result;
}

void mch_result_free(struct mch_result *result) {
  if (result != NULL) {
    free(result->memory);
    free(result->text);
    free(result->progress);
  }
  free(result);
}

/* -- index by run ID ---------------------------------------------------------------------- */

static struct mch_task **slot(struct mch_pool *pool, uint64_t runid) {
  return &pool->index[pool->index_start + (size_t)(runid - pool->base)];
}

static struct mch_task *find(struct mch_pool *pool, uint64_t runid) {
  return runid >= pool->base && runid < pool->next_runid ? *slot(pool, runid) : NULL;
}

/* Make room for `count` more. Tasks mostly leave in order, so the front is free when it is full. */
static int index_reserve(struct mch_pool *pool, size_t count) {
  size_t used = (size_t)(pool->next_runid - pool->base);
  size_t room = pool->index_room == 0 ? 64 : pool->index_room * 2;
  struct mch_task **index;
  if (pool->index_start + used + count <= pool->index_room)
    return 0;
  if (pool->index_start > pool->index_room / 2 && used + count <= pool->index_room) {
    memmove(pool->index, pool->index + pool->index_start, used * sizeof *pool->index);
    pool->index_start = 0;
    return 0;
  }
  while (room < pool->index_start + used + count)
    room *= 2;
  index = realloc(pool->index, room * sizeof *index);
  if (index == NULL)
    return MCH_NOMEM;
  pool->index = index;
  pool->index_room = room;
  return 0;
}

static void index_remove(struct mch_pool *pool, uint64_t runid) {
  *slot(pool, runid) = NULL;
  while (pool->base < pool->next_runid && pool->index[pool->index_start] == NULL) {
    pool->base++;
    pool->index_start++;
  }
  if (pool->base == pool->next_runid)
    pool->index_start = 0;
}

static void count_submitted(struct mch_pool *pool, struct mch_task *task, int step) {
  pool->submitted += (size_t)step;
  mch_queue_send(&pool->queue, task, step > 0);
  task->group->submitted += (size_t)step;
}

/* -- the bar for all tasks ---------------------------------------------------------------- */

static void begin_bar(struct mch_pool *pool) {
  struct mch_bar_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.name = pool->bar_name;
  spec.name_length = strlen(pool->bar_name);
  spec.total = pool->accepted + pool->coming;
  spec.tasks = &pool->counted;
  spec.runid = -1;
  pool->bar = mch_output_bar_start(pool->output, &spec);
}

/* What is known without asking the workers. */
static void count_bar(struct mch_pool *pool) {
  if (pool->bar == NULL)
    return;
  mch_bar_set_total(pool->bar, pool->accepted + pool->coming);
  mch_bar_set(pool->bar, pool->accepted - pool->unfinished);
}

static void update_bar(struct mch_pool *pool) {
  if (pool->bar != NULL)
    atomic_store_explicit(&pool->counted.running, pool->engine->ops->running(pool->engine),
                          memory_order_relaxed);
  count_bar(pool);
}

static void end_bar(struct mch_pool *pool, enum mch_bar_end how) {
  atomic_store(&pool->counted.running, 0);
  mch_output_bar_end(pool->output, pool->bar, pool->accepted - pool->unfinished,
                     pool->accepted + pool->coming, how);
  pool->bar = NULL;
  pool->accepted = 0;
  atomic_store(&pool->counted.failed, 0);
}

/* So many more tasks. */
static void count_in(struct mch_pool *pool, struct mch_group *group, uint32_t count) {
  size_t announced = count < group->coming ? count : group->coming;
  group->coming -= announced;
  pool->coming -= announced;
  pool->accepted += count;
  if (pool->bar_name != NULL && pool->accepted == count)
    begin_bar(pool);
  count_bar(pool);
}

static void count_failure(struct mch_pool *pool, const struct mch_result *result) {
  if (result->kind != MCH_KIND_OK && result->kind != MCH_KIND_CANCELLED)
    atomic_fetch_add(&pool->counted.failed, 1);
}

/* Nonzero if all tasks have been taken, and the bar has ended by that. Owner only. */
static int all_taken(struct mch_pool *pool) {
  int over = pool->bar != NULL && pool->base == pool->next_runid && pool->coming == 0;
  if (over)
    end_bar(pool, MCH_BAR_FINISHED);
  return over;
}

/* Whether the task of this run ID, or item of a batch, has not ended. */
static int is_open(const struct mch_task *task, uint64_t runid) {
  return task->batch != NULL ? runid - task->runid >= task->batch->answered
                             : task->state != MCH_TASK_DONE;
}

/* -- ends --------------------------------------------------------------------------------- */

/* The owner's event loop shall look in. */
static void raise_attention(struct mch_pool *pool) {
  if (pool->attention[1] >= 0 && !pool->attention_raised && write(pool->attention[1], "", 1) == 1)
    pool->attention_raised = 1;
}

static void lower_attention(struct mch_pool *pool) {
  char bytes[16];
  if (pool->attention_raised && read(pool->attention[0], bytes, sizeof bytes) > 0)
    pool->attention_raised = 0;
}

static void take(struct mch_pool *pool, struct mch_task *task);
static int cancel(struct mch_pool *pool, struct mch_task *task);

static void free_if_idle(struct mch_group *group) {
  if (group->abandoned && group->unfinished == 0 && group->batches == 0)
    free(group);
}

/* Put it at the end of its group's results. */
static void list(struct mch_task *task) {
  struct mch_group *group = task->group;
  task->next = NULL;
  task->previous = group->last;
  if (group->last != NULL)
    group->last->next = task;
  else
    group->first = task;
  group->last = task;
}

static void unlist(struct mch_task *task) {
  struct mch_group *group = task->group;
  if (task->previous != NULL)
    task->previous->next = task->next;
  else
    group->first = task->next;
  if (task->next != NULL)
    task->next->previous = task->previous;
  else
    group->last = task->previous;
  task->next = task->previous = NULL;
}

static void count_done(struct mch_pool *pool, struct mch_group *group, uint32_t count) {
  group->unfinished -= count;
  group->finished += count;
  pool->unfinished -= count;
  pool->harvest += count;
}

static int is_over(const struct mch_group *group) {
  return group->most > 0 && group->bytes + group->kept > group->most;
}

/* Results of so many bytes have come. */
static void add_bytes(struct mch_pool *pool, struct mch_group *group, size_t bytes) {
  group->bytes += bytes;
  if (is_over(group) && !group->overfull)
    group->overfull = pool->overfull = 1;
}

/* They were taken; the owner says soon what is kept of them, if they are many. */
static void remove_bytes(struct mch_group *group, size_t bytes) {
  group->bytes -= bytes < group->bytes ? bytes : group->bytes;
  if (bytes >= MCH_KEEP_STEP)
    group->kept += bytes;
}

static size_t result_size(const struct mch_task *task) {
  return task->result->length + task->ahead_bytes;
}

static void drop_ahead(struct mch_task *task) {
  mch_cargo_drop(task->ahead);
  task->ahead = NULL;
  task->ahead_bytes = 0;
}

/* The one way into DONE for one task. */
static void set_done(struct mch_pool *pool, struct mch_task *task, struct mch_result *result) {
  struct mch_group *group = task->group;
  task->state = MCH_TASK_DONE;
  mch_queue_leave(&pool->queue, task);
  mch_cargo_drop(task->cargo);
  task->cargo = NULL;
  task->result = result != NULL ? result : pool->no_memory;
  if (task->result->kind != MCH_KIND_OK)
    drop_ahead(task);
  list(task);
  count_done(pool, group, 1);
  add_bytes(pool, group, result_size(task));
  count_failure(pool, task->result);
  if (group->abandoned) {
    take(pool, task);
    mch_pool_discard(pool, task);
    free_if_idle(group);
  }
  raise_attention(pool);
}

/* -- ends of batches ---------------------------------------------------------------------- */

/* Free it once it is over and nothing of it is waited for. */
static void free_if_over(struct mch_task *task) {
  if (task->state == MCH_TASK_DONE && !task->batch->listed && task->batch->kept == 0)
    mch_task_free(task);
}

/* Its next items are answered. The answers of an abandoned group are for nobody. */
static void count_answered(struct mch_pool *pool, struct mch_task *task, uint32_t count) {
  struct mch_batch *batch = task->batch;
  uint32_t i;
  count_done(pool, task->group, count);
  if (task->group->abandoned) {
    for (i = 0; i < count; i++)
      index_remove(pool, task->runid + batch->answered + i);
    batch->kept -= count;
    batch->from += count;
    task->group->finished -= count;
  } else if (!batch->listed) {
    batch->listed = 1;
    list(task);
  }
  batch->answered += count;
  raise_attention(pool);
}

/* Keep records for the owner: a head and what is behind it. */
static void keep_answers(struct mch_pool *pool, struct mch_task *task, const unsigned char *head,
                         size_t head_length, const unsigned char *records, size_t length) {
  struct mch_batch *batch = task->batch;
  if (task->group->abandoned || batch->lost)
    return;
  if (length > SIZE_MAX - head_length ||
      mch_buf_reserve(&batch->answers, head_length + length) != 0) {
    batch->lost = 1;
    return;
  }
  mch_buf_append(&batch->answers, head, head_length);
  mch_buf_append(&batch->answers, records, length);
  add_bytes(pool, task->group, head_length + length);
}

static void answered(void *ud, struct mch_task *task, const unsigned char *graph, size_t length) {
  unsigned char head[5] = {(unsigned char)length};
  size_t head_length = 1;
  if (length - 1 >= MCH_RECORD_MAX) {
    head[0] = MCH_ANSWER_LONG;
    mch_store_u32(head + 1, (uint32_t)length);
    head_length = sizeof head;
  }
  if (length > UINT32_MAX)
    task->batch->lost = 1;
  keep_answers(ud, task, head, head_length, graph, length);
  count_answered(ud, task, 1);
}

static void answered_many(void *ud, struct mch_task *task, const unsigned char *records,
                          size_t length, uint32_t count) {
  keep_answers(ud, task, NULL, 0, records, length);
  count_answered(ud, task, count);
}

/* The next item leaves its batch, as a task of its own that has failed. */
static void failed(void *ud, struct mch_task *task, struct mch_result *result) {
  struct mch_pool *pool = ud;
  struct mch_batch *batch = task->batch;
  struct mch_task *item = mch_task_new(
      task->codes > 0 ? (const uint32_t *)(void *)task->body : NULL, task->codes, NULL, 0);
  struct mch_task_extra *extra = calloc(1, sizeof *extra);
  if (!task->group->abandoned && !batch->lost) {
    batch->lost = item == NULL || extra == NULL || mch_buf_reserve(&batch->answers, 1) != 0;
    if (!batch->lost)
      mch_buf_u8(&batch->answers, MCH_ANSWER_APART);
  }
  if (task->group->abandoned || batch->lost) {
    mch_task_free(item);
    free(extra);
    mch_result_free(result);
    count_answered(pool, task, 1);
    return;
  }
  item->extra = extra;
  item->extra->index = batch->index + batch->answered;
  item->runid = task->runid + batch->answered;
  item->group = task->group;
  *slot(pool, item->runid) = item;
  batch->kept--;
  batch->answered++;
  set_done(pool, item, result);
}

static void close_batch(struct mch_pool *pool, struct mch_task *task) {
  struct mch_group *group = task->group;
  task->state = MCH_TASK_DONE;
  mch_queue_leave(&pool->queue, task);
  group->batches--;
  free_if_over(task);
  free_if_idle(group);
}

static void batch_over(void *ud, struct mch_task *task, uint64_t elapsed) {
  struct mch_pool *pool = ud;
  struct mch_group *group = task->group;
  count_submitted(pool, task, -1);
  group->item_time += elapsed;
  group->items += elapsed > 0 ? task->batch->count : 0;
  close_batch(pool, task);
}

/* End all items of a batch that is with nobody. */
static void end_batch(struct mch_pool *pool, struct mch_task *task, enum mch_kind kind,
                      const char *why) {
  while (task->batch->answered < task->batch->count)
    failed(pool, task, mch_result_new(kind, why, NULL, 0));
  close_batch(pool, task);
}

/* From now on the items that were split off belong to the task `rest`. */
static void adopt(struct mch_pool *pool, struct mch_task *task, struct mch_task *rest) {
  uint32_t i;
  for (i = 0; i < rest->batch->count; i++)
    *slot(pool, rest->runid + i) = rest;
  mch_queue_enter_with(rest, task);
  task->batch->kept -= rest->batch->count;
  rest->group->batches++;
}

static void split(void *ud, struct mch_task *task, struct mch_task *rest) {
  struct mch_pool *pool = ud;
  adopt(pool, task, rest);
  if (rest->group->abandoned)
    end_batch(pool, rest, MCH_KIND_CANCELLED, NULL);
  else
    mch_queue_add(&pool->queue, rest);
}

/* A task that is with nobody ends. */
static void end_task(struct mch_pool *pool, struct mch_task *task, enum mch_kind kind,
                     const char *why) {
  if (task->batch != NULL)
    end_batch(pool, task, kind, why);
  else
    set_done(pool, task, mch_result_new(kind, why, NULL, 0));
}

static void finished(void *ud, struct mch_task *task, struct mch_result *result) {
  struct mch_pool *pool = ud;
  count_submitted(pool, task, -1);
  if (result != NULL && (result->kind == MCH_KIND_KILLED || result->kind == MCH_KIND_EXITED) &&
      task->stop == 0 && task->extra != NULL && task->attempt < task->extra->retries) {
    mch_result_free(result);
    drop_ahead(task);
    task->attempt++;
    mch_queue_add(&pool->queue, task);
    return;
  }
  set_done(pool, task, result);
}

static void returned(void *ud, struct mch_task *task) {
  struct mch_pool *pool = ud;
  count_submitted(pool, task, -1);
  if (task->stop != 0)
    end_task(pool, task, (enum mch_kind)task->stop, NULL);
  else
    mch_queue_add(&pool->queue, task);
}

/* What is lost for want of memory is missed when the result is rebuilt. */
static void ahead(void *ud, struct mch_task *task, const unsigned char *bytes, size_t length) {
  struct mch_pool *pool = ud;
  struct mch_buf none = {0};
  struct piece *piece;
  if (task->ahead == NULL && !task->group->abandoned)
    task->ahead = mch_cargo_new(&none, NULL, 0, NULL);
  if (task->ahead == NULL || (piece = malloc(sizeof *piece + length)) == NULL)
    return;
  mch_cargo_hold(task->ahead);
  task->ahead_bytes += length;
  piece->head = (struct mch_piece){task->ahead, piece->bytes, length};
  piece->next = NULL;
  memcpy(piece->bytes, bytes, length);
  if (pool->last_piece != NULL)
    pool->last_piece->next = piece;
  else
    pool->pieces = piece;
  pool->last_piece = piece;
}

static void log_record(void *ud, const unsigned char *graph, size_t length) {
  struct mch_pool *pool = ud;
  struct record *record = malloc(sizeof *record + length);
  if (record == NULL)
    return; /* without memory a log line is lost, not the task */
  record->next = NULL;
  record->length = length;
  memcpy(record->graph, graph, length);
  if (pool->last_record != NULL)
    pool->last_record->next = record;
  else
    pool->records = record;
  pool->last_record = record;
  pool->record_bytes += length;
  raise_attention(pool);
}

static void unlock_for_host(void *ud) {
  pthread_mutex_unlock(&((struct mch_pool *)ud)->lock);
}

static void lock_again(void *ud) {
  pthread_mutex_lock(&((struct mch_pool *)ud)->lock);
}

/* -- groups whose results wait ------------------------------------------------------------ */

/* Whether tasks of a group may not start: enough results wait. */
static int is_held(const struct mch_group *group) {
  return is_over(group) && !(group->wanted && group->submitted == 0);
}

/* The first task in the queue that may start. */
static struct mch_task *next_ready(const struct mch_pool *pool) {
  struct mch_task *task = mch_queue_head(&pool->queue);
  while (task != NULL && is_held(task->group))
    task = mch_queue_next(&pool->queue, task);
  return task;
}

/* Where enough waits, a single item goes. Without memory for that, all do. */
static void cut_short(struct mch_pool *pool, struct mch_task *task) {
  struct mch_task *rest;
  if (task->batch == NULL || task->batch->count == 1 || !is_over(task->group) ||
      (rest = mch_task_split(task, 1)) == NULL)
    return;
  task->batch->count = 1;
  split(pool, task, rest);
}

/* Take back what was sent ahead, and was not begun, of groups that have become overfull. */
static void take_back(struct mch_pool *pool) {
  uint64_t runid;
  if (!pool->overfull)
    return;
  pool->overfull = 0;
  pool->engine->ops->recall(pool->engine, INT32_MAX);
  for (runid = pool->base; runid < pool->next_runid; runid++) {
    struct mch_task *task = find(pool, runid);
    if (task != NULL && task->batch != NULL && task->state == MCH_TASK_SUBMITTED &&
        is_over(task->group))
      pool->engine->ops->shorten(pool->engine, task, 0);
  }
}

/* -- the pump ----------------------------------------------------------------------------- */

static void dispatch(struct mch_pool *pool, int owner) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  struct mch_task *task;
  struct mch_error error;
  pool->held_until = MCH_NEVER;
  while ((task = next_ready(pool)) != NULL) {
    int code;
    cut_short(pool, task);
    code = ops->submit(pool->engine, task, owner, &error);
    if (code == MCH_FULL)
      break;
    mch_queue_remove(&pool->queue, task);
    if (code == 0) {
      task->state = MCH_TASK_SUBMITTED;
      count_submitted(pool, task, 1);
    } else
      end_task(pool, task, MCH_KIND_ERROR, error.text);
  }
  ops->flush(pool->engine);
}

static void pump(struct mch_pool *pool, int owner) {
  pool->engine->ops->pump(pool->engine, owner, pool->queue.count);
  take_back(pool);
  dispatch(pool, owner);
  update_bar(pool);
}

void mch_pool_spare_forks(struct mch_pool *pool, int on) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->frugal = on;
  pthread_mutex_unlock(&pool->lock);
}

int mch_pool_short_of_workers(struct mch_pool *pool) {
  int is_short;
  pthread_mutex_lock(&pool->lock);
  is_short = pool->engine->ops->short_of_workers(pool->engine, pool->queue.count);
  pthread_mutex_unlock(&pool->lock);
  return is_short;
}

/* No worker can be had: what waits for one ends. */
static void fail_queued(struct mch_pool *pool, const char *why) {
  struct mch_task *task;
  while ((task = mch_queue_head(&pool->queue)) != NULL) {
    mch_queue_remove(&pool->queue, task);
    end_task(pool, task, MCH_KIND_ERROR, why);
  }
}

void mch_pool_add_workers(struct mch_pool *pool) {
  struct mch_error error;
  pthread_mutex_lock(&pool->lock);
  if (pool->engine->ops->add(pool->engine, pool->queue.count, &error) == 0)
    pool->workless_since = 0;
  else if (pool->workless_since == 0)
    pool->workless_since = mch_now();
  else if (mch_now() - pool->workless_since > patience_without_workers)
    fail_queued(pool, error.text);
  dispatch(pool, 1);
  pthread_mutex_unlock(&pool->lock);
}

static uint64_t deadline(struct mch_pool *pool) {
  uint64_t engine = pool->engine->ops->deadline(pool->engine);
  uint64_t output = mch_output_next(pool->output);
  uint64_t due = engine < output ? engine : output;
  return pool->held_until < due ? pool->held_until : due;
}

static void pump_as_owner(struct mch_pool *pool) {
  lower_attention(pool);
  pump(pool, 1);
  all_taken(pool);
  pool->drives_seen = pool->drives;
  /* An event loop sleeps without telling: from here on its descriptor has to say all. */
  if (pool->attention[1] >= 0 && deadline(pool) == 0)
    raise_attention(pool);
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
}

void mch_pool_pump(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  pump_as_owner(pool);
  pthread_mutex_unlock(&pool->lock);
}

/* -- the driver's view -------------------------------------------------------------------- */

static int drive_pump(void *ud) {
  struct mch_pool *pool = ud;
  size_t before = pool->harvest;
  int owner_runs = pool->next_runid >= pool->runs_seen + CROWD;
  pool->runs_seen = pool->next_runid;
  if (mch_output_backlog(pool->output) >= MOST_BACKLOG)
    return 1; /* first somebody has to read that; workers wait */
  pool->drives++;
  pump(pool, 0);
  if (pool->engine->ops->short_of_workers(pool->engine, pool->queue.count) ||
      mch_output_wants_owner(pool->output, mch_now()))
    raise_attention(pool);
  return owner_runs || pool->harvest - before >= CROWD / 4;
}

/* Not under the lock: a terminal may take its time. */
static void drive_output(void *ud) {
  mch_output_pump(((struct mch_pool *)ud)->output, mch_now(), 0);
}

static int drive_attended(void *ud) {
  return ((struct mch_pool *)ud)->attended;
}

static int drive_busy(void *ud) {
  struct mch_pool *pool = ud;
  if (pool->record_bytes >= MOST_RECORD_BYTES)
    return 0; /* only the owner can take this away */
  return pool->submitted > 0 || pool->queue.count > 0 || mch_output_next(pool->output) != MCH_NEVER;
}

static uint64_t drive_deadline(void *ud) {
  return deadline(ud);
}

/* Without a thread to be had, the pool moves on inside its own calls only, until there is one. */
static void start_driver(struct mch_pool *pool) {
  struct mch_driven driven = {
      pool,           &pool->lock, drive_pump,     drive_output,
      drive_attended, drive_busy,  drive_deadline, mch_poller_fd(pool->engine->poller)};
  pool->driver = mch_driver_new(&driven);
}

static void end_driver(struct mch_pool *pool) {
  if (pool->driver != NULL)
    mch_driver_free(pool->driver);
  pool->driver = NULL;
}

/* -- making ------------------------------------------------------------------------------- */

static const void *get_code(void *ud, uint32_t id, size_t *length) {
  return mch_dictionary_get(&((struct mch_pool *)ud)->dictionary, id, length);
}

static void init_lock(pthread_mutex_t *lock) {
  pthread_mutex_init(lock, NULL);
}

struct mch_pool *mch_pool_new(const struct mch_pool_config *config, struct mch_error *error) {
  struct mch_engine_config engine = config->engine;
  struct mch_pool *pool = calloc(1, sizeof *pool);
  mch_error_set(error, MCH_NOMEM, "not enough memory for a pool"); /* unless another failure says */
  if (pool == NULL)
    return NULL;
  init_lock(&pool->lock);
  pool->background = config->background;
  pool->held_until = MCH_NEVER;
  pool->attention[0] = pool->attention[1] = -1;
  pool->output = engine.output;
  mch_output_ref(pool->output);
  pool->no_memory =
      mch_result_new(MCH_KIND_ERROR, "not enough memory for the task's result", NULL, 0);
  engine.events =
      (struct mch_events){pool,       finished, returned, answered,   answered_many,   failed,
                          batch_over, split,    ahead,    log_record, unlock_for_host, lock_again};
  engine.codes = (struct mch_codes){pool, get_code};
  pool->engine = config->kind == MCH_ENGINE_INLINE ? mch_engine_inline_new(&engine, error)
                                                   : mch_engine_fork_new(&engine, error);
  if (config->bar != NULL)
    pool->bar_name = strdup(config->bar);
  if (pool->no_memory == NULL || pool->engine == NULL ||
      (config->bar != NULL && pool->bar_name == NULL)) {
    mch_pool_free(pool);
    return NULL;
  }
  return pool;
}

static void drop_piece(struct mch_pool *pool) {
  struct piece *piece = pool->pieces;
  pool->pieces = piece->next;
  if (pool->pieces == NULL)
    pool->last_piece = NULL;
  mch_cargo_drop(piece->head.of);
  free(piece);
}

/* The pool ends: an abandoned group goes with the last of its tasks. */
static void forget(struct mch_pool *pool, struct mch_task *task, uint64_t runid) {
  struct mch_group *group = task->group;
  int open = is_open(task, runid);
  group->unfinished -= (size_t)open;
  if (task->batch != NULL) {
    if (--task->batch->kept > 0)
      return;
    if (task->state != MCH_TASK_DONE)
      group->batches--, open = 1;
  }
  mch_pool_discard(pool, task);
  if (open)
    free_if_idle(group);
}

void mch_pool_free(struct mch_pool *pool) {
  end_driver(pool);
  while (pool->base < pool->next_runid) {
    struct mch_task *task = pool->index[pool->index_start];
    if (task != NULL)
      forget(pool, task, pool->base);
    pool->base++;
    pool->index_start++;
  }
  while (pool->pieces != NULL)
    drop_piece(pool);
  while (pool->records != NULL) {
    struct record *record = pool->records;
    pool->records = record->next;
    free(record);
  }
  end_bar(pool, MCH_BAR_CANCELLED);
  free(pool->bar_name);
  mch_pool_part(pool);
  if (pool->engine != NULL)
    pool->engine->ops->free(pool->engine);
  mch_poller_free(pool->outer);
  if (pool->attention[0] >= 0) {
    close(pool->attention[0]);
    close(pool->attention[1]);
  }
  mch_dictionary_free(&pool->dictionary);
  mch_result_free(pool->no_memory);
  mch_queue_free(&pool->queue);
  free(pool->index);
  mch_output_unref(pool->output);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

/* Have a worker. */
static int start(struct mch_pool *pool, struct mch_error *error) {
  return pool->started ? 0 : pool->engine->ops->start(pool->engine, error);
}

/* Have the others, too. While none can be had of them it is tried again when the pool is pumped. */
static void complete(struct mch_pool *pool) {
  struct mch_error error;
  int frugal = pool->engine->frugal;
  pool->engine->frugal = 0; /* these are not replacements */
  if (!pool->started)
    pool->engine->ops->add(pool->engine, pool->queue.count, &error);
  pool->engine->frugal = frugal;
  pool->started = 1;
}

int mch_pool_start(struct mch_pool *pool, struct mch_error *error) {
  int code;
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0)
    complete(pool);
  pthread_mutex_unlock(&pool->lock);
  return code;
}

int mch_pool_reserve(struct mch_pool *pool, struct mch_task **tasks, size_t count,
                     struct mch_error *error) {
  size_t entered = 0;
  int code;
  if (!pool->started)
    end_driver(pool); /* as in mch_pool_run() */
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0) {
    if (index_reserve(pool, count) == 0)
      while (entered < count && mch_queue_enter(&pool->queue, tasks[entered]) == 0)
        entered++;
    if (entered < count) {
      while (entered > 0)
        mch_queue_leave(&pool->queue, tasks[--entered]);
      code = mch_error_set(error, MCH_NOMEM, "not enough memory for so many tasks");
    }
  }
  pthread_mutex_unlock(&pool->lock);
  return code;
}

/* Whether the owner queues one task after the other: then they are held to go many at once. The
 * helper thread sees to it that none waits long if the owner goes away. */
static int in_rush(struct mch_pool *pool) {
  uint64_t now = mch_now(), since = now - pool->last_run;
  pool->last_run = now;
  if (pool->driver == NULL || since >= rush)
    return 0;
  pool->held_until = now + held_for;
  return 1;
}

/* The first worker has its task before the others are forked, and begins with it so long; the
 * helper thread comes last, since a process with one thread is forked faster. */
int mch_pool_run(struct mch_pool *pool, struct mch_task *task, struct mch_group *group,
                 uint64_t *runid, struct mch_error *error) {
  uint32_t count = mch_task_count(task), i;
  int code, urgent;
  if (!pool->started)
    end_driver(pool); /* mch_pool_quit() told it to, and the workers */
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0 &&
      (index_reserve(pool, count) != 0 ||
       (task->level == NULL && mch_queue_enter(&pool->queue, task) != 0)))
    code = mch_error_set(error, MCH_NOMEM, "not enough memory for another task");
  if (code == 0) {
    *runid = task->runid = pool->next_runid;
    for (i = 0; i < count; i++)
      *slot(pool, pool->next_runid++) = task;
    task->group = group;
    group->unfinished += count;
    group->batches += task->batch != NULL;
    pool->unfinished += count;
    count_in(pool, group, count);
    urgent = mch_queue_overtakes(&pool->queue, task->priority);
    mch_queue_add(&pool->queue, task);
    if (urgent)
      pool->engine->ops->recall(pool->engine, task->priority);
    if (urgent || (pool->queue.count == 1 && !in_rush(pool)))
      dispatch(pool, 1);
    else if (pool->queue.count >= FEED && pool->queue.count % FEED_STEP == 0 &&
             pool->engine->ops->hungry(pool->engine))
      pump(pool, 1);
    else
      raise_attention(pool); /* a pump is due */
    complete(pool);
    if (pool->background && pool->driver == NULL)
      start_driver(pool);
    if (pool->driver != NULL)
      mch_driver_notice(pool->driver);
  }
  pthread_mutex_unlock(&pool->lock);
  return code;
}

enum attention { NO_WAIT, NAP, WAIT };

/* How long to sleep without being woken when so many tasks or items of a group are waited for: half
 * of the time that they take by the mean of those that ran; 0: too short a time, or not known. */
static uint64_t nap_for(struct mch_pool *pool, const struct mch_group *group, size_t count) {
  size_t missing = count > group->finished ? count - group->finished : 0;
  uint64_t pace = group->items > 0 ? group->item_time / group->items : 0, time;
  unsigned running = pool->engine->ops->running(pool->engine);
  if (running == 0)
    return 0;
  time = missing > longest_nap / (pace + 1) * running ? longest_nap : missing * pace / running / 2;
  return time < nap ? 0 : time < longest_nap ? time : longest_nap;
}

/* Set `attended` for a wait. NO_WAIT: the driver took what the caller waits for. NAP: results come
 * in crowds and the workers have enough to do, so that a sleep, until `until` at the latest, brings
 * many, and being woken for each would slow all down. */
static enum attention attend(struct mch_pool *pool, const struct mch_waiting *waiting,
                             uint64_t *until) {
  enum attention attention = WAIT;
  pthread_mutex_lock(&pool->lock);
  if (pool->drives != pool->drives_seen || pool->pieces != NULL)
    attention = NO_WAIT;
  else {
    uint64_t length = pool->harvest >= CROWD && pool->submitted >= CROWD ? nap : 0;
    if (waiting->count > 1) /* a nap that brought nothing is the last one */
      length = pool->harvest > 0 ? nap_for(pool, waiting->group, waiting->count) : 0;
    pool->attended = 1;
    if (length > 0) {
      uint64_t end = mch_now() + length;
      attention = NAP;
      if (end < *until)
        *until = end;
    } else {
      uint64_t own = deadline(pool);
      if (own < *until)
        *until = own;
    }
  }
  pool->harvest = 0;
  pthread_mutex_unlock(&pool->lock);
  return attention;
}

void mch_pool_attend(struct mch_pool *pool, int attended) {
  pthread_mutex_lock(&pool->lock);
  pool->attended = attended;
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
  pthread_mutex_unlock(&pool->lock);
}

/* A signal of the process that the main thread takes does not end another thread's wait: that one
 * looks again by itself. */
static uint64_t look_again(uint64_t until) {
  uint64_t look;
  if (mch_platform_is_main_thread())
    return until;
  look = mch_now() + longest_look;
  return look < until ? look : until;
}

void mch_wait(struct mch_poller *poller, uint64_t until, int (*interrupted)(void *ud), void *ud) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    mch_poller_sleep(poller, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Sleep until a worker speaks, or as long as `attention` says. Whether a signal has something to
 * say. */
static int sleep_attended(struct mch_pool *pool, const struct mch_waiting *waiting,
                          enum attention attention, uint64_t until) {
  struct mch_ready ready[8];
  sigset_t all, old;
  int is_interrupted;
  if (attention == NAP) {
    mch_sleep_until(until, waiting->interrupted, waiting->ud);
    return waiting->interrupted(waiting->ud);
  }
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  is_interrupted = waiting->interrupted(waiting->ud);
  if (!is_interrupted)
    mch_poller_wait(pool->engine->poller, ready, 8, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return is_interrupted;
}

/* Whether there is something that only the owner can do, outside of the pool. */
static int needs_owner(struct mch_pool *pool) {
  uint64_t now = mch_now();
  return pool->records != NULL || pool->pieces != NULL ||
         pool->engine->ops->short_of_workers(pool->engine, pool->queue.count) ||
         mch_output_next(pool->output) <= now || mch_output_wants_owner(pool->output, now);
}

void mch_pool_wait(struct mch_pool *pool, const struct mch_waiting *waiting) {
  int is_over;
  do {
    uint64_t until = waiting->until;
    enum attention attention = attend(pool, waiting, &until);
    is_over = (attention != NO_WAIT && sleep_attended(pool, waiting, attention, until)) ||
              waiting->enough == NULL ||
              (waiting->until != MCH_NEVER && mch_now() >= waiting->until);
    if (!is_over) {
      pthread_mutex_lock(&pool->lock);
      pump_as_owner(pool);
      is_over = needs_owner(pool);
      pthread_mutex_unlock(&pool->lock);
    }
  } while (!is_over && !waiting->enough(waiting->ud));
  mch_pool_attend(pool, 0);
}

int mch_await_until(const int *fds, size_t count, uint64_t until, int (*interrupted)(void *ud),
                    void *ud) {
  sigset_t all, old;
  int readable = 0;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    readable = mch_platform_await(fds, count, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return readable;
}

void mch_sleep_until(uint64_t until, int (*interrupted)(void *ud), void *ud) {
  uint64_t now = mch_now(), end = look_again(until), left = end > now ? end - now : 0;
  struct timespec moment = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    pselect(0, NULL, NULL, NULL, &moment, &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

uint64_t mch_pool_deadline(struct mch_pool *pool) {
  uint64_t result;
  pthread_mutex_lock(&pool->lock);
  result = deadline(pool);
  pthread_mutex_unlock(&pool->lock);
  return result;
}

/* -- receiving ---------------------------------------------------------------------------- */

int mch_pool_take_log(struct mch_pool *pool, struct mch_buf *to) {
  struct record *record;
  mch_buf_clear(to);
  pthread_mutex_lock(&pool->lock);
  record = pool->records;
  if (record != NULL) {
    pool->records = record->next;
    if (pool->records == NULL)
      pool->last_record = NULL;
    pool->record_bytes -= record->length;
    if (pool->records == NULL && pool->driver != NULL)
      mch_driver_notice(pool->driver); /* it may have rested because there were too many */
  }
  pthread_mutex_unlock(&pool->lock);
  if (record == NULL)
    return 0;
  mch_buf_append(to, record->graph, record->length);
  free(record);
  return 1;
}

int mch_pool_has_logs(struct mch_pool *pool) {
  int some;
  pthread_mutex_lock(&pool->lock);
  some = pool->records != NULL;
  pthread_mutex_unlock(&pool->lock);
  return some;
}

const struct mch_piece *mch_pool_piece(struct mch_pool *pool) {
  const struct piece *piece;
  pthread_mutex_lock(&pool->lock);
  piece = pool->pieces;
  pthread_mutex_unlock(&pool->lock);
  return piece != NULL ? &piece->head : NULL;
}

void mch_pool_drop_piece(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  drop_piece(pool);
  pthread_mutex_unlock(&pool->lock);
}

static void take(struct mch_pool *pool, struct mch_task *task) {
  unlist(task);
  remove_bytes(task->group, result_size(task));
  task->group->finished--;
  index_remove(pool, task->runid);
}

/* The owner has taken one. When it was the last, the bar is shown as it ends: what is printed next
 * comes under it. */
static void unlock_taken(struct mch_pool *pool) {
  int over = all_taken(pool);
  pthread_mutex_unlock(&pool->lock);
  if (over)
    mch_output_flush(pool->output);
}

/* Take the answers of a batch that is listed. */
static void take_answers(struct mch_pool *pool, struct mch_task *task,
                         struct mch_answers *answers) {
  struct mch_batch *batch = task->batch;
  uint32_t i;
  memset(answers, 0, sizeof *answers);
  answers->graphs = batch->answers;
  remove_bytes(task->group, batch->answers.length);
  memset(&batch->answers, 0, sizeof batch->answers);
  answers->index = batch->index + batch->from;
  answers->runid = task->runid + batch->from;
  answers->count = batch->answered - batch->from;
  for (i = batch->from; i < batch->answered; i++)
    if (find(pool, task->runid + i) == task) {
      index_remove(pool, task->runid + i);
      answers->taken++;
    }
  batch->kept -= answers->taken;
  task->group->finished -= answers->taken;
  batch->from = batch->answered;
  batch->listed = 0;
  unlist(task);
  free_if_over(task);
}

int mch_pool_take_answers(struct mch_pool *pool, struct mch_group *group,
                          struct mch_answers *answers) {
  struct mch_task *task;
  int taken;
  pthread_mutex_lock(&pool->lock);
  task = pool->records == NULL ? group->first : NULL;
  taken = task != NULL && task->batch != NULL;
  if (taken)
    take_answers(pool, task, answers);
  unlock_taken(pool);
  return taken;
}

uint64_t mch_pool_pace(struct mch_pool *pool, const struct mch_group *group) {
  uint64_t pace;
  pthread_mutex_lock(&pool->lock);
  pace = group->items > 0 ? group->item_time / group->items : 0;
  pthread_mutex_unlock(&pool->lock);
  return pace;
}

struct mch_task *mch_pool_take(struct mch_pool *pool, struct mch_group *group) {
  struct mch_task *task;
  pthread_mutex_lock(&pool->lock);
  task = pool->records == NULL ? group->first : NULL;
  if (task != NULL && task->batch != NULL)
    task = NULL;
  if (task != NULL)
    take(pool, task);
  unlock_taken(pool);
  return task;
}

struct mch_task *mch_pool_take_in_order(struct mch_pool *pool, struct mch_group *group,
                                        uint64_t *from) {
  struct mch_task *task = NULL;
  pthread_mutex_lock(&pool->lock);
  if (*from < pool->base)
    *from = pool->base;
  for (; pool->records == NULL && *from < pool->next_runid; ++*from) {
    task = *slot(pool, *from);
    if (task != NULL && task->group == group && task->state == MCH_TASK_DONE)
      break;
    task = NULL;
  }
  if (task != NULL) {
    take(pool, task);
    ++*from;
  }
  unlock_taken(pool);
  return task;
}

void mch_pool_discard(struct mch_pool *pool, struct mch_task *task) {
  if (task == NULL)
    return;
  if (task->result != pool->no_memory)
    mch_result_free(task->result);
  mch_task_free(task);
}

static int has_failed(const struct mch_task *task) {
  return task->batch == NULL && task->result->kind != MCH_KIND_OK &&
         task->result->kind != MCH_KIND_CANCELLED;
}

size_t mch_pool_failed(struct mch_pool *pool, const struct mch_group *group, uint64_t from) {
  const struct mch_task *task;
  size_t count = 0;
  pthread_mutex_lock(&pool->lock);
  for (task = group->first; task != NULL; task = task->next)
    count += has_failed(task) && task->runid >= from;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

void mch_pool_drop(struct mch_pool *pool, struct mch_group *group, int all) {
  struct mch_task *task, *next;
  pthread_mutex_lock(&pool->lock);
  for (task = group->first; task != NULL; task = next) {
    next = task->next;
    if (!all && has_failed(task))
      continue;
    take(pool, task);
    mch_pool_discard(pool, task);
  }
  unlock_taken(pool);
}

struct mch_group *mch_pool_group(struct mch_pool *pool, size_t coming, size_t most) {
  struct mch_group *group = calloc(1, sizeof *group);
  if (group == NULL)
    return NULL;
  pthread_mutex_lock(&pool->lock);
  group->coming = coming;
  group->most = most;
  pool->coming += coming;
  pthread_mutex_unlock(&pool->lock);
  return group;
}

void mch_pool_keep(struct mch_pool *pool, struct mch_group *group, size_t bytes) {
  pthread_mutex_lock(&pool->lock);
  group->kept = bytes;
  if (is_over(group))
    group->overfull = pool->overfull = 1;
  else if (group->overfull) {
    group->overfull = 0;
    dispatch(pool, 1);
  }
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_want(struct mch_pool *pool, struct mch_group *group, int wanted) {
  if (group->most == 0)
    return;
  pthread_mutex_lock(&pool->lock);
  group->wanted = wanted;
  if (wanted && is_over(group))
    dispatch(pool, 1);
  pthread_mutex_unlock(&pool->lock);
}

static void drop_finished(struct mch_pool *pool, struct mch_group *group) {
  while (group->first != NULL) {
    struct mch_task *task = group->first;
    struct mch_answers answers;
    if (task->batch != NULL) {
      take_answers(pool, task, &answers);
      mch_buf_free(&answers.graphs);
    } else {
      take(pool, task);
      mch_pool_discard(pool, task);
    }
  }
}

void mch_pool_abandon(struct mch_pool *pool, struct mch_group *group) {
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  drop_finished(pool, group);
  /* The group is kept by `abandoned` = 0 while its tasks are looked up; ends come in between. */
  for (runid = pool->next_runid; group->unfinished > 0 && runid-- > pool->base;) {
    struct mch_task *task = *slot(pool, runid);
    if (task != NULL && task->group == group && is_open(task, runid))
      cancel(pool, task);
  }
  drop_finished(pool, group);
  pool->coming -= group->coming;
  group->coming = 0;
  group->abandoned = 1;
  free_if_idle(group);
  unlock_taken(pool);
}

size_t mch_pool_unfinished(struct mch_pool *pool, const struct mch_group *group) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = group != NULL ? group->unfinished : pool->unfinished;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

size_t mch_pool_finished(struct mch_pool *pool, const struct mch_group *group) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = group->finished;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

void mch_pool_look(struct mch_pool *pool, const struct mch_group *group, size_t few, int *there,
                   int *hungry) {
  pthread_mutex_lock(&pool->lock);
  *there = group->finished > 0;
  *hungry = group->unfinished < few;
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_count(struct mch_pool *pool, struct mch_pool_counts *counts) {
  pthread_mutex_lock(&pool->lock);
  counts->running = pool->engine->ops->running(pool->engine);
  counts->queued = pool->unfinished;
  counts->queued -= counts->running < counts->queued ? counts->running : counts->queued;
  counts->next_runid = pool->next_runid;
  pthread_mutex_unlock(&pool->lock);
}

size_t mch_pool_workers(struct mch_pool *pool, struct mch_worker_info *infos, size_t room) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = pool->engine->ops->workers(pool->engine, infos, room);
  pthread_mutex_unlock(&pool->lock);
  return count;
}

/* -- stopping ----------------------------------------------------------------------------- */

static void end_queued(struct mch_pool *pool, struct mch_task *task) {
  mch_queue_remove(&pool->queue, task);
  end_task(pool, task, MCH_KIND_CANCELLED, NULL);
}

/* The item of a begun batch that runs, if one does. */
static int cancel_running(struct mch_pool *pool, struct mch_task *task) {
  if (task->batch->answered == task->batch->count)
    return 0;
  task->stop = MCH_KIND_CANCELLED;
  pool->engine->ops->stop(pool->engine, task);
  return task->stop != 0 ? 2 : 0;
}

/* All items of a batch that have not ended. */
static int cancel_batch(struct mch_pool *pool, struct mch_task *task) {
  uint64_t end = task->runid + task->batch->count;
  if (task->stop != 0)
    return 2;
  if (task->state == MCH_TASK_SUBMITTED)
    pool->engine->ops->reclaim(pool->engine, task);
  if (task->state == MCH_TASK_QUEUED) {
    end_queued(pool, task);
    return 1;
  }
  pool->engine->ops->shorten(pool->engine, task, 0);
  if (task->runid + task->batch->count < end)
    end_queued(pool, *slot(pool, task->runid + task->batch->count));
  return cancel_running(pool, task);
}

/* Cut one item out of a batch in the queue, and end it. */
static int cut_item(struct mch_pool *pool, struct mch_task *task, uint32_t number) {
  struct mch_task *after = NULL, *single = NULL;
  if (number + 1 < task->batch->count && (after = mch_task_split(task, number + 1)) == NULL)
    return 0;
  if (number > 0 && (single = mch_task_split(task, number)) == NULL) {
    mch_task_free(after);
    return 0;
  }
  mch_queue_remove(&pool->queue, task);
  if (after != NULL) {
    task->batch->count = number + 1;
    split(pool, task, after);
  }
  if (single != NULL) { /* it was split off with what is behind it */
    single->batch->count = single->batch->kept = 1;
    task->batch->count = number;
    adopt(pool, task, single);
    mch_queue_add(&pool->queue, task);
  }
  end_task(pool, single != NULL ? single : task, MCH_KIND_CANCELLED, NULL);
  return 1;
}

static int cancel_item(struct mch_pool *pool, struct mch_task *task, uint64_t runid) {
  uint32_t number = (uint32_t)(runid - task->runid);
  if (!is_open(task, runid))
    return 0;
  if (task->state == MCH_TASK_SUBMITTED && !pool->engine->ops->reclaim(pool->engine, task)) {
    pool->engine->ops->shorten(pool->engine, task, number);
    if (*slot(pool, runid) == task) /* it has begun; if others have after it, it is over */
      return number + 1 == task->batch->count ? cancel_running(pool, task) : 0;
    task = *slot(pool, runid);
    number = 0;
  }
  return cut_item(pool, task, number);
}

static int cancel(struct mch_pool *pool, struct mch_task *task) {
  if (task == NULL || task->state == MCH_TASK_DONE)
    return 0;
  if (task->batch != NULL)
    return cancel_batch(pool, task);
  if (task->stop != 0)
    return 2;
  task->stop = MCH_KIND_CANCELLED;
  if (task->state == MCH_TASK_SUBMITTED) {
    pool->engine->ops->stop(pool->engine, task);
    return task->state == MCH_TASK_DONE ? 1 : 2;
  }
  mch_queue_remove(&pool->queue, task);
  set_done(pool, task, mch_result_new(MCH_KIND_CANCELLED, NULL, NULL, 0));
  return 1;
}

int mch_pool_cancel(struct mch_pool *pool, uint64_t runid) {
  struct mch_task *task;
  int was;
  pthread_mutex_lock(&pool->lock);
  task = find(pool, runid);
  was = task != NULL && task->batch != NULL ? cancel_item(pool, task, runid) : cancel(pool, task);
  pthread_mutex_unlock(&pool->lock);
  return was;
}

void mch_pool_cancel_all(struct mch_pool *pool, const struct mch_group *group, uint64_t limit) {
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  for (runid = limit < pool->next_runid ? limit : pool->next_runid; runid-- > pool->base;) {
    struct mch_task *task = *slot(pool, runid);
    if (task != NULL && (group == NULL || task->group == group))
      cancel(pool, task);
  }
  pthread_mutex_unlock(&pool->lock);
}

size_t mch_pool_unfinished_below(struct mch_pool *pool, uint64_t limit) {
  size_t count = 0;
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  for (runid = pool->base; runid < limit && runid < pool->next_runid; runid++) {
    struct mch_task *task = *slot(pool, runid);
    count += task != NULL && is_open(task, runid);
  }
  pthread_mutex_unlock(&pool->lock);
  return count;
}

/* -- the rest ----------------------------------------------------------------------------- */

uint32_t mch_pool_intern(struct mch_pool *pool, const void *bytes, size_t length) {
  uint32_t id;
  pthread_mutex_lock(&pool->lock);
  id = mch_dictionary_intern(&pool->dictionary, bytes, length);
  pthread_mutex_unlock(&pool->lock);
  return id;
}

const void *mch_pool_code(struct mch_pool *pool, uint32_t id, size_t *length) {
  const void *bytes;
  pthread_mutex_lock(&pool->lock);
  bytes = mch_dictionary_get(&pool->dictionary, id, length);
  pthread_mutex_unlock(&pool->lock);
  return bytes;
}

void mch_pool_log_threshold(struct mch_pool *pool, int level) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->ops->log_threshold(pool->engine, level);
  pthread_mutex_unlock(&pool->lock);
}

/* Whoever waits by a descriptor is told by it from now on. */
static int make_attention(struct mch_pool *pool, struct mch_error *error) {
  int code = 0;
  if (pool->attention[0] >= 0)
    return 0;
  if (mch_poller_fd(pool->engine->poller) < 0)
    return mch_error_set(error, MCH_SYSTEM, "this system has no descriptor to wait for a pool");
  if ((code = mch_platform_pipe(pool->attention, error)) != 0)
    return code;
  mch_platform_nonblocking(pool->attention[0]);
  mch_platform_nonblocking(pool->attention[1]);
  if (pool->queue.count > 0 || pool->records != NULL || pool->drives != pool->drives_seen)
    raise_attention(pool);
  return 0;
}

static int listen(struct mch_pool *pool, struct mch_poller *poller, void *ud,
                  struct mch_error *error) {
  if (mch_poller_add(poller, mch_poller_fd(pool->engine->poller), MCH_READABLE, ud) == 0 &&
      mch_poller_add(poller, pool->attention[0], MCH_READABLE, ud) == 0)
    return 0;
  return mch_error_system(error, "cannot make a descriptor to wait for a pool");
}

static int make_outer(struct mch_pool *pool, struct mch_error *error) {
  if (make_attention(pool, error) != 0)
    return MCH_SYSTEM;
  pool->outer = mch_poller_new(error);
  if (pool->outer == NULL || listen(pool, pool->outer, NULL, error) != 0) {
    mch_poller_free(pool->outer);
    pool->outer = NULL;
    return MCH_SYSTEM;
  }
  return 0;
}

int mch_pool_fd(struct mch_pool *pool, struct mch_error *error) {
  int fd = -1;
  pthread_mutex_lock(&pool->lock);
  if (pool->outer != NULL || make_outer(pool, error) == 0)
    fd = mch_poller_fd(pool->outer);
  pthread_mutex_unlock(&pool->lock);
  return fd;
}

static void part(struct mch_pool *pool) {
  if (pool->joined == NULL)
    return;
  mch_poller_remove(pool->joined, mch_poller_fd(pool->engine->poller));
  mch_poller_remove(pool->joined, pool->attention[0]);
  pool->joined = NULL;
}

int mch_pool_join(struct mch_pool *pool, struct mch_poller *poller, void *ud,
                  struct mch_error *error) {
  int code;
  pthread_mutex_lock(&pool->lock);
  part(pool);
  code = make_attention(pool, error);
  if (code == 0) {
    pool->joined = poller;
    code = listen(pool, poller, ud, error);
  }
  if (code != 0)
    part(pool);
  pthread_mutex_unlock(&pool->lock);
  return code;
}

void mch_pool_part(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  part(pool);
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_quit(struct mch_pool *pool, int kill) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->ops->quit(pool->engine, kill);
  pool->started = 0;
  pthread_mutex_unlock(&pool->lock);
  if (pool->driver != NULL)
    mch_driver_stop(pool->driver); /* its end passes while those of the workers do */
}

int mch_pool_gone(struct mch_pool *pool) {
  int gone;
  pthread_mutex_lock(&pool->lock);
  gone = pool->engine->ops->gone(pool->engine);
  pthread_mutex_unlock(&pool->lock);
  return gone;
}
