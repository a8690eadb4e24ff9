/* Runs in: parent.
 *
 * Tasks by run ID: an array with a front that moves on as the oldest tasks are taken. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/engines/task.h"

struct mch_task **mch_index_slot(struct mch_pool *pool, uint64_t runid) {
  return &pool->index[pool->index_start + (size_t)(runid - pool->base)];
}

struct mch_task *mch_index_find(struct mch_pool *pool, uint64_t runid) {
  return runid >= pool->base && runid < pool->next_runid ? *mch_index_slot(pool, runid) : NULL;
}

/* Make room for `count` more. Tasks mostly leave in order, so the front is free when it is full. */
int mch_index_reserve(struct mch_pool *pool, size_t count) {
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

void mch_index_remove(struct mch_pool *pool, uint64_t runid) {
  *mch_index_slot(pool, runid) = NULL;
  while (pool->base < pool->next_runid && pool->index[pool->index_start] == NULL) {
    pool->base++;
    pool->index_start++;
  }
  if (pool->base == pool->next_runid)
    pool->index_start = 0;
}

/* The engine has so many more (1), or fewer (-1). */
void mch_index_count_submitted(struct mch_pool *pool, struct mch_task *task, int step) {
  pool->submitted += (size_t)step;
  mch_queue_send(&pool->queue, task, step > 0);
  task->group->submitted += (size_t)step;
}
