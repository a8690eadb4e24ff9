/* Runs in: parent.
 *
 * Looking for a call in the journal: its key, what is there under it, and else the record that goes
 * with its task. Purpose: journal.h. */
#include "journal.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "key.h"
#include "bindings/values/graph.h"
#include "bindings/values/modules.h"
#include "bindings/values/number.h"
#include "runtime/base/platform.h"
#include "runtime/engines/task.h"

/* A call while it is looked for. Stack indices; 0: there is none. */
struct call {
  struct journal *journal;
  const struct mch_asked *asked;
  int keyer, name, version, key, inputs, outputs, walk;
  int arguments; /* so many */
  int hooked;    /* what hooks have returned, if any was called */
  char *why;     /* why it runs although it was there, in memory of its own; or NULL */
  struct mch_keyed keyed;
  unsigned char hash[MCH_HASH_SIZE];
};

/* -- options ------------------------------------------------------------------------------ */

/* Push an option that may be there; its index, or 0. */
static int option(lua_State *L, const struct call *call, const char *name) {
  if (call->asked->options == 0)
    return 0;
  lua_pushstring(L, name);
  if (lua_rawget(L, call->asked->options) != LUA_TNIL)
    return lua_gettop(L);
  lua_pop(L, 1);
  return 0;
}

static void read_options(lua_State *L, struct call *call) {
  call->name = option(L, call, "name");
  call->version = option(L, call, "version");
  call->key = option(L, call, "key");
  call->inputs = option(L, call, "inputs");
  call->outputs = option(L, call, "outputs");
  call->walk = option(L, call, "walk");
}

/* Push a keyer that knows the files of this journal. */
static void push_new_keyer(lua_State *L, struct journal *journal) {
  mch_keyer_push(L);
  mch_files_set_memory(
      mch_keyer_files(L, lua_gettop(L)),
      &(struct mch_files_memory){mch_journal_find_file, mch_journal_keep_file, journal});
}

/* Push the keyer of single calls. */
static int push_keyer(lua_State *L, struct journal *journal) {
  if (journal->keyer == LUA_NOREF) {
    push_new_keyer(L, journal);
    journal->keyer = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, journal->keyer);
  return lua_gettop(L);
}

/* -- where the function is from ------------------------------------------------------------- */

/* Push it as text, "<file:line>"; of what is no Lua function a word. */
static void push_place(lua_State *L, int function) {
  lua_Debug info;
  lua_pushvalue(L, function);
  if (!lua_isfunction(L, -1) && luaL_getmetafield(L, -1, "__call") != LUA_TNIL)
    lua_remove(L, -2);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "<callable table>");
    return;
  }
  if (lua_iscfunction(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "<C function>");
    return;
  }
  lua_getinfo(L, ">S", &info);
  lua_pushfstring(L, "<%s:%d>", info.short_src, info.linedefined);
}

/* -- what cannot be keyed ------------------------------------------------------------------- */

/* Pop why, and have it told once a function. */
static void tell_unkeyed(lua_State *L, struct journal *journal, int function) {
  int why = lua_gettop(L);
  push_place(L, function);
  lua_pushfstring(L, "the task of function %s is not recorded: it cannot be keyed: %s",
                  lua_tostring(L, -1), lua_tostring(L, why));
  lua_rawgeti(L, LUA_REGISTRYINDEX, journal->told);
  lua_pushvalue(L, why + 1);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    mch_journal_complain(journal, 0, "%s", lua_tostring(L, why + 2));
    lua_pushvalue(L, why + 1);
    lua_pushboolean(L, 1);
    lua_rawset(L, why + 3);
  }
  lua_settop(L, why - 1);
}

/* -- the key ------------------------------------------------------------------------------ */

enum { WALK_KEYER = 1, WALK_FAILED = 2 };

static int begin(lua_State *L, struct call *call) {
  const struct mch_key_call key = {call->asked->function, call->asked->init, call->name,
                                   call->version};
  return mch_keyer_begin(L, call->keyer, &key);
}

/* The items of a map have one walk: its keyer is in the table `walk`, or false if the function
 * cannot be keyed. */
static int begin_walk(lua_State *L, struct call *call) {
  int type = lua_rawgeti(L, call->walk, WALK_KEYER);
  if (type == LUA_TBOOLEAN)
    return 0;
  if (type != LUA_TNIL) {
    call->keyer = lua_gettop(L);
    mch_keyer_set_hooked(L, call->keyer, 0); /* but for what each item has for itself */
    return 1;
  }
  push_new_keyer(L, call->journal);
  call->keyer = lua_gettop(L);
  if (!begin(L, call)) {
    tell_unkeyed(L, call->journal, call->asked->function);
    lua_pushboolean(L, 0);
    lua_rawseti(L, call->walk, WALK_KEYER);
    return 0;
  }
  if (call->asked->is_forked)
    mch_keyer_compare(L, call->keyer, call->asked->baseline, 0);
  lua_pushvalue(L, call->keyer);
  lua_rawseti(L, call->walk, WALK_KEYER);
  return 1;
}

/* In a task counting begins anew: the key of the task counts already. What was counted outside
 * stays, for a task may run in this process. */
static uint64_t occurrence(struct journal *journal, const struct call *call) {
  if (call->asked->task == 0)
    return mch_counts_next(&journal->counts, call->keyed.base);
  if (call->asked->task != journal->task)
    mch_counts_clear(&journal->inner);
  journal->task = call->asked->task;
  return mch_counts_next(&journal->inner, call->keyed.base);
}

static void finish(lua_State *L, struct call *call) {
  struct journal *journal = call->journal;
  unsigned char outer[MCH_HASH_SIZE] = {0};
  struct mch_key_place place = {.seed = journal->seed_bytes, .key = call->key};
  mch_store_u64(outer, call->asked->outer);
  if (call->asked->outer != 0)
    place.outer = outer;
  if (call->key == 0)
    place.occurrence = occurrence(journal, call);
  mch_key_finish(L, &call->keyed, &place, call->hash);
}

/* What the call is, wherever it comes from: `keyed`. */
static int make_base(lua_State *L, struct call *call) {
  struct mch_key_task task = {call->asked->function + 1, call->arguments, call->inputs,
                              call->outputs};
  if (call->walk != 0) {
    if (!begin_walk(L, call))
      return 0;
  } else {
    call->keyer = push_keyer(L, call->journal);
    mch_keyer_set_hooked(L, call->keyer, call->asked->hooked);
    if (!begin(L, call)) {
      tell_unkeyed(L, call->journal, call->asked->function);
      mch_keyer_end(L, call->keyer);
      return 0;
    }
  }
  if (!mch_keyer_task(L, call->keyer, &task, &call->keyed)) {
    tell_unkeyed(L, call->journal, call->asked->function);
    if (call->walk == 0)
      mch_keyer_end(L, call->keyer);
    return 0;
  }
  return 1;
}

static int make_key(lua_State *L, struct call *call) {
  if (!make_base(L, call))
    return 0;
  finish(L, call);
  return 1;
}

/* -- what was found ----------------------------------------------------------------------- */

static char *text_of(const char *format, const char *path) {
  size_t room = strlen(format) + strlen(path) + 1;
  char *text = malloc(room);
  if (text != NULL)
    snprintf(text, room, format, path);
  return text;
}

/* Whether the outputs of a found task are as they were. */
static int outputs_are_there(lua_State *L, struct call *call, const struct mch_stored *stored) {
  struct mch_files *files = mch_keyer_files(L, call->keyer);
  size_t at = 0;
  while (at + 4 <= stored->outputs_length) {
    size_t length = mch_load_u32(stored->outputs + at);
    unsigned char hash[MCH_HASH_SIZE];
    struct mch_error error;
    char *path;
    int there;
    if (length > stored->outputs_length - at - 4 ||
        stored->outputs_length - at - 4 - length < MCH_HASH_SIZE)
      return 0;
    path = strndup((const char *)stored->outputs + at + 4, length);
    if (path == NULL)
      return 0;
    there = mch_files_hash(files, path, hash, &error) == 1;
    if (!there || memcmp(hash, stored->outputs + at + 4 + length, MCH_HASH_SIZE) != 0) {
      call->why = text_of(there ? "output %s was changed" : "output %s is gone", path);
      free(path);
      return 0;
    }
    free(path);
    at += 4 + length + MCH_HASH_SIZE;
  }
  return 1;
}

/* Called with bytes and their number: whether values can be made of them. */
static int try_values(lua_State *L) {
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = lua_touserdata(L, 1);
  decoder.len = (size_t)lua_tointeger(L, 2);
  decoder.allow_code = 1;
  decoder.kind = MCH_SEND_RESULT;
  lua_newtable(L);
  decoder.own = lua_gettop(L);
  mch_decode(L, &decoder);
  return 0;
}

/* Bytes that may begin what needs more than memory to be rebuilt. */
static int may_fail(const unsigned char *bytes, size_t length) {
  size_t i;
  for (i = 0; i < length; i++) {
    unsigned tag = bytes[i] & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META);
    if (tag >= MCH_TAG_FUNCTION && tag <= MCH_TAG_ENV)
      return 1;
  }
  return 0;
}

static int can_be_rebuilt(lua_State *L, const struct mch_stored *stored) {
  int fine;
  if (stored->length == 0 || stored->memory[0] != MCH_GRAPH_VERSION ||
      !may_fail(stored->memory, stored->length))
    return 1;
  lua_pushcfunction(L, try_values);
  lua_pushlightuserdata(L, stored->memory);
  lua_pushinteger(L, (lua_Integer)stored->length);
  fine = lua_pcall(L, 2, 0, 0) == LUA_OK;
  if (!fine)
    lua_pop(L, 1);
  return fine;
}

void mch_journal_tell_damaged(struct journal *journal) {
  if (journal->damaged_told)
    return;
  journal->damaged_told = 1;
  mch_journal_complain(journal, 0,
                       "the journal %.300s has values that are missing, damaged or cannot be "
                       "rebuilt; their tasks run again",
                       journal->path);
}

/* Push a table of the classes that the value names, by the ids that it has for them: those of this
 * script that have their numbers in the key's walk. 0: there are none. */
static int push_classes(lua_State *L, const struct call *call, const struct mch_stored *stored) {
  const unsigned char *at = stored->classes, *end = at + stored->classes_length;
  uint64_t id;
  int walked = lua_gettop(L) + 1;
  if (stored->classes == NULL || !mch_keyer_push_walked(L, call->keyer))
    return 0;
  lua_newtable(L);
  while (mch_number_load_varint(&at, end, &id) == NULL && end - at >= 8 && id <= LUA_MAXINTEGER) {
    lua_rawgeti(L, walked, (lua_Integer)mch_load_u64(at));
    if (lua_istable(L, -1))
      lua_rawseti(L, walked + 1, (lua_Integer)id);
    else
      lua_pop(L, 1);
    at += 8;
  }
  lua_remove(L, walked);
  return 1;
}

void mch_journal_encoded(lua_State *L, struct mch_journal *head, int baseline,
                         struct mch_record *record) {
  struct journal *journal = (struct journal *)head;
  struct mch_buf *classes = &((struct record *)record)->classes;
  int top = lua_gettop(L);
  if (journal->walked == LUA_NOREF)
    return;
  luaL_checkstack(L, 8, NULL);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_rawgeti(L, LUA_REGISTRYINDEX, journal->walked);
  luaL_unref(L, LUA_REGISTRYINDEX, journal->walked);
  journal->walked = LUA_NOREF;
  lua_pushnil(L);
  while (lua_next(L, top + 2)) {
    if (lua_istable(L, -1) && lua_rawget(L, top + 1) == LUA_TNUMBER) {
      unsigned char id[MCH_NUMBER_VARINT];
      mch_buf_append(classes, id, mch_number_store_varint(id, (uint64_t)lua_tointeger(L, top + 4)));
      mch_buf_u64(classes, (uint64_t)lua_tointeger(L, top + 3));
    }
    lua_settop(L, top + 3);
  }
  lua_settop(L, top);
}

/* Found things go to `told`, which has no more memory of its own than one block. 0 or -1. */
static int hand_over(struct mch_stored *stored, struct mch_reply *told) {
  struct mch_emitted_again *list = NULL;
  size_t i;
  if (stored->count > 0) {
    size_t size = stored->count * sizeof *list, total = 0;
    unsigned char *bytes;
    for (i = 0; i < stored->count; i++)
      total += stored->emitted[i].length;
    list = malloc(size + total);
    if (list == NULL)
      return -1;
    bytes = (unsigned char *)list + size;
    for (i = 0; i < stored->count; i++) {
      const struct mch_stored_emitted *emitted = &stored->emitted[i];
      list[i] = (struct mch_emitted_again){emitted->attempt, bytes, emitted->length};
      memcpy(bytes, stored->memory + emitted->at, emitted->length);
      bytes += emitted->length;
    }
  }
  told->found.result =
      mch_result_adopt(MCH_KIND_OK, stored->memory, stored->memory, stored->length);
  stored->memory = NULL;
  if (told->found.result == NULL) {
    free(list);
    return -1;
  }
  told->memory = list;
  told->found.emitted = list;
  told->found.count = stored->count;
  return 0;
}

/* That this run has found a task. */
void mch_journal_note_use(struct journal *journal, int64_t id) {
  struct record *record;
  if (!journal->may_record || (record = mch_journal_new_record(journal, 1)) == NULL)
    return;
  record->used = id;
  mch_journal_gather(journal, record);
}

static int find(lua_State *L, struct call *call, struct mch_reply *told) {
  struct journal *journal = call->journal;
  struct mch_stored stored;
  enum mch_store_found found;
  int done = 0;
  if (!journal->is_open)
    return 0;
  found = mch_store_find(&journal->store, call->hash, &stored);
  if (found == MCH_STORE_DAMAGED || (found == MCH_STORE_FOUND && !can_be_rebuilt(L, &stored))) {
    call->why = strdup("its value is missing or damaged");
    mch_journal_tell_damaged(journal);
  } else if (found == MCH_STORE_FOUND && outputs_are_there(L, call, &stored))
    done = hand_over(&stored, told) == 0;
  if (done && push_classes(L, call, &stored))
    told->classes = luaL_ref(L, LUA_REGISTRYINDEX);
  if (done)
    mch_journal_note_use(journal, stored.id);
  if (found == MCH_STORE_FOUND)
    mch_stored_free(&stored);
  return done;
}

/* -- what was not ------------------------------------------------------------------------- */

/* Put the paths of a list of files behind what is in `data`. */
static size_t put_paths(lua_State *L, int list, struct watched *watched, struct record *record,
                        size_t at) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, list), i;
  for (i = 1; i <= count; i++) {
    size_t length;
    const char *path;
    lua_rawgeti(L, list, i);
    path = lua_tolstring(L, -1, &length);
    memcpy(record->data + at, path, length + 1);
    watched[i - 1].path = record->data + at;
    at += length + 1;
    lua_pop(L, 1);
  }
  return at;
}

static size_t size_of_paths(lua_State *L, int list) {
  lua_Integer count = list != 0 ? (lua_Integer)lua_rawlen(L, list) : 0, i;
  size_t size = 0;
  for (i = 1; i <= count; i++) {
    lua_rawgeti(L, list, i);
    size += (size_t)lua_rawlen(L, -1) + 1;
    lua_pop(L, 1);
  }
  return size;
}

/* The files of the call, its inputs with what they contained when the key was made. */
static int note_files(lua_State *L, struct call *call, struct record *record, size_t at) {
  size_t i;
  record->input_count = call->inputs != 0 ? (size_t)lua_rawlen(L, call->inputs) : 0;
  record->output_count = call->outputs != 0 ? (size_t)lua_rawlen(L, call->outputs) : 0;
  record->inputs = calloc(record->input_count + 1, sizeof *record->inputs);
  record->outputs = calloc(record->output_count + 1, sizeof *record->outputs);
  if (record->inputs == NULL || record->outputs == NULL)
    return -1;
  if (call->inputs != 0)
    at = put_paths(L, call->inputs, record->inputs, record, at);
  if (call->outputs != 0)
    put_paths(L, call->outputs, record->outputs, record, at);
  for (i = 0; i < record->input_count; i++)
    memcpy(record->inputs[i].hash, call->keyed.input_hashes + i * MCH_HASH_SIZE, MCH_HASH_SIZE);
  return 0;
}

/* Parts that many tasks share are held by all of them. 0, or -1: no memory. */
static int note_parts(struct journal *journal, const struct call *call, struct record *record) {
  const struct mch_keyed *keyed = &call->keyed;
  struct parts *parts = journal->parts;
  if (parts == NULL || memcmp(parts->hash, keyed->common_hash, MCH_HASH_SIZE) != 0) {
    parts = malloc(sizeof *parts + keyed->common_length);
    if (parts == NULL)
      return -1;
    atomic_init(&parts->holds, 1);
    memcpy(parts->hash, keyed->common_hash, MCH_HASH_SIZE);
    parts->length = keyed->common_length;
    if (keyed->common_length > 0)
      memcpy(parts->bytes, keyed->common, keyed->common_length);
    mch_journal_drop_parts(journal->parts);
    journal->parts = parts;
  }
  atomic_fetch_add(&parts->holds, 1);
  record->parts = parts;
  return 0;
}

/* What is needed to call it again, if that may be wanted; what cannot be kept is not. */
static void note_call(lua_State *L, struct call *call, struct record *record) {
  struct journal *journal = call->journal;
  struct mch_buf *buffer = &journal->call;
  const struct mch_call stored = {call->asked->function, call->arguments, call->asked->init,
                                  call->hooked};
  if (journal->keep == KEEP_NONE || !mch_call_store(L, &stored, buffer))
    return;
  record->call = malloc(mch_buf_unread(buffer) + 1);
  if (record->call == NULL)
    return;
  record->call_length = mch_buf_unread(buffer);
  memcpy(record->call, buffer->data + buffer->read, record->call_length);
  mch_buf_shrink(buffer, 65536);
}

/* The record of a task that is to run; NULL: no memory. */
static struct record *new_record(lua_State *L, struct call *call) {
  const struct mch_keyed *keyed = &call->keyed;
  struct record *record;
  const char *name = "", *place;
  size_t name_length = 0, place_length, at;
  if (call->name != 0)
    name = lua_tolstring(L, call->name, &name_length);
  push_place(L, call->asked->function);
  place = lua_tolstring(L, -1, &place_length);
  at = name_length + place_length + keyed->own_length + 2;
  record = mch_journal_new_record(call->journal, at + size_of_paths(L, call->inputs) +
                                                     size_of_paths(L, call->outputs) + 1);
  if (record != NULL) {
    memcpy(record->key, call->hash, MCH_HASH_SIZE);
    record->name_length = name_length;
    memcpy(record->data, name, name_length);
    record->data[name_length] = '\0';
    record->place = name_length + 1;
    record->place_length = place_length;
    memcpy(record->data + record->place, place, place_length + 1);
    record->own = record->place + place_length + 1;
    record->own_length = keyed->own_length;
    if (keyed->own_length > 0)
      memcpy(record->data + record->own, keyed->own, keyed->own_length);
    if (((call->inputs != 0 || call->outputs != 0) && note_files(L, call, record, at) != 0) ||
        note_parts(call->journal, call, record) != 0) {
      mch_journal_free_record(record);
      record = NULL;
    }
  }
  lua_pop(L, 1);
  return record;
}

int mch_journal_is_same(lua_State *L, struct mch_journal *head, const struct mch_asked *asked,
                        const unsigned char base[MCH_HASH_SIZE]) {
  struct call call;
  int same;
  memset(&call, 0, sizeof call);
  call.journal = (struct journal *)head;
  call.asked = asked;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  call.arguments = lua_gettop(L) - asked->function;
  read_options(L, &call);
  call.walk = 0;
  if (!make_base(L, &call))
    return 0;
  same = memcmp(call.keyed.base, base, MCH_HASH_SIZE) == 0;
  mch_keyer_end(L, call.keyer);
  return same;
}

void mch_journal_forking(lua_State *L, struct mch_journal *head, int baseline, int in_call) {
  struct journal *journal = (struct journal *)head;
  if (!journal->is_open && !journal->is_seeded)
    return;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  mch_keyer_forking(L, push_keyer(L, journal), baseline, in_call);
  lua_pop(L, 1);
}

void mch_journal_unsent(lua_State *L, struct mch_journal *head, int function, const char *what) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_pushfstring(L, "%s was changed since the workers were forked, and cannot be sent", what);
  tell_unkeyed(L, (struct journal *)head, function);
}

/* What hooks have returned is not to be asked for again by who encodes the call. */
static void keep_hooked(lua_State *L, struct call *call, struct mch_reply *told) {
  if (call->keyed.hooks == 0)
    return;
  mch_keyer_push_hooked(L, call->keyer);
  call->hooked = lua_gettop(L);
  lua_pushvalue(L, -1);
  told->hooked = luaL_ref(L, LUA_REGISTRYINDEX);
}

void mch_journal_ask(lua_State *L, struct mch_journal *head, const struct mch_asked *asked,
                     struct mch_reply *told) {
  struct call call;
  struct journal *journal = (struct journal *)head;
  if (!journal->is_open && !journal->is_seeded)
    return;
  luaL_unref(L, LUA_REGISTRYINDEX, journal->walked);
  journal->walked = LUA_NOREF;
  memset(&call, 0, sizeof call);
  call.journal = journal;
  call.asked = asked;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  call.arguments = lua_gettop(L) - asked->function;
  read_options(L, &call);
  if (asked->is_forked && asked->baseline == 0)
    mch_keyer_new_call(L);
  if (!make_key(L, &call))
    return;
  told->keyed = 1;
  told->stream = mch_load_u64(call.hash);
  memcpy(told->base, call.keyed.base, sizeof told->base);
  if (!find(L, &call, told) && journal->may_record) {
    struct record *record;
    if (asked->is_forked && call.walk == 0)
      mch_keyer_compare(L, call.keyer, asked->baseline, 0);
    if (asked->is_forked)
      mch_keyer_compare(L, call.keyer, asked->baseline, 1);
    record = new_record(L, &call);
    keep_hooked(L, &call, told);
    told->record = record != NULL ? &record->head : NULL;
    if (record != NULL) {
      if (mch_keyer_push_walked(L, call.keyer))
        journal->walked = luaL_ref(L, LUA_REGISTRYINDEX);
      note_call(L, &call, record);
      record->why = call.why;
      call.why = NULL;
    }
  }
  free(call.why);
  if (call.walk == 0)
    mch_keyer_end(L, call.keyer);
}
