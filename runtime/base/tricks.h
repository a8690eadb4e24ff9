/* Runs in: both.
 *
 * Tricks for speed that guess at rhythm or memory, and can be left out to see what they gain. For
 * benchmarks only (scripts/bench/tricks.lua): in a build with the option MANTICHORA_SWITCHES the
 * environment says MANTICHORA_WITHOUT=name,name. In all other builds the question costs nothing. */
#ifndef MCH_TRICKS_H
#define MCH_TRICKS_H

#define MCH_TRICKS(X)                                                                              \
  X(FEED, "feed")     /* run() hands over much of a long queue when a worker has few tasks */      \
  X(BURST, "burst")   /* tasks that are run one after the other wait for each other */             \
  X(NAPS, "naps")     /* a waiting owner sleeps through results that come in crowds */             \
  X(LAZY, "lazy")     /* workers without a task set themselves up later */                         \
  X(EARLY, "early")   /* large tables of numbers are sent while they are encoded */                \
  X(HUGE, "huge")     /* large blocks get large pages */                                           \
  X(SILENT, "silent") /* pipes are asked only after what may have written */                       \
  X(ITEMS, "items")   /* short answers of items travel as records of one open message */

enum mch_trick {
#define MCH_TRICK_CODE(name, word) MCH_TRICK_##name,
  MCH_TRICKS(MCH_TRICK_CODE)
#undef MCH_TRICK_CODE
};

#if defined(MANTICHORA_SWITCHES)
int mch_without(enum mch_trick trick);
#else
#define mch_without(trick) 0
#endif

#endif
