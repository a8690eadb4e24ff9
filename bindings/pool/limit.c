/* Runs in: parent (engine "inline"; also that of a pool in a worker). Purpose: limit.h. */
#include "limit.h"

#include <lauxlib.h>

#include "runtime/base/platform.h"
#include "bindings/context.h"

/* Virtual machine instructions between two looks at the clock: some microseconds. */
enum { LOOK = 1000 };

/* Code that has caught the error is told again after so long; from the third time on at each
 * instruction, since nobody can kill it: so what catches it all the time meets it outside too. */
static const uint64_t insist = 300000000;
enum { PATIENT = 3 };

/* The outermost limit that is due. */
static struct mch_limit *find_due(struct mch_limit *limit) {
  struct mch_limit *found = NULL;
  uint64_t now = mch_now();
  for (; limit != NULL; limit = limit->outer)
    if (limit->due <= now)
      found = limit;
  return found;
}

static void look(lua_State *L, lua_Debug *event);

static struct mch_limit *limit_of(lua_State *L) {
  const struct mch_context *context = mch_context_find(L);
  return context != NULL ? context->limit : NULL;
}

void mch_limit_check(lua_State *L) {
  struct mch_limit *limit = find_due(limit_of(L));
  if (limit == NULL)
    return;
  limit->raised++;
  limit->due = mch_now() + (limit->raised < PATIENT ? insist : 0);
  if (limit->raised >= PATIENT)
    lua_sethook(L, look, LUA_MASKCOUNT, 1);
  luaL_error(L, "task stopped");
}

static void look(lua_State *L, lua_Debug *event) {
  (void)event;
  if (limit_of(L) == NULL) /* a coroutine that has outlived it */
    lua_sethook(L, NULL, 0, 0);
  else
    mch_limit_check(L);
}

uint64_t mch_limit_due(lua_State *L) {
  const struct mch_limit *limit;
  uint64_t due = MCH_NEVER;
  for (limit = limit_of(L); limit != NULL; limit = limit->outer)
    due = mch_sooner(due, limit->due);
  return due;
}

void mch_limit_begin(struct mch_limit *limit, lua_State *L, struct mch_context *context,
                     uint64_t nanoseconds) {
  uint64_t now = mch_now();
  limit->context = context;
  limit->outer = context->limit;
  limit->L = L;
  limit->due = nanoseconds == 0 || nanoseconds > MCH_NEVER - now ? MCH_NEVER : now + nanoseconds;
  limit->raised = 0;
  context->limit = limit;
  if (limit->due == MCH_NEVER && limit->outer == NULL)
    return;
  if (lua_gethook(L) == NULL)
    lua_sethook(L, look, LUA_MASKCOUNT, LOOK);
}

int mch_limit_end(struct mch_limit *limit) {
  limit->context->limit = limit->outer;
  if (lua_gethook(limit->L) == look)
    lua_sethook(limit->L, NULL, 0, 0);
  return limit->raised;
}

int mch_limit_holds(lua_State *L) {
  return lua_gethook(L) == look;
}
