/* Runs in: both.
 *
 * How encode.c and decode.c go as deep as memory allows: a stack of Lua values whose lower end
 * moves into tables when it gets long, and C arrays that start small on the C stack and move to a
 * userdata when they grow (so that an error, which leaves by longjmp, leaks nothing). */
#ifndef MCH_STACK_H
#define MCH_STACK_H

#include <lua.h>
#include <stddef.h>

#include "runtime/base/buf.h"

/* The values above `base` on the Lua stack have places 0, 1, 2 ...; place p is at the stack index
 * mch_stack_at(s, p) as long as it is within reach. */
struct mch_stack {
  lua_State *L;
  int base;      /* stack index of place 0 when nothing is spilled */
  int spills;    /* stack index below base: nil, or the table of spilled pieces */
  size_t pieces; /* how many are in it */
  int checked;   /* the Lua stack has room up to this index */
};

#define MCH_STACK_PIECE 1024

static inline int mch_stack_at(const struct mch_stack *s, size_t place) {
  return s->base + (int)(place - s->pieces * MCH_STACK_PIECE);
}

static inline size_t mch_stack_place(const struct mch_stack *s, int at) {
  return (size_t)(at - s->base) + s->pieces * MCH_STACK_PIECE;
}

/* The place of the topmost value. */
static inline size_t mch_stack_top(const struct mch_stack *s) {
  return (size_t)(lua_gettop(s->L) - s->base) + s->pieces * MCH_STACK_PIECE;
}

/* Make room for MCH_STACK_ROOM more values above `top`, the top of the stack. Raises.
 * mch_stack_reserve() may also spill, so ask for stack indices again; mch_stack_room() never does.
 */
enum { MCH_STACK_ROOM = 64, MCH_STACK_HIGH = 3 * MCH_STACK_PIECE };
void mch_stack_spill(struct mch_stack *s);
void mch_stack_check(struct mch_stack *s);

static inline void mch_stack_room(struct mch_stack *s, int top) {
  if (top + MCH_STACK_ROOM > s->checked)
    mch_stack_check(s);
}

static inline void mch_stack_reserve(struct mch_stack *s, int top) {
  mch_stack_room(s, top);
  if (top - s->base > MCH_STACK_HIGH)
    mch_stack_spill(s);
}

/* Bring this place within reach again, and all above it. Raises on memory. */
void mch_stack_unspill(struct mch_stack *s);

static inline void mch_stack_reach(struct mch_stack *s, size_t place) {
  while (place < s->pieces * MCH_STACK_PIECE)
    mch_stack_unspill(s);
}

/* C arrays: room by mch_array_grow(), read by (type *)array.elements. */
struct mch_array {
  void *elements;
  size_t count, capacity;
  struct mch_buf *heap; /* NULL while the elements are where they started */
};

/* The memory behind arrays that grew: a userdata at a fixed stack index, made when first needed.
 * One array is for the slots of identity.h only, since it outlives the message with what is in it.
 */
enum { MCH_HEAP_SLOTS, MCH_HEAP_FIRST, MCH_HEAP_ARRAYS = MCH_HEAP_FIRST + 6 };
struct mch_heap {
  struct mch_buf arrays[MCH_HEAP_ARRAYS];
  size_t slots;   /* so many slots were set ... */
  uint32_t stamp; /* ... and none of them is newer than this */
};

/* The memory of an array, for use as a plain buffer. Raises on memory. */
struct mch_buf *mch_heap_buf(lua_State *L, int slot, int which);

/* Keep the heap at this stack index, if there is one, for the next who needs one; its arrays end
 * here. Of large ones a part is kept. */
void mch_heap_release(lua_State *L, int slot);

/* Give the array room for `more` elements of `size` bytes in total. `slot` is the stack index of
 * the heap userdata or of the nil where it will be, `which` its number there. Raises on memory. */
void mch_array_grow(lua_State *L, struct mch_array *array, size_t size, size_t more, int slot,
                    int which);

#endif
