/* Runs in: both.
 *
 * Which globals are sent: the baseline of what they were at the fork, and what a function's
 * bytecode names. */
#include "graph.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bytecode.h"
#include "classes.h"
#include "globals.h"
#include "modules.h"

/* Values are held weakly, so that the baseline keeps nothing alive that the program has dropped;
 * what was collected cannot be what the global is now. */
static void note_globals(lua_State *L, int baseline) {
  int values = lua_gettop(L) + 1, present = values + 1, globals = values + 2;
  mch_context_push_weak(L, "v");
  lua_createtable(L, 0, 64);
  lua_pushglobaltable(L);
  lua_pushnil(L);
  while (lua_next(L, globals)) {
    if (lua_type(L, -2) == LUA_TSTRING) {
      lua_pushvalue(L, -2);
      lua_pushboolean(L, 1);
      lua_rawset(L, present);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, values);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_settop(L, present);
  lua_rawseti(L, baseline, MCH_BASELINE_PRESENT);
  lua_rawseti(L, baseline, MCH_BASELINE_GLOBALS);
}

/* The globals of a fresh state, as far as they are here what they are there: functions in C, and
 * the modules of the standard library. */
static void note_fresh_globals(lua_State *L, int baseline) {
  static const char *const names[] = {
      "assert",   "collectgarbage", "dofile",  "error",    "getmetatable", "ipairs",    "load",
      "loadfile", "next",           "pairs",   "pcall",    "print",        "rawequal",  "rawget",
      "rawlen",   "rawset",         "require", "select",   "setmetatable", "tonumber",  "tostring",
      "type",     "warn",           "xpcall",  "_VERSION", "_G",           "coroutine", "debug",
      "io",       "math",           "os",      "package",  "string",       "table",     "utf8"};
  int values = lua_gettop(L) + 1, present = values + 1, loaded = values + 2;
  size_t i;
  mch_context_push_weak(L, "v");
  lua_createtable(L, 0, 64);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushglobaltable(L);
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    int same;
    lua_pushboolean(L, 1);
    lua_setfield(L, present, names[i]);
    lua_pushstring(L, names[i]);
    lua_rawget(L, loaded + 1);
    lua_pushstring(L, names[i]);
    lua_rawget(L, loaded);
    same = lua_iscfunction(L, -2) || (lua_istable(L, -2) && lua_rawequal(L, -1, -2)) ||
           strcmp(names[i], "_VERSION") == 0;
    lua_pop(L, 1);
    if (same && !lua_isnil(L, -1))
      lua_setfield(L, values, names[i]);
    else
      lua_pop(L, 1);
  }
  lua_settop(L, present);
  lua_rawseti(L, baseline, MCH_BASELINE_PRESENT);
  lua_rawseti(L, baseline, MCH_BASELINE_GLOBALS);
}

static void take_baseline(lua_State *L, int remote) {
  int baseline;
  luaL_checkstack(L, 24, NULL);
  lua_createtable(L, MCH_BASELINE_PARTS, 0);
  baseline = lua_gettop(L);
  lua_pushboolean(L, remote);
  lua_rawseti(L, baseline, MCH_BASELINE_REMOTE);
  mch_modules_note(L, baseline);
  if (remote)
    note_fresh_globals(L, baseline);
  else
    note_globals(L, baseline);
  mch_context_push_weak(L, "k");
  lua_rawseti(L, baseline, MCH_BASELINE_CODES);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_USES);
  mch_context_push_weak(L, "k");
  lua_rawseti(L, baseline, MCH_BASELINE_NAMES);
  mch_context_push_weak(L, "k");
  lua_rawseti(L, baseline, MCH_BASELINE_CALM);
  mch_classes_begin(L, baseline);
  mch_modules_note_latest(L, baseline);
}

void mch_baseline_take(lua_State *L) {
  take_baseline(L, 0);
}

void mch_baseline_take_remote(lua_State *L) {
  take_baseline(L, 1);
}

/* Push the global whose name is at this index. Is it what it was at the first fork and all since?
 */
static int push_as_noted(lua_State *L, int name, int values, int present) {
  int top = lua_gettop(L) + 1, same;
  lua_pushglobaltable(L);
  lua_pushvalue(L, name);
  lua_rawget(L, -2);
  lua_replace(L, top);
  lua_pushvalue(L, name);
  lua_rawget(L, values);
  same = !lua_isnil(L, -1) && lua_rawequal(L, -1, top);
  if (!same && lua_isnil(L, -1) && lua_isnil(L, top)) {
    lua_pushvalue(L, name);
    same = lua_rawget(L, present) == LUA_TNIL; /* nil then and now */
  }
  lua_settop(L, top);
  return same;
}

/* Workers differ in the global whose name is at this index. */
static void mark_changed(lua_State *L, int name, int values, int present) {
  lua_pushvalue(L, name);
  lua_pushboolean(L, 0);
  lua_rawset(L, present);
  lua_pushvalue(L, name);
  lua_pushnil(L);
  lua_rawset(L, values);
}

/* Go through the names in the array at `names`. */
static void mark_names(lua_State *L, int names, int values, int present) {
  lua_Integer i, n = (lua_Integer)lua_rawlen(L, names);
  for (i = 1; i <= n; i++) {
    lua_rawgeti(L, names, i);
    if (!push_as_noted(L, lua_gettop(L), values, present))
      mark_changed(L, lua_gettop(L) - 1, values, present);
    lua_pop(L, 2);
  }
}

/* Append the names that are keys of the table on top of the stack. Pops it. */
static void list_names(lua_State *L, int names) {
  int table = lua_gettop(L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, names);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
      continue;
    lua_pushvalue(L, -1);
    lua_rawseti(L, names, ++n);
  }
  lua_pop(L, 1);
}

void mch_baseline_update(lua_State *L, int baseline) {
  int top = lua_gettop(L);
  baseline = lua_absindex(L, baseline);
  luaL_checkstack(L, 24, NULL);
  lua_rawgeti(L, baseline, MCH_BASELINE_GLOBALS);
  lua_rawgeti(L, baseline, MCH_BASELINE_PRESENT);
  lua_newtable(L);
  lua_pushglobaltable(L);
  list_names(L, top + 3);
  lua_pushvalue(L, top + 2); /* those that are nil now */
  list_names(L, top + 3);
  mark_names(L, top + 3, top + 1, top + 2);
  lua_settop(L, top);
}

/* ---- environments ---- */

enum { LONGEST_CHAIN = 100 };

/* Replace the table on top of the stack by its metatable's __index. LUA_TNIL: there is none. */
static int next_in_chain(lua_State *L) {
  int type = LUA_TNIL;
  if (lua_getmetatable(L, -1)) {
    lua_pushliteral(L, "__index");
    type = lua_rawget(L, -2);
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  return type;
}

static int is_globals(lua_State *L, int at) {
  int same;
  at = lua_absindex(L, at);
  lua_pushglobaltable(L);
  same = lua_rawequal(L, -1, at);
  lua_pop(L, 1);
  return same;
}

int mch_globals_find(lua_State *L, int env, int name) {
  int links, top = lua_gettop(L), type = LUA_TTABLE, found = 0;
  lua_pushvalue(L, env);
  for (links = 0; links < LONGEST_CHAIN && type == LUA_TTABLE; links++) {
    if (is_globals(L, -1)) {
      found = -1;
      break;
    }
    lua_pushvalue(L, name);
    if (lua_rawget(L, -2) != LUA_TNIL) {
      lua_replace(L, top + 1);
      return 1;
    }
    lua_pop(L, 1);
    type = next_in_chain(L);
    if (type == LUA_TFUNCTION)
      found = -1;
  }
  lua_settop(L, top);
  return found;
}

int mch_globals_fall_back(lua_State *L, int env) {
  int links, top = lua_gettop(L), type = LUA_TTABLE, found = 0;
  lua_pushvalue(L, env);
  for (links = 0; links < LONGEST_CHAIN && type == LUA_TTABLE && !found; links++) {
    found = is_globals(L, -1);
    if (!found)
      type = next_in_chain(L);
  }
  lua_settop(L, top);
  return found || type == LUA_TFUNCTION;
}

/* ---- what a message needs ---- */

enum { QUEUE, DONE, DONE_LIST, VALUES, PRESENT, FOLLOWED, LED_TO };

void mch_wants_init(struct mch_wants *wants, lua_State *L, int slot, int baseline) {
  wants->L = L;
  wants->slot = slot;
  wants->baseline = baseline;
  wants->queued = wants->done = wants->met = wants->followed = wants->names = 0;
  wants->calm = 0;
  wants->collect = 0;
  wants->has_globals = 0;
}

/* The stack index of a table, made when first needed. */
static int use_table(struct mch_wants *wants, int which) {
  if (lua_isnil(wants->L, wants->slot + which)) {
    lua_newtable(wants->L);
    lua_replace(wants->L, wants->slot + which);
  }
  return wants->slot + which;
}

/* Queue target and name, the two values on top of the stack. Pops them. */
static void queue(struct mch_wants *wants) {
  lua_Integer i = (lua_Integer)wants->queued++ * 2;
  int to = use_table(wants, QUEUE);
  lua_rawseti(wants->L, to, i + 2);
  lua_rawseti(wants->L, to, i + 1);
}

/* The parts of the baseline about globals come to their slots. */
static void use_globals(struct mch_wants *wants) {
  lua_State *L = wants->L;
  if (wants->has_globals)
    return;
  wants->has_globals = 1;
  lua_rawgeti(L, wants->baseline, MCH_BASELINE_GLOBALS);
  lua_replace(L, wants->slot + VALUES);
  lua_rawgeti(L, wants->baseline, MCH_BASELINE_PRESENT);
  lua_replace(L, wants->slot + PRESENT);
}

/* The walk that follows functions now has met the name on top of the stack. */
static void lead_to(struct mch_wants *wants) {
  int list = use_table(wants, LED_TO);
  lua_pushvalue(wants->L, -1);
  lua_rawseti(wants->L, list, (lua_Integer)++wants->names);
}

/* Are all names in the list on top of the stack what they were at the fork? Then so is what they
 * lead to. The walk at hand leads to them as well. */
static int are_as_noted(struct mch_wants *wants) {
  lua_State *L = wants->L;
  int list = lua_gettop(L), same = 1;
  lua_Integer i;
  for (i = 1; same && lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
    same = push_as_noted(L, list + 1, wants->slot + VALUES, wants->slot + PRESENT);
    lua_settop(L, list + 1);
    if (same && wants->calm)
      lead_to(wants);
    lua_settop(L, list);
  }
  lua_settop(L, list);
  return same;
}

/* Does the function at this index lead to names only that are known, and to nothing that changed?
 */
static int is_calm(struct mch_wants *wants, int function) {
  lua_State *L = wants->L;
  int calm;
  use_globals(wants);
  lua_rawgeti(L, wants->baseline, MCH_BASELINE_CALM);
  lua_pushvalue(L, function);
  calm = lua_rawget(L, -2) == LUA_TTABLE && are_as_noted(wants);
  lua_settop(L, function);
  return calm;
}

/* Is the value on top a function in Lua? It is to be followed, unless it was met before. Pops it.
 */
static void meet_function(struct mch_wants *wants) {
  lua_State *L = wants->L;
  int function = lua_gettop(L), met;
  if (lua_type(L, function) == LUA_TFUNCTION && !lua_iscfunction(L, function) &&
      !is_calm(wants, function)) {
    met = use_table(wants, FOLLOWED);
    lua_pushvalue(L, function);
    if (lua_rawget(L, met) == LUA_TNIL) {
      lua_pushvalue(L, function);
      lua_rawseti(L, met, (lua_Integer)++wants->met);
      lua_pushvalue(L, function);
      lua_pushboolean(L, 1);
      lua_rawset(L, met);
    }
  }
  lua_settop(L, function - 1);
}

/* Queue the global whose name is on top of the stack, if workers do not have it as it is. If they
 * do, and it is a function, its own names count. */
static void want_global(struct mch_wants *wants) {
  lua_State *L = wants->L;
  if (wants->baseline == 0)
    return;
  use_globals(wants);
  if (push_as_noted(L, lua_gettop(L), wants->slot + VALUES, wants->slot + PRESENT)) {
    if (wants->calm) {
      lua_pushvalue(L, -2);
      lead_to(wants);
      lua_pop(L, 1);
    }
    meet_function(wants);
    return;
  }
  wants->calm = 0;
  if (wants->collect != 0) { /* names that it leads to are looked for when it is sent */
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, wants->collect);
    return;
  }
  lua_pushglobaltable(L);
  lua_replace(L, -2);
  lua_pushvalue(L, -2);
  queue(wants);
}

void mch_wants_put(struct mch_wants *wants, int names) {
  lua_State *L = wants->L;
  lua_Integer i;
  use_globals(wants);
  for (i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
    lua_pushglobaltable(L);
    lua_insert(L, -2);
    queue(wants);
  }
  lua_pop(L, 1);
}

/* How an environment goes: as far as it is named, as a whole, or not at all since the receiver has
 * it. */
enum way { IN_PART, AS_A_WHOLE, NOT_SENT };

/* Queue those of the names that an environment going this way has to bring along, and the globals
 * behind it. */
static void want_names(struct mch_wants *wants, int env, int names, enum way way) {
  lua_State *L = wants->L;
  lua_Integer i;
  int custom = !is_globals(L, env), found = -1;
  for (i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
    int name = lua_gettop(L);
    if (custom)
      found = mch_globals_find(L, env, name);
    if (found < 0) {
      want_global(wants);
    } else if (found > 0 && way == IN_PART) {
      lua_pushvalue(L, env);
      lua_pushvalue(L, name);
      queue(wants);
    } else if (found > 0 && way == NOT_SENT) {
      meet_function(wants);
    }
    lua_settop(L, name - 1);
  }
  lua_pop(L, 1);
}

void mch_globals_wanted(lua_State *L, int function, unsigned char wanted[256]) {
  const char *name;
  int n;
  memset(wanted, 0, 256);
  for (n = 0; n < 255 && (name = lua_getupvalue(L, function, n + 1)) != NULL; n++) {
    lua_pop(L, 1);
    wanted[n] = strcmp(name, "_ENV") == 0 || name[0] == '('; /* stripped: it may be one */
  }
}

/* Push what the function on top of the stack does with its environments; remembered in the
 * baseline.
 */
static void push_function_uses(struct mch_wants *wants) {
  lua_State *L = wants->L;
  int function = lua_gettop(L), known = function + 1;
  const char *dump;
  size_t length;
  unsigned char wanted[256];
  lua_rawgeti(L, wants->baseline, MCH_BASELINE_NAMES);
  lua_pushvalue(L, function);
  if (lua_rawget(L, known) == LUA_TNIL) {
    mch_globals_wanted(L, function, wanted);
    lua_pushvalue(L, function);
    mch_bytecode_push_dump(L);
    dump = lua_tolstring(L, -1, &length);
    mch_bytecode_uses(L, dump, length, wanted);
    lua_pushvalue(L, function);
    lua_pushvalue(L, -2);
    lua_rawset(L, known);
  }
  lua_replace(L, known);
  lua_settop(L, known);
}

/* Queue what the function on top of the stack needs, as for one that is sent, but not its code and
 * its upvalues, which the receiver has. */
static void follow(struct mch_wants *wants) {
  lua_State *L = wants->L;
  int function = lua_gettop(L), uses = function + 1, value = function + 2, i;
  const char *name;
  push_function_uses(wants);
  for (i = 1; (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    if (lua_isfunction(L, value)) {
      wants->calm = 0; /* the variable may be assigned to */
      meet_function(wants);
    } else if (lua_istable(L, value) && lua_istable(L, uses) &&
               (strcmp(name, "_ENV") == 0 || is_globals(L, value)) &&
               lua_rawgeti(L, uses, i) == LUA_TTABLE) {
      wants->calm &= is_globals(L, value);
      want_names(wants, value, value + 1, NOT_SENT);
    }
    lua_settop(L, uses);
  }
  lua_settop(L, function);
}

/* Those that were followed from number `first` on led to the names at hand, all of which are as
 * they were, and to nothing else: the next time the names are all there is to look at. */
static void note_calm(struct mch_wants *wants, size_t first) {
  lua_State *L = wants->L;
  int calm = lua_gettop(L) + 1;
  lua_rawgeti(L, wants->baseline, MCH_BASELINE_CALM);
  for (; first <= wants->followed; first++) {
    lua_rawgeti(L, wants->slot + FOLLOWED, (lua_Integer)first);
    lua_pushvalue(L, wants->slot + LED_TO);
    if (lua_isnil(L, -1)) {
      lua_newtable(L);
      lua_replace(L, -2);
    }
    lua_rawset(L, calm);
  }
  lua_settop(L, calm - 1);
}

static void follow_all(struct mch_wants *wants) {
  lua_State *L = wants->L;
  size_t first = wants->followed + 1;
  if (wants->followed == wants->met)
    return;
  luaL_checkstack(L, 24, NULL);
  lua_pushnil(L);
  lua_replace(L, wants->slot + LED_TO);
  wants->names = 0;
  wants->calm = first == 1; /* else what this one leads to may have been met before */
  while (wants->followed < wants->met) {
    lua_rawgeti(L, wants->slot + FOLLOWED, (lua_Integer)++wants->followed);
    follow(wants);
    lua_pop(L, 1);
  }
  if (wants->calm)
    note_calm(wants, first);
  wants->calm = 0;
}

void mch_wants_follow(struct mch_wants *wants, int function) {
  if (wants->baseline == 0)
    return;
  lua_pushvalue(wants->L, function);
  meet_function(wants);
  follow_all(wants);
}

void mch_wants_names(struct mch_wants *wants, int env, int names, int is_whole) {
  if (wants->baseline == 0 && is_globals(wants->L, env))
    return;
  want_names(wants, env, names, is_whole ? AS_A_WHOLE : IN_PART);
  follow_all(wants);
}

void mch_wants_all(struct mch_wants *wants, int env) {
  lua_pushvalue(wants->L, env);
  lua_pushboolean(wants->L, 1);
  queue(wants);
}

/* Push the table of what is done for the target at this index. */
static void push_done(struct mch_wants *wants, int target) {
  lua_State *L = wants->L;
  int done = use_table(wants, DONE);
  lua_pushvalue(L, target);
  if (lua_rawget(L, done) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, target);
  lua_pushvalue(L, -2);
  lua_rawset(L, done);
}

int mch_wants_take(struct mch_wants *wants, size_t i) {
  lua_State *L = wants->L;
  int target = lua_gettop(L) + 1, name = target + 1, list;
  lua_rawgeti(L, wants->slot + QUEUE, (lua_Integer)i * 2 + 1);
  lua_rawgeti(L, wants->slot + QUEUE, (lua_Integer)i * 2 + 2);
  push_done(wants, target);
  lua_pushvalue(L, name);
  if (lua_rawget(L, -2) != LUA_TNIL) {
    lua_settop(L, target - 1);
    return 0;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, name);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  list = use_table(wants, DONE_LIST);
  i = wants->done++;
  lua_pushvalue(L, target);
  lua_rawseti(L, list, (lua_Integer)i * 2 + 1);
  lua_pushvalue(L, name);
  lua_rawseti(L, list, (lua_Integer)i * 2 + 2);
  lua_settop(L, name);
  return 1;
}

/* Names of modules, and fields in tables of their own, so that they are told from the names in
 * environments. */
void mch_wants_assigned(struct mch_wants *wants) {
  lua_State *L = wants->L;
  int top = lua_gettop(L), list = top + 1;
  lua_Integer i;
  if (wants->baseline == 0 ||
      lua_rawgeti(L, wants->baseline, MCH_BASELINE_ASSIGNED) != LUA_TTABLE) {
    lua_settop(L, top);
    return;
  }
  luaL_checkstack(L, 12, NULL);
  for (i = 1; lua_rawgeti(L, list, i) == LUA_TSTRING; i += 2) {
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, list + 1);
    if (lua_rawget(L, -2) == LUA_TTABLE) {
      lua_rawgeti(L, list, i + 1);
      queue(wants);
    }
    lua_settop(L, list);
  }
  lua_settop(L, top);
}

void mch_globals_differ(lua_State *L, int baseline, int name) {
  int top = lua_gettop(L);
  name = lua_absindex(L, name);
  lua_rawgeti(L, baseline, MCH_BASELINE_GLOBALS);
  lua_rawgeti(L, baseline, MCH_BASELINE_PRESENT);
  mark_changed(L, name, top + 1, top + 2);
  lua_settop(L, top);
}

void mch_wants_sent(struct mch_wants *wants, int name) {
  mark_changed(wants->L, name, wants->slot + VALUES, wants->slot + PRESENT);
}

void mch_wants_cut(struct mch_wants *wants, size_t queued, size_t done, size_t met) {
  lua_State *L = wants->L;
  wants->queued = queued;
  for (; wants->met > met; wants->met--) {
    lua_rawgeti(L, wants->slot + FOLLOWED, (lua_Integer)wants->met);
    lua_pushnil(L);
    lua_rawset(L, wants->slot + FOLLOWED);
  }
  wants->followed = wants->met;
  while (wants->done > done) {
    lua_Integer i = (lua_Integer)--wants->done * 2;
    int top = lua_gettop(L);
    lua_rawgeti(L, wants->slot + DONE_LIST, i + 1);
    push_done(wants, top + 1);
    lua_rawgeti(L, wants->slot + DONE_LIST, i + 2);
    lua_pushnil(L);
    lua_rawset(L, top + 2);
    lua_settop(L, top);
  }
}
