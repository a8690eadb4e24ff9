/* Runs in: parent. Purpose: queue.h. */
#include "queue_state.h"

#include <stdlib.h>

#include "runtime/base/error.h"

/* -- the tree ------------------------------------------------------------------------------ */

/* Levels and their order change only here. */
static void sum_up(struct mch_level *level) {
  const struct mch_level *left = level->left, *right = level->right;
  level->waits = level->first != NULL || (left && left->waits) || (right && right->waits);
  level->away = level->submitted > 0 || (left && left->away) || (right && right->away);
}

/* Say of the levels on the way to this one what has changed in it. */
static void sum_up_to(struct mch_level *from, const struct mch_level *level) {
  if (from != level)
    sum_up_to(level->priority > from->priority ? from->left : from->right, level);
  sum_up(from);
}

/* All of `a` are more urgent than all of `b`. */
static struct mch_level *join(struct mch_level *a, struct mch_level *b) {
  if (a == NULL || b == NULL)
    return a == NULL ? b : a;
  if (a->weight > b->weight) {
    a->right = join(a->right, b);
    sum_up(a);
    return a;
  }
  b->left = join(a, b->left);
  sum_up(b);
  return b;
}

/* Those more urgent than `priority`, and the others. */
static void part(struct mch_level *level, int32_t priority, struct mch_level **more,
                 struct mch_level **less) {
  if (level == NULL) {
    *more = *less = NULL;
    return;
  }
  if (level->priority > priority) {
    part(level->right, priority, &level->right, less);
    *more = level;
  } else {
    part(level->left, priority, more, &level->left);
    *less = level;
  }
  sum_up(level);
}

static struct mch_level *find(const struct mch_queue *queue, int32_t priority) {
  struct mch_level *level = queue->root;
  while (level != NULL && level->priority != priority)
    level = priority > level->priority ? level->left : level->right;
  return level;
}

/* Xorshift: no order of priorities makes the tree a list. */
static uint64_t draw(struct mch_queue *queue) {
  uint64_t lot = queue->lots != 0 ? queue->lots : 0x9e3779b97f4a7c15u;
  lot ^= lot << 13;
  lot ^= lot >> 7;
  lot ^= lot << 17;
  return queue->lots = lot;
}

static struct mch_level *plant(struct mch_queue *queue, int32_t priority) {
  struct mch_level *level = calloc(1, sizeof *level), *more, *less;
  if (level == NULL)
    return NULL;
  level->priority = priority;
  level->weight = draw(queue);
  part(queue->root, priority, &more, &less);
  queue->root = join(join(more, level), less);
  return level;
}

static void uproot(struct mch_queue *queue, struct mch_level *level) {
  struct mch_level *more, *less, *rest = NULL;
  part(queue->root, level->priority, &more, &less);
  if (level->priority > INT32_MIN)
    part(less, level->priority - 1, &less, &rest); /* `less` is the level alone */
  free(level);
  queue->root = join(more, rest);
}

/* -- levels and tasks ---------------------------------------------------------------------- */

int mch_queue_enter(struct mch_queue *queue, struct mch_task *task) {
  struct mch_level *level = find(queue, task->priority);
  if (level == NULL && (level = plant(queue, task->priority)) == NULL)
    return MCH_NOMEM;
  level->tasks++;
  task->level = level;
  return 0;
}

void mch_queue_enter_with(struct mch_task *task, const struct mch_task *other) {
  task->level = other->level;
  task->level->tasks++;
}

void mch_queue_leave(struct mch_queue *queue, struct mch_task *task) {
  if (task->level != NULL && --task->level->tasks == 0)
    uproot(queue, task->level);
  task->level = NULL;
}

/* Which task `task` goes before; NULL: to the end, as new ones do. What comes back is near the
 * first one, or near what came back before. */
static struct mch_task *follower(const struct mch_level *level, const struct mch_task *task) {
  struct mch_task *at = level->first;
  uint64_t runid = task->runid;
  if (level->last == NULL || level->last->runid < runid)
    return NULL;
  if (level->near != NULL && runid > at->runid && level->near->runid < runid + (runid - at->runid))
    at = level->near;
  while (at->previous != NULL && at->previous->runid > runid)
    at = at->previous;
  while (at->runid < runid)
    at = at->next;
  return at;
}

void mch_queue_add(struct mch_queue *queue, struct mch_task *task) {
  struct mch_level *level = task->level;
  struct mch_task *next = follower(level, task);
  int first = level->first == NULL;
  task->state = MCH_TASK_QUEUED;
  task->next = next;
  task->previous = next != NULL ? next->previous : level->last;
  if (next != NULL) {
    next->previous = task;
    level->near = task;
  } else
    level->last = task;
  if (task->previous != NULL)
    task->previous->next = task;
  else
    level->first = task;
  queue->count++;
  if (first)
    sum_up_to(queue->root, level);
}

void mch_queue_remove(struct mch_queue *queue, struct mch_task *task) {
  struct mch_level *level = task->level;
  if (level->near == task)
    level->near = task->next != NULL ? task->next : task->previous;
  if (task->previous != NULL)
    task->previous->next = task->next;
  else
    level->first = task->next;
  if (task->next != NULL)
    task->next->previous = task->previous;
  else
    level->last = task->previous;
  task->next = task->previous = NULL;
  queue->count--;
  if (level->first == NULL)
    sum_up_to(queue->root, level);
}

/* The first task that waits in this part of the tree. */
static struct mch_task *first_of(const struct mch_level *level) {
  while (level != NULL && level->waits) {
    if (level->left != NULL && level->left->waits)
      level = level->left;
    else if (level->first != NULL)
      return level->first;
    else
      level = level->right;
  }
  return NULL;
}

struct mch_task *mch_queue_head(const struct mch_queue *queue) {
  return first_of(queue->root);
}

/* Of this part of the tree the first task that waits and is less urgent than `priority`. */
static struct mch_task *first_below(const struct mch_level *level, int32_t priority) {
  struct mch_task *task;
  while (level != NULL && level->waits && level->priority >= priority)
    level = level->right;
  if (level == NULL || !level->waits)
    return NULL;
  if ((task = first_below(level->left, priority)) != NULL)
    return task;
  return level->first != NULL ? level->first : first_of(level->right);
}

struct mch_task *mch_queue_next(const struct mch_queue *queue, const struct mch_task *task) {
  return task->next != NULL ? task->next : first_below(queue->root, task->priority);
}

void mch_queue_send(struct mch_queue *queue, struct mch_task *task, int away) {
  struct mch_level *level = task->level;
  int before = level->submitted > 0;
  level->submitted += (size_t)(away ? 1 : -1);
  if (before != (level->submitted > 0))
    sum_up_to(queue->root, level);
}

int mch_queue_overtakes(const struct mch_queue *queue, int32_t priority) {
  const struct mch_task *head = mch_queue_head(queue);
  const struct mch_level *level = queue->root;
  if (head != NULL && head->priority >= priority)
    return 0;
  while (level != NULL && level->away) {
    if (level->priority >= priority)
      level = level->right;
    else if (level->submitted > 0 || (level->right != NULL && level->right->away))
      return 1;
    else
      level = level->left;
  }
  return 0;
}

static size_t count(const struct mch_level *level) {
  return level == NULL ? 0 : 1 + count(level->left) + count(level->right);
}

size_t mch_queue_levels(const struct mch_queue *queue) {
  return count(queue->root);
}

static void fell(struct mch_level *level) {
  if (level == NULL)
    return;
  fell(level->left);
  fell(level->right);
  free(level);
}

void mch_queue_free(struct mch_queue *queue) {
  fell(queue->root);
  queue->root = NULL;
}
