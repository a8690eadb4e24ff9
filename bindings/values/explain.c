/* Runs in: both.
 *
 * What would be sent: an encoding that tells all its parts to scripts/mantichora/explain.lua, which
 * makes a tree of them. */
#include <lauxlib.h>
#include <string.h>

#include "bindings/part.h"
#include "encoding.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"

/* ---- telling the parts ---- */

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
static void push_how(struct encoding *e, int at, enum role role, int status, size_t start) {
  lua_State *L = e->L;
  const char *how = status == REFUSED ? "refused" : name_tag(*at_position(e, start));
  lua_pushstring(L, how);
  if (status == REFUSED)
    lua_pushvalue(L, e->slots + REASON);
  else if (strcmp(how, "name") == 0 && mch_modules_find(L, &e->modules, at, role == METATABLE)) {
    const char *field = lua_tostring(L, -1);
    lua_pushfstring(L, field != NULL ? "%s.%s" : "%s", lua_tostring(L, -2), field);
    lua_rotate(L, -3, 1);
    lua_pop(L, 2);
  } else
    lua_pushnil(L);
}

/* The number of the object that the reference at `start` names, or of the object that is there. */
static uint64_t object_number(const struct encoding *e, size_t start, uint64_t next) {
  const unsigned char *at = at_position(e, start);
  uint64_t number = 0;
  unsigned shift = 0;
  if (*at != MCH_TAG_REF)
    return next;
  do {
    at++;
    number |= (uint64_t)(*at & 0x7f) << shift;
    shift += 7;
  } while (*at >= 0x80);
  return number;
}

int mch_explain_part(struct encoding *e, int at, enum role role) {
  lua_State *L = e->L;
  struct mch_path step;
  size_t level = e->frames.count - 1, start = position(e), before = size_so_far(e);
  uint64_t number = e->objects;
  int status, kind = e->slots + KIND, top;
  int is_field = innermost(e)->kind == SPREAD; /* of an environment that has gone before */
  mch_path_begin(&step);
  if (innermost(e)->kind == ROOT)
    mch_path_root(&step, e->to->kind, (int)innermost(e)->next - 1);
  else
    mch_encode_step(e, &step, innermost(e));
  if (is_field)
    mch_path_set(&step, 0, NULL);
  push_kind(L, at);
  lua_replace(L, kind);
  status = mch_encode_as(e, at, role);
  if (status == REFUSED)
    put_tag(e, MCH_TAG_NIL);
  if (status == OPENED)
    innermost(e)->start = before;
  top = lua_gettop(L);
  lua_pushvalue(L, e->explain);
  lua_pushliteral(L, "part");
  lua_pushinteger(L, (lua_Integer)level);
  mch_path_push_step(&step, L);
  lua_pushvalue(L, kind);
  push_how(e, at, role, status, start);
  lua_pushinteger(L, (lua_Integer)object_number(e, start, number));
  if (status == OPENED)
    lua_pushnil(L);
  else
    lua_pushinteger(L, (lua_Integer)(size_so_far(e) - before));
  lua_pushboolean(L, is_field);
  lua_call(L, 10, 0);
  lua_settop(L, top);
  return status == OPENED ? OPENED : DONE;
}

void mch_explain_close(struct encoding *e, const struct frame *frame) {
  lua_pushvalue(e->L, e->explain);
  lua_pushliteral(e->L, "close");
  lua_pushinteger(e->L, (lua_Integer)e->frames.count - 1);
  lua_pushinteger(e->L, (lua_Integer)(size_so_far(e) - frame->start));
  lua_call(e->L, 3, 0);
}

void mch_explain_names(struct encoding *e) {
  lua_pushvalue(e->L, e->explain);
  lua_pushliteral(e->L, "names");
  lua_pushvalue(e->L, -3);
  lua_call(e->L, 2, 0);
}

/* ---- the report ---- */

static int free_buffer(lua_State *L) {
  mch_buf_free(lua_touserdata(L, 1));
  return 0;
}

static struct mch_buf *new_buffer(lua_State *L) {
  struct mch_buf *buf = lua_newuserdatauv(L, sizeof *buf, 0);
  memset(buf, 0, sizeof *buf);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, free_buffer);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return buf;
}

/* Push what the Lua part returns: the function to tell the parts to, and the one that makes the
 * report. */
static void push_recorder(lua_State *L) {
  mch_part_push(L, "mantichora.explain");
  lua_call(L, 0, 2);
}

void mch_explain(lua_State *L, int baseline, int first, int n) {
  struct mch_encoder encoder;
  struct mch_body body;
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  memset(&encoder, 0, sizeof encoder);
  encoder.baseline = baseline != 0 ? lua_absindex(L, baseline) : 0;
  encoder.kind = MCH_SEND_TASK;
  encoder.out = new_buffer(L);
  encoder.spans = new_buffer(L);
  push_recorder(L);
  encoder.explain = top + 3;
  if (mch_encode(L, &encoder, first, n))
    lua_pop(L, 1);
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
