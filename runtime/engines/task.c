/* Runs in: parent. Purpose: task.h. */
#define _POSIX_C_SOURCE 200809L
#include "task.h"

#include <stdlib.h>
#include <string.h>

#include "recorder.h"

/* -- tasks and batches -------------------------------------------------------------------- */

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
  task->batch->count = task->batch->whole = task->batch->kept = count;
  task->batch->function_length = (uint32_t)function_length;
  task->batch->index = task->index = index;
  return task;
}

/* Where in the body the item of this number begins. */
static size_t item_at(const struct mch_task *batch, uint32_t number) {
  size_t at = batch->codes * sizeof(uint32_t) + batch->batch->function_length;
  for (; number > 0; number--)
    at += 4 + mch_load_u32(batch->body + at);
  return at;
}

size_t mch_task_item_length(const struct mch_task *task) {
  struct mch_batch *batch = task->batch;
  if (batch->next_at == 0 || batch->next > batch->answered) {
    batch->next_at = item_at(task, 0);
    batch->next = 0;
  }
  for (; batch->next < batch->answered; batch->next++)
    batch->next_at += 4 + mch_load_u32(task->body + batch->next_at);
  return mch_load_u32(task->body + batch->next_at);
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
  rest->batch->whole = batch->whole - number;
  memcpy(rest->body, task->body, front);
  memcpy(rest->body + front, task->body + at, task->length - at);
  rest->codes = task->codes;
  rest->runid = task->runid + number;
  rest->priority = task->priority;
  rest->careful = task->careful;
  rest->accepted = task->accepted;
  rest->group = task->group;
  return rest;
}

struct mch_task *mch_task_hold(struct mch_task *task) {
  atomic_fetch_add(&task->holds, 1);
  return task;
}

struct mch_task *mch_task_about(const struct mch_task *task) {
  int is_number = task->codes == 0 && task->cargo == NULL && task->length == sizeof(uint64_t);
  struct mch_task *about =
      mch_task_new((const uint32_t *)(const void *)task->body, task->codes > 0, task->body,
                   is_number ? task->length : 0); /* engine "snapshot": that of what it keeps */
  size_t name_length = task->extra != NULL ? task->extra->name_length : 0;
  struct mch_task_extra *extra;
  if (about == NULL)
    return NULL;
  about->runid = task->runid;
  about->index = task->index;
  about->attempt = task->attempt;
  about->priority = task->priority;
  about->cause = task->cause != NULL ? mch_task_hold(task->cause) : NULL;
  if (task->extra == NULL)
    return about;
  about->extra = extra = malloc(sizeof *extra + name_length);
  if (extra == NULL) {
    mch_task_free(about);
    return NULL;
  }
  memcpy(extra, task->extra, sizeof *extra + name_length);
  extra->record = NULL;
  return about;
}

void mch_task_free(struct mch_task *task) {
  if (task == NULL || atomic_fetch_sub(&task->holds, 1) > 0)
    return;
  if (task->batch != NULL)
    mch_buf_free(&task->batch->answers);
  free(task->batch);
  mch_cargo_drop(task->cargo);
  mch_cargo_drop(task->early);
  if (!task->borrows)
    mch_result_free(task->result);
  mch_task_free(task->cause); /* which has none */
  if (task->extra != NULL && task->extra->record != NULL)
    task->extra->record->recorder->drop(task->extra->record);
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

/* -- results ------------------------------------------------------------------------------ */

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
  result->cpu = MCH_UNMEASURED;
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

struct mch_result *mch_result_share(struct mch_result *result) {
  atomic_fetch_add(&result->shared, 1);
  return result;
}

void mch_result_free(struct mch_result *result) {
  if (result != NULL && atomic_load(&result->shared) > 0 &&
      atomic_fetch_sub(&result->shared, 1) > 0)
    return;
  if (result != NULL) {
    free(result->memory);
    free(result->text);
    free(result->progress);
  }
  free(result);
}
