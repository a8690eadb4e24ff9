/* Runs in: parent.
 *
 * Whether a task may be given to a worker now: not while memory is scarce, unless none runs. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include "runtime/base/memory.h"
#include "runtime/base/platform.h"

static const uint64_t memory_pause = 100000000u;   /* between two looks at the least */
static const uint64_t memory_at_most = 500000000u; /* and at the most, while tasks wait */

/* Memory is looked at while anything waits that may begin: in the queue, or sent ahead. */
static int anything_waits(const struct mch_pool *pool) {
  return pool->queue.count > 0 || pool->submitted > 1;
}

/* When memory becomes scarce, what was sent ahead comes back. */
static void look_at_memory(struct mch_pool *pool) {
  struct mch_admission *admission = &pool->admission;
  uint64_t now;
  int was_scarce = admission->scarce;
  if (admission->min_free == 0 || !anything_waits(pool))
    return;
  now = mch_now();
  if (admission->looked != 0 && now < admission->looked + memory_pause)
    return;
  admission->looked = now;
  admission->scarce = mch_memory_available(admission->root) < admission->min_free;
  if (admission->scarce && !was_scarce)
    pool->engine->ops->withdraw(pool->engine);
}

void mch_admit_begin(struct mch_pool *pool) {
  look_at_memory(pool);
  pool->engine->gated = 0;
}

int mch_admit_one(struct mch_pool *pool, int owner) {
  (void)owner;
  if (!pool->admission.scarce || pool->submitted == 0)
    return 1;
  pool->engine->gated = 1;
  return 0;
}

uint64_t mch_admit_deadline(const struct mch_pool *pool) {
  const struct mch_admission *admission = &pool->admission;
  if (admission->min_free == 0 || !anything_waits(pool))
    return MCH_NEVER;
  return admission->looked + (admission->scarce ? memory_pause : memory_at_most);
}
