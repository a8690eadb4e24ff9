/* Runs in: both.
 *
 * Which rows a picture of a run has: one for each slot of each pool, with a name. The rows of a
 * pool that has gone are those of the next with the same name. */
#ifndef MCH_LANES_H
#define MCH_LANES_H

#include <stddef.h>
#include <stdint.h>

struct mch_lane {
  char *name;      /* "slot 3", "fetch slot 3"; NULL: there was no memory for it */
  char *pool_name; /* "", "pool 2", "fetch" */
  unsigned slot;   /* from 1; 0: of an engine without slots */
  uint64_t pool;   /* its number; 0: it has gone */
  int worker;      /* process of this machine; 0: none */
  int busy;
  int nested;              /* of a pool inside of a task */
  uint64_t runid, started; /* of what runs; nanoseconds */
  unsigned attempt;
  uint64_t ended;  /* when the last box did */
  uint64_t worked; /* nanoseconds in boxes */
};

struct mch_lanes {
  struct mch_lane *lanes;
  size_t count, room;
  size_t running; /* of them are busy */
  struct mch_lane_pool {
    uint64_t number;
    char *name;
    size_t *of_slot; /* index + 1; 0: none yet */
    size_t slots;
  } * pools;
  size_t pool_count, pool_room;
  size_t last; /* the one that was found last */
};

/* The lane of this slot, made when it is first asked for; `name` is the pool's, or NULL. NULL: no
 * memory. It holds until the next call. */
struct mch_lane *mch_lanes_find(struct mch_lanes *lanes, uint64_t pool, unsigned slot,
                                const char *name);

/* Something runs in it, or nothing does. */
void mch_lanes_set_busy(struct mch_lanes *lanes, struct mch_lane *lane, int busy);

/* The pool has gone: nothing runs in its lanes. */
void mch_lanes_drop_pool(struct mch_lanes *lanes, uint64_t pool);

void mch_lanes_free(struct mch_lanes *lanes);

#endif
