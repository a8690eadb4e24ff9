/* Runs in: child. Purpose: mch_work() in job.h. */
#define _POSIX_C_SOURCE 200809L

#include "bindings/commands/csv.h"
#include "bindings/commands/job.h"

#include <errno.h>
#include <string.h>

#include "runtime/base/platform.h"

/* Of CSV: where an attempt has them on its stack; nil: none. */
enum { NAMES = 2, COLUMNS = 3 };

/* An item that is being done. */
struct turn {
  struct mch_job *job;
  const char *item; /* with what ends it */
  size_t length;
  size_t bare; /* without what ends it */
  lua_Integer number;
  struct mch_record *record;
  size_t column; /* of bad input */
};

/* --- what an item is ---------------------------------------------------------------------------
 */

static size_t bare_length(enum mch_input_format format, const char *item, size_t length) {
  char last = format == MCH_INPUT_NUL ? '\0' : '\n';
  if (length > 0 && item[length - 1] == last)
    length--;
  if (format == MCH_INPUT_CSV && length > 0 && item[length - 1] == '\r')
    length--;
  return length;
}

/* Leave the message of bad input on the stack, and tell what was bad. */
static int refuse_item(lua_State *L, struct turn *turn, const char *message) {
  turn->record->kind = MCH_RECORD_BAD;
  lua_pushfstring(L, "column %I: %s", (lua_Integer)turn->column, message);
  return lua_error(L);
}

static void check_width(lua_State *L, struct turn *turn, lua_Unsigned wanted) {
  lua_Unsigned count = lua_rawlen(L, -1);
  if (count == wanted)
    return;
  turn->column = 1;
  lua_pushfstring(L, "there are %I fields here and %I names in the header", (lua_Integer)count,
                  (lua_Integer)wanted);
  refuse_item(L, turn, lua_tostring(L, -1));
}

/* The list on top becomes a table by the header's names. */
static void name_fields(lua_State *L, struct turn *turn) {
  int list = lua_gettop(L);
  lua_Unsigned count = lua_rawlen(L, NAMES);
  check_width(L, turn, count);
  lua_createtable(L, 0, (int)count);
  for (lua_Unsigned i = 1; i <= count; i++) {
    lua_rawgeti(L, NAMES, (lua_Integer)i);
    lua_rawgeti(L, list, (lua_Integer)i);
    lua_rawset(L, -3);
  }
  lua_remove(L, list);
}

static void push_item(lua_State *L, struct turn *turn) {
  const char *message = "";
  switch (turn->job->in) {
  case MCH_INPUT_JSONL:
    if (!mch_json_read(L, turn->job->reader, turn->item, turn->length, &turn->column, &message))
      refuse_item(L, turn, message);
    break;
  case MCH_INPUT_CSV:
    if (!mch_csv_read(L, turn->item, turn->length, &turn->column, &message))
      refuse_item(L, turn, message);
    if (lua_istable(L, NAMES))
      name_fields(L, turn);
    else {
      mch_json_push_list_metatable(L);
      lua_setmetatable(L, -2);
    }
    break;
  default:
    lua_pushlstring(L, turn->item, turn->bare);
  }
}

/* --- what is printed ---------------------------------------------------------------------------
 */

/* A value as text: strings as they are, numbers exact, all else as JSON. */
static void write_text(lua_State *L, int index, struct mch_text *text) {
  size_t length;
  const char *bytes;
  if (lua_type(L, index) == LUA_TSTRING) {
    bytes = lua_tolstring(L, index, &length);
    mch_text_add(L, text, bytes, length);
  } else if (lua_type(L, index) == LUA_TNUMBER)
    mch_json_write_number(L, index, text, 0);
  else
    mch_json_write(L, index, text);
}

static void write_cell(lua_State *L, int index, struct mch_job *job, struct mch_text *row) {
  job->scratch.length = 0;
  if (!lua_isnil(L, index) && !mch_json_is_null(L, index))
    write_text(L, index, &job->scratch);
  mch_csv_write(L, job->scratch.bytes, job->scratch.length, row);
}

static void end_row(lua_State *L, struct mch_job *job, size_t begin) {
  struct mch_text *row = &job->result;
  /* A row of one empty cell would be an empty line, which is none. */
  if (row->length == begin)
    mch_text_add(L, row, "\"\"", 2);
  if (job->ends_crlf)
    mch_text_add_char(L, row, '\r');
  mch_text_add_char(L, row, '\n');
}

/* Each key of the result must be a column, or it would be lost. */
static void check_columns(lua_State *L, int index) {
  int known;
  lua_getfield(L, COLUMNS, "of");
  known = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, known) == LUA_TNIL) {
      lua_pop(L, 1);
      luaL_tolstring(L, -1, NULL);
      luaL_error(L, "column '%s' is not in the header, which the first line has made",
                 lua_tostring(L, -1));
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void write_named_row(lua_State *L, int index, struct turn *turn) {
  struct mch_text *row = &turn->job->result;
  lua_Unsigned count = lua_rawlen(L, COLUMNS);
  check_columns(L, index);
  for (lua_Unsigned i = 1; i <= count; i++) {
    if (i > 1)
      mch_text_add_char(L, row, ',');
    lua_rawgeti(L, COLUMNS, (lua_Integer)i);
    lua_rawget(L, index);
    write_cell(L, lua_gettop(L), turn->job, row);
    lua_pop(L, 1);
  }
}

static void write_listed_row(lua_State *L, int index, struct turn *turn) {
  struct mch_text *row = &turn->job->result;
  lua_Unsigned count = lua_rawlen(L, index);
  for (lua_Unsigned i = 1; i <= count; i++) {
    if (i > 1)
      mch_text_add_char(L, row, ',');
    lua_rawgeti(L, index, (lua_Integer)i);
    write_cell(L, lua_gettop(L), turn->job, row);
    lua_pop(L, 1);
  }
}

static int has_names(lua_State *L, int index) {
  int has;
  lua_pushnil(L);
  if (!lua_next(L, index))
    return 0;
  has = lua_type(L, -2) == LUA_TSTRING;
  lua_pop(L, 2);
  return has;
}

/* The keys of the result that are no columns yet, in the order of their names. */
static void add_new_columns(lua_State *L, int index, int columns, int of) {
  int first = (int)lua_rawlen(L, columns) + 1;
  lua_Integer count = first - 1;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, of) == LUA_TNIL && lua_type(L, -2) == LUA_TSTRING) {
      lua_Integer at = ++count;
      /* Insert it where it belongs. */
      for (; at > first; at--) {
        lua_rawgeti(L, columns, at - 1);
        if (lua_compare(L, -1, -3, LUA_OPLT)) {
          lua_pop(L, 1);
          break;
        }
        lua_rawseti(L, columns, at);
      }
      lua_pushvalue(L, -2);
      lua_rawseti(L, columns, at);
    }
    lua_pop(L, 1);
  }
}

/* The first line has made the columns: those of the input in order, then new ones by name. They
 * are printed before it. */
static void make_columns(lua_State *L, int index, struct turn *turn) {
  struct mch_text *row = &turn->job->result;
  lua_Unsigned count = lua_istable(L, NAMES) ? lua_rawlen(L, NAMES) : 0;
  int columns, of;
  lua_createtable(L, (int)count, 1);
  columns = lua_gettop(L);
  lua_newtable(L);
  of = lua_gettop(L);
  for (lua_Unsigned i = 1; i <= count; i++) {
    lua_rawgeti(L, NAMES, (lua_Integer)i);
    lua_pushvalue(L, -1);
    lua_rawseti(L, columns, (lua_Integer)i);
    lua_pushboolean(L, 1);
    lua_rawset(L, of);
  }
  add_new_columns(L, index, columns, of);
  count = lua_rawlen(L, columns);
  for (lua_Unsigned i = 1; i <= count; i++) {
    lua_rawgeti(L, columns, (lua_Integer)i);
    lua_pushboolean(L, 1);
    lua_rawset(L, of);
  }
  lua_setfield(L, columns, "of");
  write_listed_row(L, columns, turn);
  end_row(L, turn->job, 0);
  turn->record->header = (uint32_t)row->length;
  lua_replace(L, COLUMNS);
}

/* Whether this line of CSV is a table by names. */
static int is_named(lua_State *L, int index) {
  return lua_istable(L, index) &&
         (has_names(L, index) || (lua_rawlen(L, index) == 0 && lua_istable(L, NAMES)));
}

static void write_row(lua_State *L, int index, struct turn *turn) {
  struct mch_job *job = turn->job;
  int named = is_named(L, index);
  size_t begin;
  if (lua_isboolean(L, COLUMNS) && named)
    make_columns(L, index, turn);
  else if (lua_isboolean(L, COLUMNS)) {
    lua_pushnil(L);
    lua_replace(L, COLUMNS);
  }
  begin = job->result.length;
  if (named != lua_istable(L, COLUMNS))
    luaL_error(L, named ? "the first line was no table by names, so that there is no header for "
                          "the names of this one"
                        : "this is no table by names, which the header asks for");
  if (named)
    write_named_row(L, index, turn);
  else if (lua_istable(L, index))
    write_listed_row(L, index, turn);
  else
    write_cell(L, index, job, &job->result);
  end_row(L, job, begin);
}

static void write_result(lua_State *L, int index, struct turn *turn) {
  struct mch_text *text = &turn->job->result;
  switch (turn->job->out) {
  case MCH_INPUT_JSONL:
    mch_json_write(L, index, text);
    mch_text_add_char(L, text, '\n');
    break;
  case MCH_INPUT_CSV:
    write_row(L, index, turn);
    break;
  default:
    write_text(L, index, text);
    mch_text_add_char(L, text, turn->job->out == MCH_INPUT_NUL ? '\0' : '\n');
  }
}

/* Put the item before each of the lines that begin at `begin`, and complete the last one. */
static void tag_lines(lua_State *L, struct turn *turn, size_t begin, char last) {
  struct mch_text *text = &turn->job->result;
  struct mch_text *lines = &turn->job->scratch;
  const char *at, *end;
  lines->length = 0;
  mch_text_add(L, lines, text->bytes + begin, text->length - begin);
  text->length = begin;
  at = lines->bytes;
  end = at + lines->length;
  while (at < end) {
    const char *stop = memchr(at, last, (size_t)(end - at));
    mch_text_add(L, text, turn->item, turn->bare);
    mch_text_add_char(L, text, '\t');
    mch_text_add(L, text, at, (size_t)((stop != NULL ? stop : end) - at));
    mch_text_add_char(L, text, last);
    at = stop != NULL ? stop + 1 : end;
  }
}

/* --- map and filter ----------------------------------------------------------------------------
 */

static void map_item(lua_State *L) {
  struct turn *turn = lua_touserdata(L, 1);
  int count, first;
  mch_job_push(L);
  lua_getiuservalue(L, -1, MCH_JOB_FUNCTION);
  lua_remove(L, -2);
  first = lua_gettop(L);
  push_item(L, turn);
  lua_pushinteger(L, turn->number);
  lua_call(L, 2, LUA_MULTRET);
  count = lua_gettop(L) - first + 1;
  luaL_checkstack(L, 16, NULL);
  if (count == 0 || (count == 1 && lua_isnil(L, first)))
    return;
  for (int i = 0; i < count; i++)
    write_result(L, first + i, turn);
}

/* The item's own bytes, which get another end where another one is asked for, or theirs is
 * missing. */
static void print_item(lua_State *L, struct turn *turn) {
  struct mch_text *text = &turn->job->result;
  char last = turn->job->out == MCH_INPUT_NUL ? '\0' : '\n';
  if (turn->length > 0 && turn->item[turn->length - 1] == last) {
    mch_text_add(L, text, turn->item, turn->length);
    return;
  }
  mch_text_add(L, text, turn->item, turn->bare);
  if (turn->job->out == MCH_INPUT_CSV && turn->job->ends_crlf)
    mch_text_add_char(L, text, '\r');
  mch_text_add_char(L, text, last);
}

static void filter_item(lua_State *L) {
  struct turn *turn = lua_touserdata(L, 1);
  mch_job_push(L);
  lua_getiuservalue(L, -1, MCH_JOB_FUNCTION);
  push_item(L, turn);
  lua_pushinteger(L, turn->number);
  lua_call(L, 2, 1);
  if (lua_toboolean(L, -1) && !mch_json_is_null(L, -1))
    print_item(L, turn);
}

/* --- run ---------------------------------------------------------------------------------------
 */

/* As one word: in single quotes, in which only a single quote is special. */
static void add_word(lua_State *L, const char *bytes, size_t length, struct mch_text *text) {
  const char *end = bytes + length;
  if (memchr(bytes, '\0', length) != NULL)
    luaL_error(L, "the item has a NUL in it, which no word of a command can have");
  mch_text_add_char(L, text, '\'');
  while (bytes < end) {
    const char *quote = memchr(bytes, '\'', (size_t)(end - bytes));
    mch_text_add(L, text, bytes, (size_t)((quote != NULL ? quote : end) - bytes));
    if (quote == NULL)
      break;
    mch_text_add(L, text, "'\\''", 4);
    bytes = quote + 1;
  }
  mch_text_add_char(L, text, '\'');
}

/* A string of JSON stands for its bytes, everything else of JSON for its text. */
static void add_item(lua_State *L, struct turn *turn, struct mch_text *text) {
  const char *bytes = turn->item;
  size_t length = turn->bare;
  if (turn->job->in == MCH_INPUT_JSONL || turn->job->in == MCH_INPUT_CSV)
    push_item(L, turn);
  if (turn->job->in == MCH_INPUT_JSONL && lua_type(L, -1) == LUA_TSTRING)
    bytes = lua_tolstring(L, -1, &length);
  add_word(L, bytes, length, text);
}

/* The command from its pieces: strings, 1 for the item, 2 for its number. */
static void make_command(lua_State *L, struct turn *turn, struct mch_text *text) {
  int pieces;
  text->length = 0;
  mch_job_push(L);
  lua_getiuservalue(L, -1, MCH_JOB_FUNCTION);
  pieces = lua_gettop(L);
  for (lua_Integer i = 1; lua_rawgeti(L, pieces, i) != LUA_TNIL; i++) {
    size_t length;
    const char *bytes;
    if (lua_type(L, -1) == LUA_TNUMBER && lua_tointeger(L, -1) == 1)
      add_item(L, turn, text);
    else {
      if (lua_type(L, -1) == LUA_TNUMBER)
        lua_pushinteger(L, turn->number);
      bytes = lua_tolstring(L, -1, &length);
      mch_text_add(L, text, bytes, length);
    }
    lua_settop(L, pieces);
  }
  mch_text_add_char(L, text, '\0');
}

int mch_work_command(lua_State *L) {
  struct mch_record record;
  struct turn turn;
  memset(&turn, 0, sizeof turn);
  memset(&record, 0, sizeof record);
  turn.job = mch_job_get(L);
  turn.record = &record;
  turn.item = luaL_checklstring(L, 1, &turn.length);
  turn.number = luaL_checkinteger(L, 2);
  turn.bare = bare_length(turn.job->in, turn.item, turn.length);
  lua_settop(L, 1);
  lua_settop(L, COLUMNS);
  make_command(L, &turn, &turn.job->scratch);
  lua_pushlstring(L, turn.job->scratch.bytes, turn.job->scratch.length - 1);
  return 1;
}

static void add_output(lua_State *L, struct turn *turn, int which) {
  struct mch_job *job = turn->job;
  size_t size = 0, begin = job->result.length;
  int problem = mch_spawn_size(&job->command, which, &size);
  if (problem == 0 && size > 0)
    problem = mch_spawn_get(&job->command, which, mch_text_room(L, &job->result, size), size);
  if (problem != 0)
    luaL_error(L, "what the command said cannot be read: %s", strerror(problem));
  job->result.length += size;
  if (size > UINT32_MAX / 4)
    luaL_error(L, "the command said more than 1 GiB");
  if (job->tags)
    tag_lines(L, turn, begin, '\n');
}

/* A stop raises its error between two waits, as this is a function of Lua that begins anew. */
static int wait_once(lua_State *L) {
  struct mch_job *job = lua_touserdata(L, lua_upvalueindex(1));
  int problem = mch_spawn_wait(&job->command);
  if (problem != 0 && problem != EINTR)
    luaL_error(L, "the command's end cannot be known: %s", strerror(problem));
  lua_pushboolean(L, problem == 0);
  return 1;
}

static void wait_for_command(lua_State *L, struct mch_job *job) {
  int has_ended = 0;
  while (!has_ended) {
    lua_pushlightuserdata(L, job);
    lua_pushcclosure(L, wait_once, 1);
    lua_call(L, 0, 1);
    has_ended = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
}

static void run_item(lua_State *L) {
  struct turn *turn = lua_touserdata(L, 1);
  struct mch_job *job = turn->job;
  int problem;
  make_command(L, turn, &job->scratch);
  problem = mch_spawn_start(&job->command, job->scratch.bytes);
  if (problem != 0)
    luaL_error(L, "the command cannot be started: %s", strerror(problem));
  wait_for_command(L, job);
  turn->record->exitcode = job->command.exitcode;
  turn->record->signal = job->command.signal;
  add_output(L, turn, 1);
  turn->record->printed = (uint32_t)job->result.length;
  add_output(L, turn, 2);
  mch_spawn_drop(&job->command);
  if (job->command.signal != 0)
    luaL_error(L, "the command was ended by signal %d", job->command.signal);
  if (job->command.exitcode != 0)
    luaL_error(L, "the command ended with status %d", job->command.exitcode);
}

/* --- the batch ---------------------------------------------------------------------------------
 */

static void push_columns(lua_State *L, const struct mch_job *job) {
  if (job->in != MCH_INPUT_CSV && job->out != MCH_INPUT_CSV)
    return;
  mch_job_push(L);
  lua_getiuservalue(L, 2, MCH_JOB_NAMES);
  lua_getiuservalue(L, 2, MCH_JOB_COLUMNS);
  lua_remove(L, 2);
}

static int attempt_item(lua_State *L) {
  struct turn *turn = lua_touserdata(L, 1);
  push_columns(L, turn->job);
  switch (turn->job->verb) {
  case MCH_VERB_MAP:
    map_item(L);
    break;
  case MCH_VERB_FILTER:
    filter_item(L);
    break;
  case MCH_VERB_RUN:
    run_item(L);
    return 0;
  }
  if (turn->job->tags)
    tag_lines(L, turn, turn->record->header, turn->job->out == MCH_INPUT_NUL ? '\0' : '\n');
  if (turn->job->result.length > UINT32_MAX)
    return luaL_error(L, "the result has more than 4 GiB");
  turn->record->printed = turn->record->lines = (uint32_t)turn->job->result.length;
  return 0;
}

/* The error value on top becomes the record's message. What map or filter would have printed is
 * not there then; a command has said what it has said. */
static void keep_message(lua_State *L, struct turn *turn) {
  struct mch_text *text = &turn->job->result;
  size_t length;
  const char *message = luaL_tolstring(L, -1, &length);
  if (turn->record->kind == MCH_RECORD_OK)
    turn->record->kind = MCH_RECORD_FAILED;
  turn->record->message = (uint32_t)length;
  mch_text_add(L, text, message, length);
  lua_pop(L, 2);
}

/* Put what was said on stream `which` to where `at` is in the result. */
static size_t insert_captured(lua_State *L, struct mch_job *job, int which, size_t at) {
  struct mch_text *text = &job->result;
  size_t size = 0;
  char *to;
  if (mch_capture_size(&job->capture, which, &size) != 0 || size == 0 || size > UINT32_MAX / 4)
    return 0;
  mch_text_room(L, text, size);
  to = text->bytes + at;
  memmove(to + size, to, text->length - at);
  if (mch_capture_get(&job->capture, which, to, size) != 0)
    memset(to, '?', size);
  text->length += size;
  return size;
}

static void end_capture(lua_State *L, struct turn *turn) {
  struct mch_job *job = turn->job;
  mch_capture_end(&job->capture);
  turn->record->printed += (uint32_t)insert_captured(L, job, 1, turn->record->header);
  insert_captured(L, job, 2, job->result.length);
  mch_capture_drop(&job->capture);
}

static void do_attempt(lua_State *L, struct turn *turn) {
  struct mch_record *record = turn->record;
  struct mch_job *job = turn->job;
  int captures = job->keeps && mch_capture_begin(&job->capture) == 0;
  int status;
  record->kind = MCH_RECORD_OK;
  record->printed = record->lines = record->message = record->header = 0;
  record->exitcode = record->signal = 0;
  job->result.length = 0;
  lua_pushcfunction(L, attempt_item);
  lua_pushlightuserdata(L, turn);
  status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK) {
    mch_spawn_drop(&job->command);
    if (job->verb != MCH_VERB_RUN || record->kind == MCH_RECORD_BAD)
      job->result.length = record->printed = record->lines = record->header = 0;
  }
  if (captures)
    end_capture(L, turn);
  if (status != LUA_OK)
    keep_message(L, turn);
  record->length = (uint32_t)job->result.length;
}

/* All attempts of an item. 0: it was stopped, or was not counted for another reason. */
static int do_item(lua_State *L, struct mch_tray *tray, struct turn *turn, int attempts_before) {
  struct mch_record *record = turn->record;
  int attempt = attempts_before;
  record->started = mch_now();
  do_attempt(L, turn);
  while (record->kind == MCH_RECORD_FAILED && attempt++ < turn->job->retries &&
         atomic_load(&turn->job->counter->halted) == 0) {
    record->started = mch_now();
    if (!mch_tray_retry(tray, record->started))
      return 0;
    do_attempt(L, turn);
  }
  record->ended = mch_now();
  return 1;
}

/* Step to the next item of the batch, over empty lines. */
static int next_item(struct turn *turn, const char **at, const char *end, uint32_t *line) {
  struct mch_job *job = turn->job;
  int passes_over = job->in == MCH_INPUT_JSONL || job->skips_blank;
  while (*at < end) {
    const char *stop = mch_input_item_end(job->in, *at, end);
    turn->item = *at;
    *at = stop != NULL ? stop : end;
    turn->length = (size_t)(*at - turn->item);
    turn->record->line = *line;
    ++*line;
    if (job->in == MCH_INPUT_CSV) {
      const char *inside = turn->item;
      while ((inside = memchr(inside, '\n', (size_t)(*at - inside))) != NULL && ++inside < *at)
        ++*line;
    }
    if (!passes_over || !mch_input_is_blank(turn->item, turn->length)) {
      turn->bare = bare_length(job->in, turn->item, turn->length);
      return 1;
    }
  }
  return 0;
}

/* Record what became of the item. 0: the batch ends here. Pushes a payload that has no room. */
static int record_item(lua_State *L, struct mch_tray *tray, struct turn *turn) {
  struct mch_record *record = turn->record;
  struct mch_job *job = turn->job;
  record->is_away = !mch_tray_has_room(tray, record->length);
  if (!mch_tray_finish(tray, record, job->result.bytes))
    return 0;
  mch_counter_add(job->counter, (uint64_t)turn->number,
                  record->kind == MCH_RECORD_FAILED ||
                      (record->kind == MCH_RECORD_BAD && !job->skips_bad));
  if (record->is_away)
    lua_pushlstring(L, job->result.bytes, record->length);
  return !record->is_away;
}

static void open_turn(lua_State *L, struct turn *turn, struct mch_record *record) {
  mch_job_push(L);
  lua_pushvalue(L, 4);
  lua_setiuservalue(L, -2, MCH_JOB_NAMES);
  lua_pushvalue(L, 5);
  lua_setiuservalue(L, -2, MCH_JOB_COLUMNS);
  lua_pop(L, 1);
  memset(turn, 0, sizeof *turn);
  memset(record, 0, sizeof *record);
  turn->job = mch_job_get(L);
  turn->record = record;
  turn->number = luaL_checkinteger(L, 2);
}

int mch_work(lua_State *L) {
  struct turn turn;
  struct mch_record record;
  struct mch_tray *tray;
  uint64_t began = mch_now();
  uint32_t line = 0;
  const char *items, *at, *end;
  size_t length;
  int attempts_before = (int)luaL_checkinteger(L, 3);
  int is_open = lua_isboolean(L, 5);
  lua_settop(L, 6);
  open_turn(L, &turn, &record);
  tray = mch_job_tray(L, turn.job, 1);
  items = lua_tolstring(L, 6, &length);
  at = items != NULL ? items : tray->items;
  end = at + (items != NULL ? length : tray->length);
  items = at;
  record.ended = began;
  while (next_item(&turn, &at, end, &line) &&
         !mch_counter_is_halted(turn.job->counter, (uint64_t)turn.number) &&
         mch_tray_begin(tray, record.ended)) {
    record.at = (uint64_t)(turn.item - items);
    record.size = turn.length;
    if (!do_item(L, tray, &turn, attempts_before) || !record_item(L, tray, &turn))
      break;
    if (is_open && record.lines > 0)
      break;
    attempts_before = 0;
    turn.number++;
  }
  lua_pushnumber(L, (lua_Number)(mch_now() - began) / 1e9);
  lua_insert(L, 7);
  return lua_gettop(L) - 6;
}
