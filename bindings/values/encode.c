/* Runs in: both.
 *
 * Lua values to bytes; graph.h has the format and the interface. Here are the walk over the graph,
 * the parts of a message outside of it (rebuild hooks, assignments), and the error messages for
 * values that cannot be sent. */
#include "encoding.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "classes.h"

/* ---- objects ---- */

int mch_encode_refuse(struct encoding *e, const char *why) {
  lua_pushstring(e->L, why);
  lua_replace(e->L, e->slots + REASON);
  return REFUSED;
}

/* Is this object being rebuilt by a hook whose values are being put? */
static int is_in_hook(const struct encoding *e, uint64_t number) {
  size_t hook = e->hook;
  while (hook != 0) {
    const struct frame *frame = (const struct frame *)e->frames.elements + hook - 1;
    if (frame->number == number)
      return 1;
    hook = frame->outer;
  }
  return 0;
}

int mch_encode_ref(struct encoding *e, const struct mch_met *met) {
  if (e->hook != 0 && is_in_hook(e, met->a))
    return mch_encode_refuse(e, "what its __mantichora returned leads back to it");
  *at_position(e, (size_t)met->b) |= MCH_TAG_KEPT;
  put_u8(e, MCH_TAG_REF);
  put_varint(e, met->a);
  return DONE;
}

int mch_encode_text(struct encoding *e, const void *object, const char *s, size_t length) {
  if (length > 1) { /* shorter ones are cheaper again than referred to */
    struct look look;
    const struct mch_met *met = look_up(e, object, &look);
    if (met != NULL)
      return mch_encode_ref(e, met);
    meet_looked(e, &look);
  } else {
    e->objects++;
  }
  if (length <= MCH_SCALAR_LONGEST) {
    e->out->length += mch_scalar_store_short(room(e, MCH_SCALAR_ROOM), s, length);
  } else {
    put_u8(e, MCH_TAG_STRING);
    put_varint(e, length);
    put_bytes(e, s, length);
  }
  return DONE;
}

/* Keep the string on top of the stack where it is, beyond this call. Pops it. */
static void keep_lent(struct encoding *e) {
  lua_State *L = e->L;
  if (lua_isnil(L, e->slots + LENT)) {
    lua_newtable(L);
    lua_replace(L, e->slots + LENT);
  }
  lua_rawseti(L, e->slots + LENT, (lua_Integer)lua_rawlen(L, e->slots + LENT) + 1);
}

/* Put a string whose bytes are not copied. */
static int lend_string(struct encoding *e, int at, const char *s, size_t length) {
  const void *object = lua_topointer(e->L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  struct mch_span span;
  if (met != NULL)
    return mch_encode_ref(e, met);
  meet(e, object);
  put_u8(e, MCH_TAG_STRING);
  put_varint(e, length);
  span = (struct mch_span){position(e), s, length};
  mch_buf_append(e->to->spans, &span, sizeof span);
  if (e->to->spans->failed != 0)
    luaL_error(e->L, "not enough memory for the message");
  e->lent += length;
  lua_pushvalue(e->L, at);
  keep_lent(e);
  return DONE;
}

int mch_encode_string(struct encoding *e, int at) {
  size_t length;
  const char *s = lua_tolstring(e->L, at, &length);
  if (length >= MCH_SPAN_MIN && e->to->spans != NULL)
    return lend_string(e, at, s, length);
  return mch_encode_text(e, lua_topointer(e->L, at), s, length);
}

int mch_encode_name(struct encoding *e, int at, const void *object, int as_metatable) {
  lua_State *L = e->L;
  if (!mch_modules_may_know(&e->modules, object))
    return 0;
  if (!e->modules.opened)
    mch_modules_open(L, &e->modules, e->slots + MODULES, e->baseline);
  if (!mch_modules_find(L, &e->modules, at, as_metatable))
    return 0;
  meet(e, object);
  if (e->to->reach != NULL)
    *e->to->reach |= MCH_REACH_ALL;
  put_u8(e, lua_isnil(L, -1) ? MCH_TAG_MODULE : MCH_TAG_FIELD);
  mch_encode_string(e, -2);
  if (!lua_isnil(L, -1))
    mch_encode_string(e, -1);
  lua_pop(L, 2);
  return 1;
}

void mch_encode_class(struct encoding *e, int at, enum mch_class_kind kind) {
  lua_State *L = e->L;
  int classes = e->slots + CLASSES;
  luaL_checkstack(L, 4, NULL);
  if (kind == MCH_CLASS)
    e->last_class = lua_topointer(L, at);
  if (lua_isnil(L, classes)) {
    lua_newtable(L);
    lua_replace(L, classes);
  }
  lua_pushvalue(L, at);
  if (lua_rawget(L, classes) == LUA_TNIL) {
    lua_pushvalue(L, at);
    lua_rawseti(L, classes, (lua_Integer)lua_rawlen(L, classes) + 1);
  } else if ((int)kind >= (int)lua_tointeger(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, at);
  lua_pushinteger(L, (lua_Integer)kind);
  lua_rawset(L, classes);
}

/* Behind the message: which of its objects are classes, by what ids. Some may have been left out of
 * it again. */
static void put_classes(struct encoding *e) {
  lua_State *L = e->L;
  int classes = e->slots + CLASSES, top = lua_gettop(L);
  lua_Integer i,
      n = e->baseline != 0 && lua_istable(L, classes) ? (lua_Integer)lua_rawlen(L, classes) : 0;
  for (i = 1; i <= n; i++) {
    const struct mch_met *met;
    lua_rawgeti(L, classes, i);
    met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)lua_topointer(L, top + 1));
    if (met != NULL) {
      enum mch_class_kind kind;
      lua_pushvalue(L, top + 1);
      lua_rawget(L, classes);
      kind = (enum mch_class_kind)lua_tointeger(L, -1);
      *at_position(e, (size_t)met->b) |= MCH_TAG_KEPT;
      put_varint(e, met->a);
      put_varint(e, (uint64_t)mch_classes_send(L, e->baseline, top + 1, kind));
      e->to->classes++;
      if (e->to->found != 0 && kind != MCH_MAYBE) {
        lua_pushvalue(L, top + 1);
        lua_rawseti(L, e->to->found, (lua_Integer)lua_rawlen(L, e->to->found) + 1);
      }
    }
    lua_settop(L, top);
  }
}

void mch_encode_more_frames(struct encoding *e) {
  mch_array_grow(e->L, &e->frames, sizeof(struct frame), e->frames.count + 1, e->slots + HEAP,
                 HEAP_FRAMES);
}

struct frame *mch_encode_open(struct encoding *e, enum frame_kind kind, int at) {
  lua_pushvalue(e->L, at);
  mch_stack_reserve(&e->stack, lua_gettop(e->L));
  return add_frame(e, kind, mch_stack_top(&e->stack));
}

/* ---- hooks ---- */

static int end_pause(lua_State *L) {
  lua_gc(L, LUA_GCRESTART);
  return 0;
}

/* Objects are known by their addresses. A hook may drop some that were put, and another one that is
 * made at such an address would be taken for it: so from the first hook to the end of the message,
 * or to an error, nothing is collected. */
static void pause_collector(struct encoding *e) {
  lua_State *L = e->L;
  if (!lua_isnil(L, e->slots + PAUSE) || !lua_gc(L, LUA_GCISRUNNING))
    return;
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, 0, 0);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, end_pause);
  lua_setfield(L, -2, "__close");
  lua_setmetatable(L, -2);
  lua_replace(L, e->slots + PAUSE);
  lua_toclose(L, e->slots + PAUSE);
  lua_gc(L, LUA_GCSTOP);
}

/* The list on top of the stack is what a hook has returned: OPENED. */
static int check_hooked(struct encoding *e) {
  int type = lua_rawgeti(e->L, -1, 1);
  lua_pop(e->L, 1);
  e->to->called = 1;
  return type == LUA_TFUNCTION ? OPENED
                               : mch_encode_refuse(e, "its __mantichora returned no function");
}

void mch_encode_list_hooked(lua_State *L, int first) {
  int n = lua_gettop(L) - first + 1;
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, n, 1);
  lua_insert(L, first);
  lua_pushinteger(L, n);
  lua_rawseti(L, first, 0);
  for (; n > 0; n--)
    lua_rawseti(L, first, n);
}

/* Call the hook on top of the stack for the object at `at`; replaces it by the list of what it
 * returned. */
static int call_hook(struct encoding *e, int at) {
  lua_State *L = e->L;
  int hook = lua_gettop(L);
  e->to->called = 1;
  pause_collector(e);
  lua_pushvalue(L, at);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    lua_pushfstring(L, "its __mantichora failed: %s", why != NULL ? why : "(no message)");
    return mch_encode_refuse(e, lua_tostring(L, -1));
  }
  mch_encode_list_hooked(L, hook);
  return DONE;
}

/* A hook may return an object with a hook, as the nodes of a list do. One that makes another such
 * object each time would go on for ever. (When that is explained, others are not tried any more.)
 */
enum { MOST_HOOKS = 10000 };

static int is_endless(struct encoding *e) {
  e->endless |= e->hooks == MOST_HOOKS;
  return e->endless;
}

/* If the object at `at` has a hook, push the list of what it returned: OPENED. DONE: it has none.
 * The hook is called once for each object, and what it returned lives as long as the message. */
static int push_hooked(struct encoding *e, int at) {
  lua_State *L = e->L;
  int top = lua_gettop(L);
  if (!lua_getmetatable(L, at))
    return DONE;
  lua_pushliteral(L, "__mantichora");
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_settop(L, top);
    return DONE;
  }
  lua_remove(L, -2);
  if (lua_isnil(L, e->slots + HOOKS)) {
    lua_newtable(L);
    lua_replace(L, e->slots + HOOKS);
  }
  lua_pushvalue(L, at);
  if (lua_rawget(L, e->slots + HOOKS) != LUA_TNIL) {
    lua_remove(L, -2);
    return check_hooked(e);
  }
  lua_pop(L, 1);
  if (is_endless(e))
    return mch_encode_refuse(e, "what its __mantichora returned leads to another object that has "
                                "one, and so on without an end");
  if (call_hook(e, at) != DONE)
    return REFUSED;
  lua_pushvalue(L, at);
  lua_pushvalue(L, -2);
  lua_rawset(L, e->slots + HOOKS);
  return check_hooked(e);
}

int mch_encode_hooked(struct encoding *e, int at, const void *object) {
  lua_State *L = e->L;
  struct frame *frame;
  int status = push_hooked(e, at);
  if (status != OPENED)
    return status;
  e->hooks++;
  frame = mch_encode_open(e, HOOK, -1);
  lua_rawgeti(L, -1, 0);
  frame->count = (size_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  frame->number = (size_t)e->objects;
  frame->from = e->wants.queued;
  frame->outer = e->hook;
  e->hook = e->frames.count;
  e->noted[0] = NULL;
  meet(e, object);
  put_u8(e, MCH_TAG_HOOK);
  put_varint(e, frame->count);
  return OPENED;
}

/* ---- values ---- */

static int put_userdata(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  char why[80] = "userdata";
  int status;
  if (met != NULL)
    return mch_encode_ref(e, met);
  if (mch_encode_name(e, at, object, 0))
    return DONE;
  status = mch_encode_hooked(e, at, object);
  if (status != DONE)
    return status;
  if (lua_getmetatable(L, at)) {
    lua_pushliteral(L, "__name");
    if (lua_rawget(L, -2) == LUA_TSTRING)
      snprintf(why, sizeof why, "userdata (%s)", lua_tostring(L, -1));
    lua_pop(L, 2);
  }
  return mch_encode_refuse(e, why);
}

static int put_value(struct encoding *e, int at) {
  int type = lua_type(e->L, at);
  if (put_scalar(e, at, type))
    return DONE;
  switch (type) {
  case LUA_TSTRING:
    return mch_encode_string(e, at);
  case LUA_TTABLE:
    return mch_encode_table(e, at, 0);
  case LUA_TFUNCTION:
    return mch_encode_function(e, at);
  case LUA_TUSERDATA:
    return put_userdata(e, at);
  default:
    return mch_encode_refuse(e, "coroutine (thread)");
  }
}

static int put_as(struct encoding *e, int at, enum role role) {
  if (role == VALUE)
    return put_value(e, at);
  return role == METATABLE ? mch_encode_table(e, at, 1) : mch_encode_environment(e, at);
}

/* Put a value while a listener follows. */
static int put_followed(struct encoding *e, int at, enum role role) {
  struct mch_part part = {at,         role, e->frames.count - 1, position(e), size_so_far(e),
                          e->objects, 0};
  e->listener->begin(e->listener, e, &part);
  part.status = put_as(e, at, role);
  if (part.status == REFUSED)
    put_tag(e, MCH_TAG_NIL);
  if (part.status == OPENED)
    innermost(e)->start = part.before;
  e->listener->end(e->listener, e, &part);
  return part.status == OPENED ? OPENED : DONE;
}

int mch_encode_part(struct encoding *e, int at, enum role role) {
  return e->listener == NULL ? put_as(e, at, role) : put_followed(e, at, role);
}

int mch_encode_put(struct encoding *e, int at) {
  return e->listener == NULL ? put_value(e, at) : put_followed(e, at, VALUE);
}

/* ---- frames: parts until one opens a frame, is REFUSED, or none is left (DONE) ---- */

/* Behind values come the assignments that they need. */
static int continue_sets_of(struct encoding *e, struct frame *frame) {
  size_t from = frame->from;
  if (frame->next == SIZE_MAX)
    return DONE;
  frame->next = SIZE_MAX;
  if (e->wants.queued == from)
    return put_tag(e, MCH_TAG_END);
  lua_pushnil(e->L);
  frame = mch_encode_open(e, SETS, -1);
  frame->next = frame->from = from;
  return OPENED;
}

/* The value at this index, which was put, is a class, if it was not noted as one or as a sentinel.
 */
static void note_class(struct encoding *e, int at) {
  int is_noted = 0;
  if (lua_istable(e->L, e->slots + CLASSES)) {
    lua_pushvalue(e->L, at);
    is_noted = lua_rawget(e->L, e->slots + CLASSES) != LUA_TNIL;
    lua_pop(e->L, 1);
  }
  if (!is_noted)
    mch_encode_class(e, at, MCH_CLASS);
}

static int continue_root(struct encoding *e, struct frame *frame) {
  while (frame->next < frame->count) {
    int number = (int)frame->next++, status;
    lua_settop(e->L, frame_at(e, frame));
    status = mch_encode_put(e, e->first + number);
    if (e->to->classes_from != 0 && number >= e->to->classes_from)
      note_class(e, e->first + number);
    if (status != DONE)
      return status;
  }
  return continue_sets_of(e, frame);
}

static int continue_hook(struct encoding *e, struct frame *frame) {
  int list = frame_at(e, frame);
  while (frame->next < frame->count) {
    int status;
    lua_settop(e->L, list);
    lua_rawgeti(e->L, list, (lua_Integer)++frame->next);
    status = mch_encode_put(e, list + 1);
    if (status != DONE)
      return status;
  }
  lua_settop(e->L, list);
  return continue_sets_of(e, frame);
}

/* ---- assignments ---- */

static void push_mark(struct encoding *e, enum assigned global, const char *name) {
  struct mark *mark;
  if (e->marks.count == e->marks.capacity)
    mch_array_grow(e->L, &e->marks, sizeof *mark, e->marks.count + 1, e->slots + HEAP, HEAP_MARKS);
  mark = (struct mark *)e->marks.elements + e->marks.count++;
  mark->global = global;
  mark->name = name;
  mark->frame = e->frames.count - 1;
  mark->position = position(e);
  mark->lent = e->lent;
  mark->spans = e->to->spans != NULL ? e->to->spans->length : 0;
  mark->met = e->met.entries.count;
  mark->keys = e->keys.count;
  mark->ids = e->to->code_ids != NULL ? mch_buf_unread(e->to->code_ids) : 0;
  mark->queued = e->wants.queued;
  mark->done = e->wants.done;
  mark->followed = e->wants.met;
  mark->hook = e->hook;
  mark->hooks = e->hooks;
  mark->objects = e->objects;
  mark->shapes = e->shapes;
  mark->codes = e->codes;
}

/* A value cannot be sent: if that is in a global, leave it out and return 1. */
static int leave_out(struct encoding *e) {
  const struct mark *marks = e->marks.elements, *mark;
  size_t i = e->marks.count;
  while (i > 0 && !marks[i - 1].global)
    i--;
  if (i == 0)
    return 0;
  mark = &marks[i - 1];
  snprintf(e->to->left_out, sizeof e->to->left_out,
           mark->global == OF_MODULE ? "field '%.60s' of a module" : "global '%.60s'", mark->name);
  if (e->to->left != NULL) {
    const char *why = lua_tostring(e->L, e->slots + REASON);
    mch_buf_append(e->to->left, mark->name, strlen(mark->name) + 1);
    mch_buf_append(e->to->left, why, strlen(why) + 1);
  }
  e->marks.count = i;
  e->frames.count = mark->frame + 1;
  e->out->length = e->out->read + mark->position;
  e->lent = mark->lent;
  if (e->to->spans != NULL)
    e->to->spans->length = mark->spans;
  if (e->to->code_ids != NULL)
    e->to->code_ids->length = e->to->code_ids->read + mark->ids;
  mch_identity_cut(&e->met, mark->met);
  mch_wants_cut(&e->wants, mark->queued, mark->done, mark->followed);
  e->keys.count = mark->keys;
  e->hook = mark->hook;
  e->hooks = mark->hooks;
  e->endless = 0;
  e->objects = mark->objects;
  e->shapes = mark->shapes;
  e->codes = mark->codes;
  e->noted[0] = NULL;
  memset(e->recent, 0, sizeof e->recent);
  return 1;
}

/* Put the head of an assignment to the table at `target`. */
static void put_target(struct encoding *e, int target) {
  const void *object = lua_topointer(e->L, target);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  e->to->assigns = 1;
  put_u8(e, MCH_TAG_SET);
  if (object == e->globals)
    put_u8(e, MCH_TAG_GLOBALS);
  else if (met != NULL)
    mch_encode_ref(e, met);
  else /* a module */
    mch_encode_name(e, target, object, 1);
}

/* Is the table of a module in the message, or does it have a name? */
static int can_be_target(struct encoding *e, int target) {
  lua_State *L = e->L;
  int top = lua_gettop(L), can;
  if (mch_identity_find(&e->met, (uint64_t)(uintptr_t)lua_topointer(L, target)) != NULL)
    return 1;
  if (!e->modules.opened)
    mch_modules_open(L, &e->modules, e->slots + MODULES, e->baseline);
  can = mch_modules_find(L, &e->modules, target, 1);
  lua_settop(L, top);
  return can;
}

/* Put the assignment of target and name, the two values on top of the stack. */
static int put_set(struct encoding *e) {
  lua_State *L = e->L;
  int target = lua_gettop(L) - 1, name = target + 1;
  enum assigned of = lua_topointer(L, target) == e->globals ? OF_GLOBALS : OF_ENVIRONMENT;
  if (lua_istable(L, name)) { /* a field of a module */
    lua_rawgeti(L, name, 1);
    lua_replace(L, name);
    of = OF_MODULE;
  }
  push_mark(e, of, lua_type(L, name) == LUA_TSTRING ? lua_tostring(L, name) : "");
  if (of == OF_MODULE && !can_be_target(e, target))
    return mch_encode_refuse(e, "its module has no name");
  if (lua_type(L, name) != LUA_TSTRING) {
    mch_encode_open(e, SPREAD, target);
    lua_pushnil(L);
    return OPENED;
  }
  put_target(e, target);
  mch_encode_string(e, name);
  if (of != OF_ENVIRONMENT) {
    if (e->listener == NULL && of == OF_GLOBALS)
      mch_wants_sent(&e->wants, name);
    lua_pushvalue(L, name);
    lua_rawget(L, target);
  } else if (mch_globals_find(L, target, name) <= 0) {
    lua_pushnil(L); /* a hook has just removed it */
  }
  return mch_encode_put(e, name + 1);
}

static int continue_sets(struct encoding *e, struct frame *frame) {
  for (;;) {
    int status;
    lua_settop(e->L, frame_at(e, frame));
    if (frame->in_value)
      e->marks.count--;
    frame->in_value = 0;
    if (frame->next >= e->wants.queued)
      break;
    if (!mch_wants_take(&e->wants, frame->next++))
      continue;
    frame->in_value = 1;
    status = put_set(e);
    if (status != DONE)
      return status;
  }
  mch_wants_cut(&e->wants, frame->from, e->wants.done, e->wants.met);
  return put_tag(e, MCH_TAG_END);
}

/* Above the environment are the key at hand and its value. */
static int continue_spread(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int env = frame_at(e, frame), status;
  if (frame->next == SIZE_MAX)
    return DONE;
  for (;;) {
    if (!frame->in_value) {
      lua_settop(L, env + 1);
      if (!lua_next(L, env))
        break;
      put_target(e, env);
      frame->in_value = 1;
      status = mch_encode_put(e, env + 1);
      if (status != DONE)
        return status;
    }
    frame->in_value = 0;
    lua_settop(L, env + 2);
    status = mch_encode_put(e, env + 2);
    if (status != DONE)
      return status;
  }
  frame->next = SIZE_MAX;
  if (!lua_getmetatable(L, env))
    return DONE;
  put_target(e, env);
  put_u8(e, MCH_TAG_NIL);
  return mch_encode_part(e, env + 1, METATABLE);
}

/* ---- the walk ---- */

static int continue_frame(struct encoding *e, struct frame *frame) {
  mch_stack_reach(&e->stack, frame->place);
  switch (frame->kind) {
  case ROOT:
    return continue_root(e, frame);
  case HOOK:
    return continue_hook(e, frame);
  case SMALL:
    return mch_encode_small(e, frame);
  case WALK:
    return mch_encode_walk(e, frame);
  case RECORD:
    return mch_encode_record(e, frame);
  case ENDED:
    return mch_encode_ended(e, frame);
  case FUNCTION:
    return mch_encode_upvalues(e, frame);
  case SETS:
    return continue_sets(e, frame);
  default:
    return continue_spread(e, frame);
  }
}

/* What it has on the stack stays there: the frame around it sets the top as it needs it. */
static void close_frame(struct encoding *e, const struct frame *frame) {
  if (e->listener != NULL && frame->kind != ROOT)
    e->listener->close(e->listener, e, frame);
  if (frame->kind == HOOK) {
    e->hook = frame->outer;
    e->hooks--;
    e->noted[0] = NULL;
  }
  e->frames.count--;
}

/* ---- refusals ---- */

void mch_encode_step(struct encoding *e, struct mch_path *path, const struct frame *frame) {
  int at = frame_at(e, frame);
  size_t part = frame->next - 1, alone = frame->values_only ? frame->count : frame->array;
  switch (frame->kind) {
  case FUNCTION:
    mch_path_upvalue(path, e->L, at, (int)frame->next);
    break;
  case HOOK:
    if (frame->next != SIZE_MAX)
      mch_path_step(path, ".(__mantichora)");
    break;
  case SETS:
    mch_path_set(path, lua_topointer(e->L, at + 1) == e->globals, lua_tostring(e->L, at + 2));
    break;
  case SMALL:
    if (frame->next == SIZE_MAX)
      mch_path_step(path, ".(metatable)");
    else
      mch_path_key(path, e->L,
                   at + 1 + (int)(part < alone ? 2 * part : alone + (part - alone) / 2 * 2));
    break;
  default:
    if (frame->next == SIZE_MAX)
      mch_path_step(path, ".(metatable)");
    else
      mch_path_key(path, e->L, at + 1);
  }
}

/* Push the path from the message to the part at hand. Takes the frames apart. */
static void push_path(struct encoding *e) {
  struct mch_path path;
  mch_path_begin(&path);
  while (e->frames.count > 0) {
    struct frame *frame = innermost(e);
    if (frame->kind == ROOT) {
      if (frame->next != SIZE_MAX) /* else it is in an assignment */
        mch_path_root(&path, e->to->kind, (int)frame->next - 1);
    } else if (!mch_path_full(&path)) {
      mch_stack_reach(&e->stack, frame->place);
      mch_encode_step(e, &path, frame);
      lua_settop(e->L, frame_at(e, frame) - 1);
    }
    e->frames.count--;
  }
  mch_path_push(&path, e->L);
}

static int raise_refusal(struct encoding *e) {
  push_path(e);
  lua_pushvalue(e->L, e->slots + REASON);
  return luaL_error(e->L, "cannot send %s: %s", lua_tostring(e->L, -2), lua_tostring(e->L, -1));
}

static void begin(struct encoding *e, lua_State *L, struct mch_encoder *encoder, int first) {
  int goes_down = encoder->kind == MCH_SEND_TASK || encoder->kind == MCH_SEND_ITEM ||
                  encoder->kind == MCH_SEND_SETUP;
  e->L = L;
  e->to = encoder;
  e->out = encoder->out;
  e->first = first;
  e->baseline = encoder->baseline != 0 ? lua_absindex(L, encoder->baseline) : 0;
  e->listener = encoder->listener;
  e->objects = e->shapes = e->codes = e->early = 0;
  e->lent = 0;
  luaL_checkstack(L, SLOTS + MCH_STACK_ROOM, NULL);
  e->slots = lua_gettop(L);
  lua_settop(L, e->slots + SLOTS);
  lua_pushglobaltable(L);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);
  e->has_classes = goes_down && !encoder->is_plain;
  e->returns_classes = !goes_down && e->baseline != 0;
  e->last_class = e->last_metatable = NULL;
  e->last_is_callable = 0;
  encoder->classes = 0;
  encoder->left_out[0] = '\0';
  e->stack = (struct mch_stack){L, e->slots + SLOTS + 1, e->slots + SPILLS, 0, 0};
  e->frames = (struct mch_array){e->start, 0, FRAMES_START, NULL};
  e->keys = (struct mch_array){NULL, 0, 0, NULL};
  e->marks = (struct mch_array){NULL, 0, 0, NULL};
  e->hook = e->hooks = 0;
  e->endless = 0;
  e->noted[0] = e->noted[1] = NULL;
  e->modules.opened = e->modules.filtered = 0;
  mch_wants_init(&e->wants, L, e->slots + WANTS, goes_down ? e->baseline : 0);
  e->wants.collect = encoder->collect != 0 ? lua_absindex(L, encoder->collect) : 0;
  if (encoder->puts != 0)
    mch_wants_put(&e->wants, lua_absindex(L, encoder->puts));
  if (encoder->hooked != 0) {
    lua_pushvalue(L, encoder->hooked);
    lua_replace(L, e->slots + HOOKS);
  }
  mch_identity_init(&e->met, L, e->slots + HEAP, HEAP_MET);
}

int mch_encode(lua_State *L, struct mch_encoder *encoder, int first, int n) {
  struct encoding e;
  struct frame *frame;
  int top = lua_gettop(L), has_lent;
  first = lua_absindex(L, first);
  begin(&e, L, encoder, first);
  put_u8(&e, MCH_GRAPH_VERSION);
  put_varint(&e, (uint64_t)n);
  lua_pushnil(L);
  frame = mch_encode_open(&e, ROOT, -1);
  frame->count = (size_t)n;
  if (encoder->kind == MCH_SEND_TASK && encoder->listener == NULL)
    mch_wants_assigned(&e.wants);
  while (e.frames.count > 0) {
    int status = continue_frame(&e, innermost(&e));
    if (status == DONE)
      close_frame(&e, innermost(&e));
    else if (status == REFUSED && !leave_out(&e))
      raise_refusal(&e);
  }
  put_classes(&e);
  mch_identity_release(&e.met);
  mch_heap_release(L, e.slots + HEAP);
  has_lent = !lua_isnil(L, e.slots + LENT);
  lua_pushvalue(L, e.slots + LENT);
  lua_replace(L, top + 1);
  lua_settop(L, top + has_lent);
  return has_lent;
}
