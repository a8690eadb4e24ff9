/* Runs in: parent.
 *
 * What the Lua parts of map, filter and run (scripts/commands) are made of: the job, trays, input
 * and output. All that may take long waits in core.await(). */
#define _POSIX_C_SOURCE 200809L

#include "bindings/commands/commands.h"
#include "bindings/commands/csv.h"
#include "bindings/commands/job.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bindings/part.h"
#include "runtime/base/platform.h"

static const char job_key = 'j';

void mch_job_push(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &job_key) != LUA_TUSERDATA)
    luaL_error(L, "there is no job in this process");
}

struct mch_job *mch_job_get(lua_State *L) {
  struct mch_job *job;
  mch_job_push(L);
  job = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return job;
}

struct mch_tray *mch_job_tray(lua_State *L, struct mch_job *job, int arg) {
  lua_Integer number = luaL_checkinteger(L, arg);
  luaL_argcheck(L, number >= 1 && number <= (lua_Integer)job->tray_count, arg, "no such tray");
  return &job->trays[number - 1];
}

static struct mch_tray *tray_at(lua_State *L, int arg) {
  return mch_job_tray(L, mch_job_get(L), arg);
}

/* --- the job -----------------------------------------------------------------------------------
 */

static int free_job(lua_State *L) {
  struct mch_job *job = lua_touserdata(L, 1);
  mch_spawn_drop(&job->command);
  mch_capture_drop(&job->capture);
  mch_text_free(&job->result);
  mch_text_free(&job->scratch);
  mch_text_free(&job->output);
  if (job->shared > 0)
    mch_platform_unshare(job->counter, job->shared);
  job->shared = 0;
  job->tray_count = 0;
  return 0;
}

static struct mch_job *new_job(lua_State *L) {
  struct mch_job *job = lua_newuserdatauv(L, sizeof *job, MCH_JOB_VALUES);
  memset(job, 0, sizeof *job);
  mch_spawn_init(&job->command);
  for (int i = 0; i < 2; i++)
    job->capture.files[i] = job->capture.saved[i] = -1;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, free_job);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return job;
}

static int field_option(lua_State *L, const char *name, const char *const *words) {
  int value;
  lua_getfield(L, 1, name);
  value = luaL_checkoption(L, -1, NULL, words);
  lua_pop(L, 1);
  return value;
}

static lua_Number field_number(lua_State *L, const char *name) {
  lua_Number value;
  lua_getfield(L, 1, name);
  value = luaL_optnumber(L, -1, 0);
  lua_pop(L, 1);
  return value;
}

static int field_true(lua_State *L, const char *name) {
  int value;
  lua_getfield(L, 1, name);
  value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static void share_trays(lua_State *L, struct mch_job *job) {
  unsigned count = (unsigned)field_number(L, "trays");
  size_t head = (sizeof *job->counter + 63) & ~(size_t)63;
  size_t bytes = head + count * sizeof *job->trays;
  job->counter = mch_platform_share(bytes);
  if (job->counter == NULL)
    luaL_error(L, "not enough memory for %d batches", (int)count);
  job->shared = bytes;
  job->trays = (struct mch_tray *)(void *)((char *)job->counter + head);
  job->tray_count = count;
  job->counter->halt_count = (uint64_t)field_number(L, "halt_count");
  job->counter->halt_share = field_number(L, "halt_share");
  job->counter->halts_all = field_true(L, "halts_all");
}

/* setup(options, f): make the job; `f` is the function of map and filter, or the pieces of run. */
static int core_setup(lua_State *L) {
  static const char *const verbs[] = {"map", "filter", "run", NULL};
  static const char *const formats[] = {"jsonl", "lines", "nul", "csv", NULL};
  struct mch_job *job;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  job = new_job(L);
  job->verb = (enum mch_verb)field_option(L, "verb", verbs);
  job->in = (enum mch_input_format)field_option(L, "input", formats);
  job->out = (enum mch_input_format)field_option(L, "output", formats);
  job->retries = (int)field_number(L, "retries");
  job->tags = field_true(L, "tag");
  job->skips_bad = field_true(L, "skip_bad");
  job->keeps = field_true(L, "keep") && job->verb != MCH_VERB_RUN;
  share_trays(L, job);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 3, MCH_JOB_FUNCTION);
  job->reader = mch_json_new_reader(L);
  lua_setiuservalue(L, 3, MCH_JOB_READER);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &job_key);
  return 0;
}

/* csv(skips_blank, ends_crlf): what the header has taught, before the workers are forked. */
static int core_csv(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  job->skips_blank = lua_toboolean(L, 1);
  job->ends_crlf = lua_toboolean(L, 2);
  return 0;
}

/* halted(): the number from which on no item begins any more; nil: there was no halt. */
static int core_halted(lua_State *L) {
  uint64_t halted = atomic_load(&mch_job_get(L)->counter->halted);
  if (halted == 0)
    return 0;
  lua_pushinteger(L, (lua_Integer)halted);
  return 1;
}

/* count(number): an item has failed that no worker has counted. */
static int core_count(lua_State *L) {
  mch_counter_add(mch_job_get(L)->counter, (uint64_t)luaL_checkinteger(L, 1), 1);
  return 0;
}

/* --- trays -------------------------------------------------------------------------------------
 */

/* fill(tray, items or nil, count) */
static int core_fill(lua_State *L) {
  struct mch_tray *tray = tray_at(L, 1);
  size_t length = 0;
  const char *items = luaL_optlstring(L, 2, NULL, &length);
  luaL_argcheck(L, length <= MCH_TRAY_ITEMS, 2, "too large for a tray");
  mch_tray_fill(tray, items, items != NULL ? length : 0, (uint32_t)luaL_checkinteger(L, 3));
  return 0;
}

/* cut(tray): how many items are begun, and no more of them will be. */
static int core_cut(lua_State *L) {
  lua_pushinteger(L, mch_tray_cut(tray_at(L, 1)));
  return 1;
}

/* stop(tray [, index]): whether the running item, if it is that one, from 0, counts as stopped. */
static int core_stop(lua_State *L) {
  struct mch_tray *tray = tray_at(L, 1);
  lua_Integer index = luaL_optinteger(L, 2, UINT32_MAX);
  lua_pushboolean(L, mch_tray_stop(tray, (uint32_t)index));
  return 1;
}

/* look(tray): done, limit, whether an item runs, was stopped, when it began (seconds), its attempt
 */
static int core_look(lua_State *L) {
  struct mch_tray *tray = tray_at(L, 1);
  struct mch_tray_state state = mch_tray_look(tray);
  lua_pushinteger(L, state.done);
  lua_pushinteger(L, state.limit);
  lua_pushboolean(L, state.runs);
  lua_pushboolean(L, state.is_stopped);
  lua_pushnumber(L, (lua_Number)atomic_load(&tray->started) / 1e9);
  lua_pushinteger(L, atomic_load(&tray->attempt));
  return 6;
}

/* drain(tray [, keep]): put what the next items print to the output, up to one that wants a look (a
 * failure, a header, a payload that is away), or hand it over as a string. How many they were. */
static int core_drain(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  struct mch_tray *tray = mch_job_tray(L, job, 1);
  struct mch_text *to = lua_toboolean(L, 2) ? &job->scratch : &job->output;
  struct mch_record record;
  const char *payload;
  lua_Integer count = 0;
  job->scratch.length = 0;
  while (mch_tray_next(tray, 0, &record, &payload) && record.kind == MCH_RECORD_OK &&
         !record.is_away && record.header == 0 && record.printed == record.length) {
    mch_text_add(L, to, payload, record.length);
    mch_tray_next(tray, 1, &record, &payload);
    count++;
  }
  lua_pushinteger(L, count);
  lua_pushlstring(L, job->scratch.bytes, job->scratch.length);
  return 2;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void push_record(lua_State *L, const struct mch_record *record, const char *payload) {
  static const char *const kinds[] = {"ok", "failed", "bad"};
  lua_createtable(L, 0, 16);
  lua_pushstring(L, kinds[record->kind]);
  lua_setfield(L, -2, "kind");
  set_integer(L, "length", record->length);
  set_integer(L, "printed", record->printed);
  set_integer(L, "message", record->message);
  set_integer(L, "header", record->header);
  set_integer(L, "lines", record->lines);
  set_integer(L, "exitcode", record->exitcode);
  set_integer(L, "signal", record->signal);
  set_integer(L, "line", record->line);
  set_integer(L, "at", (lua_Integer)record->at);
  set_integer(L, "size", (lua_Integer)record->size);
  lua_pushnumber(L, (lua_Number)record->started / 1e9);
  lua_setfield(L, -2, "started");
  lua_pushnumber(L, (lua_Number)record->ended / 1e9);
  lua_setfield(L, -2, "ended");
  if (!record->is_away) {
    lua_pushlstring(L, payload, record->length);
    lua_setfield(L, -2, "payload");
  }
}

/* next(tray): the next record as a table, without `payload` if that is away; nil: none. */
static int core_next(lua_State *L) {
  struct mch_record record;
  const char *payload;
  if (!mch_tray_next(tray_at(L, 1), 1, &record, &payload))
    return 0;
  push_record(L, &record, payload);
  return 1;
}

/* find(items, index): offset from 0, length, lines before it; of an item of a batch, from 0. An
 * index beyond the last gives the end and the number of lines. */
static int core_find(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  size_t length;
  const char *items = luaL_checklstring(L, 1, &length);
  const char *at = items, *end = items + length, *stop = items;
  lua_Integer index = luaL_checkinteger(L, 2);
  lua_Integer lines = 0;
  int passes_over = job->in == MCH_INPUT_JSONL || job->skips_blank;
  for (; at < end; at = stop) {
    const char *line = at;
    stop = mch_input_item_end(job->in, at, end);
    stop = stop != NULL ? stop : end;
    if ((!passes_over || !mch_input_is_blank(at, (size_t)(stop - at))) && index-- == 0)
      break;
    if (job->in == MCH_INPUT_CSV)
      while ((line = memchr(line, '\n', (size_t)(stop - line))) != NULL && ++line < stop)
        lines++;
    lines++;
  }
  lua_pushinteger(L, at - items);
  lua_pushinteger(L, at < end ? stop - at : 0);
  lua_pushinteger(L, lines);
  return 3;
}

/* --- input -------------------------------------------------------------------------------------
 */

static int close_input(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  mch_input_close(input);
  return 0;
}

/* input:fill(): true: there is more now; false: it has ended; nil and a message. */
static int input_fill(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  int told = mch_input_fill(input);
  if (told == -EINTR || told == -EAGAIN || told == -EWOULDBLOCK)
    told = 1;
  if (told < 0)
    return mch_commands_done(L, -told);
  lua_pushboolean(L, told);
  return 1;
}

/* input:cut(most, length): a string of whole items, their number, lines; nil: none is there */
static int input_cut(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  struct mch_batch batch;
  if (!mch_input_cut(input, (uint32_t)luaL_checkinteger(L, 2), (size_t)luaL_checkinteger(L, 3),
                     &batch))
    return 0;
  lua_pushlstring(L, batch.items, batch.length);
  lua_pushinteger(L, batch.count);
  lua_pushinteger(L, batch.lines);
  return 3;
}

/* input:buffered(): bytes that were read and not cut off. */
static int input_buffered(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  lua_pushinteger(L, (lua_Integer)(input->to - input->from));
  return 1;
}

/* input:skip_blank(): from now on empty lines of CSV are passed over. */
static int input_skip_blank(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  input->skips_blank = 1;
  return 0;
}

static int input_has_ended(lua_State *L) {
  struct mch_input *input = luaL_checkudata(L, 1, "mantichora input");
  lua_pushboolean(L, input->has_ended);
  return 1;
}

/* open(path, format): an input, or nil and a message. */
static int core_open(lua_State *L) {
  static const char *const formats[] = {"jsonl", "lines", "nul", "csv", NULL};
  const char *path = luaL_checkstring(L, 1);
  int format = luaL_checkoption(L, 2, NULL, formats);
  struct mch_input *input = lua_newuserdatauv(L, sizeof *input, 0);
  int problem;
  memset(input, 0, sizeof *input);
  input->fd = -1;
  luaL_setmetatable(L, "mantichora input");
  problem = mch_input_open(input, path, (enum mch_input_format)format);
  return problem == 0 ? 1 : mch_commands_done(L, problem);
}

static void make_input_metatable(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"fill", input_fill},           {"cut", input_cut},
      {"buffered", input_buffered},   {"skip_blank", input_skip_blank},
      {"has_ended", input_has_ended}, {"close", close_input},
      {"__gc", close_input},          {NULL, NULL}};
  luaL_newmetatable(L, "mantichora input");
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

/* --- output ------------------------------------------------------------------------------------
 */

/* Whoever read stdout has gone: what is left to do is for nobody. The workers end with us. */
static void leave_reader_gone(int signal_number) {
  (void)signal_number;
  _exit(141);
}

/* await(input or nil, pollfd, seconds): whether the input can be read. */
static int core_await(lua_State *L) {
  struct mch_input *input = lua_isnil(L, 1) ? NULL : luaL_checkudata(L, 1, "mantichora input");
  unsigned ready = mch_await(input != NULL ? input->fd : -1, (int)luaL_checkinteger(L, 2),
                             STDOUT_FILENO, luaL_checknumber(L, 3));
  if ((ready & MCH_AWAIT_GONE) != 0)
    leave_reader_gone(0);
  if ((ready & MCH_AWAIT_CLOSED) != 0)
    return lua_pushliteral(L, "stdout is closed"), lua_error(L);
  lua_pushboolean(L, (ready & MCH_AWAIT_INPUT) != 0);
  return 1;
}

/* put(bytes): output. */
static int core_put(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  mch_text_add(L, &job->output, bytes, length);
  return 0;
}

static int write_output(const char *bytes, size_t length, size_t *written) {
  if (!isatty(STDOUT_FILENO))
    return mch_write_some(STDOUT_FILENO, bytes, length, written);
  /* Where bars may stand, C's stream is held while they do. */
  *written = fwrite(bytes, 1, length, stdout);
  return fflush(stdout) != 0 ? errno : 0;
}

/* flush(least): write some of the output, if it has so many bytes. Whether nothing is left to be
 * written; or nil and a message. */
static int core_flush(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  struct mch_text *output = &job->output;
  size_t rest = output->length - job->written, written = 0;
  int problem;
  if (rest == 0 || rest < (size_t)luaL_checkinteger(L, 1)) {
    lua_pushboolean(L, 1);
    return 1;
  }
  problem = write_output(output->bytes + job->written, rest, &written);
  if (problem == EPIPE)
    leave_reader_gone(0);
  job->written += written;
  if (job->written == output->length)
    job->written = output->length = 0;
  if (problem != 0 && problem != EINTR && problem != EAGAIN && problem != EWOULDBLOCK)
    return mch_commands_done(L, problem);
  lua_pushboolean(L, output->length == 0);
  return 1;
}

/* --- the rest ----------------------------------------------------------------------------------
 */

/* clocks(): seconds of the clock of records, and of the wall's. */
static int core_clocks(lua_State *L) {
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  lua_pushnumber(L, (lua_Number)mch_now() / 1e9);
  lua_pushnumber(L, (lua_Number)wall.tv_sec + (lua_Number)wall.tv_nsec / 1e9);
  return 2;
}

/* check_file(path): whether it can be read, without opening it: a pipe would lose its writer. True,
 * or nil and a message. */
static int core_check_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat about;
  int problem = access(path, R_OK) != 0 || stat(path, &about) != 0 ? errno
                : S_ISDIR(about.st_mode)                           ? EISDIR
                                                                   : 0;
  return mch_commands_done(L, problem);
}

/* mkdir(path): true, also if the folder is there; or nil and a message. */
static int core_mkdir(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat about;
  int is_there = mkdir(path, 0777) == 0 ||
                 (errno == EEXIST && stat(path, &about) == 0 && S_ISDIR(about.st_mode));
  return mch_commands_done(L, is_there ? 0 : errno);
}

/* fields(record): its fields; or nil, column and message. row(list): as a record. */
static int core_fields(lua_State *L) {
  size_t length, column;
  const char *message;
  const char *record = luaL_checklstring(L, 1, &length);
  if (mch_csv_read(L, record, length, &column, &message))
    return 1;
  lua_pushnil(L);
  lua_pushinteger(L, (lua_Integer)column);
  lua_pushstring(L, message);
  return 3;
}

/* check(item): whether it is JSON; or nil, column and message. */
static int core_check(lua_State *L) {
  struct mch_job *job = mch_job_get(L);
  size_t length, column;
  const char *message;
  const char *item = luaL_checklstring(L, 1, &length);
  if (mch_json_read(L, job->reader, item, length, &column, &message)) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushinteger(L, (lua_Integer)column);
  lua_pushstring(L, message);
  return 3;
}

/* chdir(path): true; or nil and a message. */
static int core_chdir(lua_State *L) {
  return mch_commands_done(L, chdir(luaL_checkstring(L, 1)) == 0 ? 0 : errno);
}

/* absolute(path): as seen from where the process is now. */
static int core_absolute(lua_State *L) {
  char here[4096];
  if (*luaL_checkstring(L, 1) != '/' && getcwd(here, sizeof here) != NULL)
    lua_pushfstring(L, "%s/%s", here, lua_tostring(L, 1));
  return 1;
}

/* The reader of stdout may go at any time. Workers get the default back, and so do their
 * commands: an ignored signal would stay ignored there. */
static int core_watch_reader(lua_State *L) {
  struct sigaction action = {0}, before;
  (void)L;
  action.sa_handler = leave_reader_gone;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGPIPE, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
    sigaction(SIGPIPE, &action, NULL);
  return 0;
}

int mch_commands_open_core(lua_State *L) {
  static const luaL_Reg core[] = {{"part", mch_part_call},
                                  {"setup", core_setup},
                                  {"csv", core_csv},
                                  {"halted", core_halted},
                                  {"count", core_count},
                                  {"fill", core_fill},
                                  {"cut", core_cut},
                                  {"stop", core_stop},
                                  {"look", core_look},
                                  {"drain", core_drain},
                                  {"next", core_next},
                                  {"find", core_find},
                                  {"open", core_open},
                                  {"await", core_await},
                                  {"put", core_put},
                                  {"flush", core_flush},
                                  {"clocks", core_clocks},
                                  {"mkdir", core_mkdir},
                                  {"check_file", core_check_file},
                                  {"fields", core_fields},
                                  {"check", core_check},
                                  {"list", mch_json_list},
                                  {"watch_reader", core_watch_reader},
                                  {"chdir", core_chdir},
                                  {"absolute", core_absolute},
                                  {"command", mch_work_command},
                                  {"work", mch_work},
                                  {NULL, NULL}};
  make_input_metatable(L);
  luaL_newlib(L, core);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
#ifdef MANTICHORA_YAJL
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "has_json");
#endif
  lua_pushinteger(L, MCH_TRAY_ITEMS);
  lua_setfield(L, -2, "most_bytes");
  lua_pushinteger(L, MCH_TRAY_MOST);
  lua_setfield(L, -2, "most_items");
  return 1;
}
