/* Runs in: both.
 *
 * What an object has still to do when exit() ends the process while its Lua state is open. */
#ifndef MCH_ANCHOR_H
#define MCH_ANCHOR_H

struct mch_anchor;

/* Have leave(object) called by exit(), once, on the thread that calls it; the anchor is freed then,
 * and the object has to forget it. NULL: it will not be called (see mch_hold_at_exit()). */
struct mch_anchor *mch_anchor_cast(void (*leave)(void *object), void *object);

/* The object goes before, or has nothing to do any more: *anchor, which may be NULL, becomes NULL.
 * It is freed when the process ends. */
void mch_anchor_drop(struct mch_anchor **anchor);

#endif
