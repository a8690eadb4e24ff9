/* Runs in: both.
 *
 * What would be sent: a listener that follows an encoding and gives all its parts to
 * scripts/mantichora/explain.lua, which makes a tree of them. */
#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bindings/part.h"
#include "encoding.h"
#include "private.h"
#include "bindings/lbuf.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"

/* The stack indices are those of whoever calls mch_encode(). */
struct explaining {
  struct mch_listener listener; /* first: it is cast */
  int recorder;                 /* stack index of the function that gets the parts */
  int kind;                     /* likewise, of the kind of the part at hand */
  struct mch_path step;         /* from its whole to it */
  int detail;                   /* stack index of what is to be said of it if it goes by value */
  int is_field;                 /* it is one of an environment that has gone before */
};

/* ---- the listener ---- */

/* Push "function <img.lua:12>", "userdata (FILE*)" or the type's name. */
static void push_kind(lua_State *L, int at) {
  if (lua_type(L, at) == LUA_TFUNCTION && lua_iscfunction(L, at))
    lua_pushliteral(L, "C function");
  else if (lua_type(L, at) == LUA_TFUNCTION)
    mch_path_function(L, at);
  else
    lua_pushstring(L, luaL_typename(L, at));
}

/* What became of a part, by the tag that was put for it. */
static const char *name_tag(unsigned tag) {
  if (tag < MCH_TAG_OBJECT)
    return tag == MCH_TAG_REF ? "shared" : tag == MCH_TAG_GLOBALS ? "globals" : "value";
  switch (tag & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META)) {
  case MCH_TAG_MODULE:
  case MCH_TAG_FIELD:
    return "name";
  case MCH_TAG_HOOK:
    return "hook";
  case MCH_TAG_ENV:
    return "environment";
  default:
    return "value";
  }
}

/* Push how a part goes, and the name or the reason that belongs to it. */
static void push_how(struct encoding *e, const struct mch_part *part, int detail) {
  lua_State *L = e->L;
  const char *how = part->status == REFUSED ? "refused" : name_tag(*at_position(e, part->place));
  lua_pushstring(L, how);
  if (part->status == REFUSED)
    lua_pushvalue(L, e->slots + REASON);
  else if (strcmp(how, "name") == 0 &&
           mch_modules_find(L, &e->modules, part->at, part->role == METATABLE)) {
    if (mch_private_is_path(L, -1)) {
      mch_private_push_words(L, -1);
      lua_replace(L, -2);
    }
    if (lua_isnil(L, -1))
      lua_pushstring(L, lua_tostring(L, -2));
    else
      lua_pushfstring(L, "%s.%s", lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rotate(L, -3, 1);
    lua_pop(L, 2);
  } else
    lua_pushvalue(L, detail);
}

/* Push what is to be said of a table that goes by value: how a class keeps its identity, or why not
 * by the name of its module; else nil. */
static void push_detail(const struct encoding *e, const struct mch_part *part) {
  lua_State *L = e->L;
  int top = lua_gettop(L), is_class, is_empty;
  lua_pushnil(L);
  if (!lua_istable(L, part->at) || part->role == ENVIRONMENT)
    return;
  is_class = mch_modules_is_class(L, part->at);
  if (!is_class && part->role != METATABLE)
    return;
  mch_modules_push_former(L, &e->modules, part->at);
  if (lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), LUA_GNAME) != 0) {
    lua_pushfstring(L, "since module '%s' was loaded anew and has not got it; comes back as itself",
                    lua_tostring(L, -1));
  } else {
    lua_pushnil(L);
    is_empty = !lua_next(L, part->at);
    lua_pushstring(L, is_empty && part->role != METATABLE
                          ? "a sentinel of the script, which comes back as itself"
                          : "a class of the script, which comes back as itself");
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* The number of the object that the part refers to, or is. */
static uint64_t object_number(const struct encoding *e, const struct mch_part *part) {
  const unsigned char *at = at_position(e, part->place);
  uint64_t number;
  if (*at != MCH_TAG_REF)
    return part->number;
  at++;
  mch_number_load_varint(&at, at_position(e, position(e)), &number);
  return number;
}

/* Keep what is gone when the value has been put. */
static void begin_part(struct mch_listener *listener, struct encoding *e,
                       const struct mch_part *part) {
  struct explaining *x = (struct explaining *)listener;
  const struct frame *whole = innermost(e);
  mch_path_begin(&x->step);
  if (whole->kind == ROOT)
    mch_path_root(&x->step, e->to->kind, (int)whole->next - 1);
  else
    mch_encode_step(e, &x->step, whole);
  x->is_field = whole->kind == SPREAD;
  if (x->is_field)
    mch_path_set(&x->step, 0, NULL);
  push_kind(e->L, part->at);
  lua_replace(e->L, x->kind);
  push_detail(e, part);
  lua_replace(e->L, x->detail);
}

static void end_part(struct mch_listener *listener, struct encoding *e,
                     const struct mch_part *part) {
  struct explaining *x = (struct explaining *)listener;
  lua_State *L = e->L;
  int top = lua_gettop(L);
  lua_pushvalue(L, x->recorder);
  lua_pushliteral(L, "part");
  lua_pushinteger(L, (lua_Integer)part->level);
  mch_path_push_step(&x->step, L);
  lua_pushvalue(L, x->kind);
  push_how(e, part, x->detail);
  lua_pushinteger(L, (lua_Integer)object_number(e, part));
  if (part->status == OPENED)
    lua_pushnil(L);
  else
    lua_pushinteger(L, (lua_Integer)(size_so_far(e) - part->before));
  lua_pushboolean(L, x->is_field);
  lua_call(L, 10, 0);
  lua_settop(L, top);
}

static void close_frame(struct mch_listener *listener, struct encoding *e,
                        const struct frame *frame) {
  lua_pushvalue(e->L, ((struct explaining *)listener)->recorder);
  lua_pushliteral(e->L, "close");
  lua_pushinteger(e->L, (lua_Integer)e->frames.count - 1);
  lua_pushinteger(e->L, (lua_Integer)(size_so_far(e) - frame->start));
  lua_call(e->L, 3, 0);
}

static void give_names(struct mch_listener *listener, struct encoding *e) {
  lua_pushvalue(e->L, ((struct explaining *)listener)->recorder);
  lua_pushliteral(e->L, "names");
  lua_pushvalue(e->L, -3);
  lua_call(e->L, 2, 0);
}

/* ---- the report ---- */

/* Push what the Lua part returns: the function that takes the parts, and the one that makes the
 * report. */
static void push_recorder(lua_State *L) {
  mch_part_push(L, "mantichora.explain");
  lua_call(L, 0, 2);
}

void mch_explain(lua_State *L, int baseline, int first, int n) {
  struct mch_encoder encoder;
  struct explaining x;
  struct mch_body body;
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  memset(&encoder, 0, sizeof encoder);
  encoder.baseline = baseline != 0 ? lua_absindex(L, baseline) : 0;
  encoder.kind = MCH_SEND_TASK;
  encoder.out = mch_lbuf_push(L);
  encoder.spans = mch_lbuf_push(L);
  push_recorder(L);
  lua_pushnil(L);
  lua_pushnil(L);
  x.listener = (struct mch_listener){begin_part, end_part, close_frame, give_names};
  x.recorder = top + 3;
  x.kind = top + 5;
  x.detail = top + 6;
  encoder.listener = &x.listener;
  if (mch_encode(L, &encoder, first, n))
    lua_pop(L, 1);
  lua_settop(L, top + 4);
  body = mch_body_of(encoder.out, encoder.spans);
  lua_pushinteger(L, (lua_Integer)mch_body_size(&body));
  lua_call(L, 1, 1);
  mch_buf_free(encoder.out);
  mch_buf_free(encoder.spans);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* A hook that fails is a line of the report, unless its task was stopped in it. */
int mch_explain_call(lua_State *L) {
  int stops = mch_lwatch_stops(L);
  luaL_checkany(L, 1);
  mch_notices_tell(L);
  mch_explain(L, 0, 1, lua_gettop(L));
  mch_lwatch_caught(L, stops);
  return 1;
}
