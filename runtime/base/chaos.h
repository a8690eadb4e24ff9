/* Runs in: both.
 *
 * Faults on purpose. MANTICHORA_CHAOS=seed[,rate] makes every pool of this process suffer, as often
 * as `rate` says (the chance of a fault at each of the points below; default 0.01), what a bad day
 * does now and then. For us to test the pool, for users to test how their programs cope.
 *
 * In a worker
 *   - it is killed by SIGKILL: before HELLO; before and after it claims a task; at each log record
 *     and each bar of the task; between the task's last line and its RESULT; in the middle of its
 *     RESULT; between two tasks; before and after EXIT
 *   - it pauses for up to two milliseconds at the same points
 *
 * In the pool
 *   - what a worker says is overlooked until the next pump, so that messages, output and deaths are
 *     seen in another order
 *   - workers are served in another order
 *   - tasks that were sent ahead are taken back for no reason
 *   - a fork fails (never the only one)
 *   - a pause between any two steps
 *
 * In both
 *   - reads and writes of a few bytes, EINTR, and EAGAIN where it may come
 *
 * Nothing that is promised changes. A task whose worker is killed ends as `killed`, or is tried
 * again if it was given `retries`; everything else is still delivered correctly, if later.
 *
 * All comes from the seed. A task's deaths come from a stream of its own, made of seed, run ID and
 * attempt: a task that was killed is killed again, at the same point, whenever the program runs
 * with that seed. What happens between tasks, and the pauses, also depend on how the processes are
 * scheduled. A nested pool's chaos comes from its task's stream.
 *
 * When off, which is always but for this, a point costs one branch. */
#ifndef MCH_CHAOS_H
#define MCH_CHAOS_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct mch_chaos {
  uint64_t rate; /* of 2^32; 0: off */
  uint64_t seed;
  uint64_t noise; /* stream of what depends on scheduling */
  uint64_t fate;  /* stream of the running task's deaths */
};

/* Read "seed[,rate]", an integer and a number from 0 to 1. NULL is off. 0 or MCH_LIMIT. */
int mch_chaos_parse(struct mch_chaos *chaos, const char *text, struct mch_error *error);

/* For worker `number` of a pool. */
struct mch_chaos mch_chaos_split(const struct mch_chaos *chaos, uint64_t number);

/* For a pool that a task makes, whose chaos comes from the task's stream. */
struct mch_chaos mch_chaos_nest(struct mch_chaos *chaos);

/* A task begins: its deaths are its own from here on. */
void mch_chaos_begin_task(struct mch_chaos *chaos, uint64_t runid, uint32_t attempt);

/* What the functions below do when chaos is on. */
int mch_chaos_draw(const struct mch_chaos *chaos, uint64_t *stream);
uint64_t mch_chaos_number(uint64_t *stream);
void mch_chaos_rest(struct mch_chaos *chaos);
void mch_chaos_die(void);
int mch_chaos_spoil(struct mch_chaos *chaos, size_t *count, int may_refuse);

/* Pool: a pause here, by chance. */
static inline void mch_chaos_pause(struct mch_chaos *chaos) {
  if (chaos->rate != 0)
    mch_chaos_rest(chaos);
}

/* Whether something odd shall be done here. */
static inline int mch_chaos_strikes(struct mch_chaos *chaos) {
  return chaos->rate != 0 && mch_chaos_draw(chaos, &chaos->noise);
}

/* Worker, between tasks: this may be its end. */
static inline void mch_chaos_idle(struct mch_chaos *chaos) {
  if (chaos->rate == 0)
    return;
  mch_chaos_rest(chaos);
  if (mch_chaos_draw(chaos, &chaos->noise))
    mch_chaos_die();
}

/* Worker, in a task: whether it ends at this point. */
static inline int mch_chaos_dooms(struct mch_chaos *chaos) {
  return chaos->rate != 0 && mch_chaos_draw(chaos, &chaos->fate);
}

/* Worker, in a task: this may be its end. */
static inline void mch_chaos_busy(struct mch_chaos *chaos) {
  if (chaos->rate == 0)
    return;
  mch_chaos_rest(chaos);
  if (mch_chaos_dooms(chaos))
    mch_chaos_die();
}

/* Before a read or write of `count` bytes: 0 (`count` may be less now), or the errno of a call that
 * shall not take place: EINTR, and EAGAIN if it `may_refuse`. */
static inline int mch_chaos_io(struct mch_chaos *chaos, size_t *count, int may_refuse) {
  return chaos == NULL || chaos->rate == 0 ? 0 : mch_chaos_spoil(chaos, count, may_refuse);
}

#endif
