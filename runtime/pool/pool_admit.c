/* Runs in: parent.
 *
 * Whether a task may be given to a worker now: not while memory is scarce, unless none runs; and
 * under make's jobserver not beside another without a token, which goes back when it has ended. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include "jobserver.h"
#include "runtime/base/memory.h"
#include "runtime/base/platform.h"

static const uint64_t memory_pause = 100000000u;   /* between two looks at the least */
static const uint64_t memory_at_most = 500000000u; /* and at the most, while tasks wait */
static const uint64_t turn_pause = 20000000u;      /* another pool of this process may make room */

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

/* -- tokens of make ----------------------------------------------------------------------- */

/* Be woken when there may be a token, or no longer. */
static void listen(struct mch_pool *pool, int on) {
  struct mch_admission *admission = &pool->admission;
  if (on == admission->listens)
    return;
  if (!on)
    mch_poller_remove(pool->engine->poller, mch_jobserver_fd());
  else if (mch_poller_add(pool->engine->poller, mch_jobserver_fd(), NULL) != 0)
    return;
  admission->listens = on;
}

static void give_back(struct mch_pool *pool) {
  while (pool->admission.permits > pool->submitted) {
    pool->admission.permits--;
    mch_jobserver_give();
  }
}

/* A task starts at once or stays here: no token is taken for one that waits for a worker. */
static int take_permit(struct mch_pool *pool, int owner) {
  if (!pool->engine->ops->could_start(pool->engine, owner))
    return 0;
  if (!mch_jobserver_take()) {
    pool->admission.waits = 1;
    pool->engine->gated = 1;
    return 0;
  }
  pool->admission.permits++;
  return 1;
}

void mch_admit_use_jobserver(struct mch_pool *pool, const char *makeflags) {
  struct mch_admission *admission = &pool->admission;
  char why[MCH_JOBSERVER_WHY];
  unsigned jobs;
  if ((makeflags != NULL) == admission->jobserver)
    return;
  if (makeflags != NULL) {
    if (mch_jobserver_open(makeflags, &jobs, why) != MCH_JOBSERVER_READY)
      return;
    admission->jobserver = 1;
    pool->engine->ops->withdraw(pool->engine);
    mch_jobserver_adopt(pool->submitted);
    admission->permits = pool->submitted;
    return;
  }
  listen(pool, 0);
  admission->jobserver = 0;
  while (admission->permits > 0) {
    admission->permits--;
    mch_jobserver_give();
  }
  mch_jobserver_close();
}

/* -- what dispatch asks ------------------------------------------------------------------- */

void mch_admit_begin(struct mch_pool *pool) {
  look_at_memory(pool);
  pool->engine->gated = 0;
  pool->admission.waits = 0;
  if (pool->admission.jobserver)
    give_back(pool);
}

int mch_admit_one(struct mch_pool *pool, int owner) {
  if (pool->admission.scarce && pool->submitted > 0) {
    pool->engine->gated = 1;
    return 0;
  }
  return !pool->admission.jobserver || take_permit(pool, owner);
}

void mch_admit_end(struct mch_pool *pool) {
  if (!pool->admission.jobserver)
    return;
  give_back(pool);
  listen(pool, pool->admission.waits);
}

uint64_t mch_admit_deadline(const struct mch_pool *pool) {
  const struct mch_admission *admission = &pool->admission;
  uint64_t due = MCH_NEVER;
  if (admission->waits && (pool->submitted == 0 || !admission->listens))
    due = mch_now() + turn_pause;
  if (admission->min_free != 0 && anything_waits(pool))
    due = mch_sooner(due, admission->looked + (admission->scarce ? memory_pause : memory_at_most));
  return due;
}
