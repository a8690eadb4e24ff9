/* Runs in: parent.
 *
 * The host's side of a notebook: what scripts/commands/notebook.lua cannot do in Lua (commands.h).
 * The other side is a kernel in Python, scripts/jupyter/kernel.py, which started this process. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

#include "bindings/commands/commands.h"
#include "bindings/commands/coroutines.h"
#include "bindings/context.h"
#include "bindings/embedded.h"
#include "bindings/incomplete.h"
#include "bindings/show/loutput.h"
#include "bindings/pool/lpool.h"
#include "runtime/show/output.h"
#include "runtime/base/platform.h"
#include "runtime/commands/frames.h"
#include "bindings/show/sinks.h"

#define TYPE "mantichora notebook"

struct kernel {
  int fd;        /* of the frames; -1: not here */
  int acks;      /* a byte comes here when the kernel has shown what it was sent */
  pid_t process; /* that talks with the kernel: no fork of it does */
  struct mch_coroutines coroutines;
  struct mch_buf frame; /* received */
  struct mch_buf made;  /* to be sent */
  struct mch_buf typed; /* of stdin, not read yet */
  unsigned asked;       /* lines of stdin so far */
  struct mch_reader reader;
  FILE *input;           /* what io.stdin reads; NULL: as ever */
  luaL_Stream *io_stdin; /* lives as long as the state */
};

/* Where the registry has it. */
static const char kernel_key = 0;

/* A signal handler has no other way to know: the state that runs a cell, and its coroutines. */
static lua_State *volatile running;
static struct mch_coroutines *volatile coroutines;

static struct kernel *kernel_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

static int is_ours(const struct kernel *kernel) {
  return kernel->fd >= 0 && kernel->process == getpid();
}

/* --- frames --- */

static void begin_frame(struct kernel *kernel, const char *kind) {
  mch_buf_clear(&kernel->made);
  mch_frames_field(&kernel->made, kind, strlen(kind));
}

static void add_text(struct kernel *kernel, const char *text) {
  mch_frames_field(&kernel->made, text, strlen(text));
}

static int send_made(struct kernel *kernel) {
  if (kernel->made.failed != 0 || !is_ours(kernel))
    return 0;
  return mch_frames_send(kernel->fd, kernel->made.data, kernel->made.length) == MCH_FRAMES_OK;
}

static int send_frame(lua_State *L) {
  struct kernel *kernel = kernel_of(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  if (!is_ours(kernel))
    return luaL_error(L, "only the process of the notebook can do this");
  mch_output_flush(mch_loutput_get(L));
  fflush(stdout);
  fflush(stderr);
  lua_pushboolean(L, mch_frames_send(kernel->fd, bytes, length) == MCH_FRAMES_OK);
  if (lua_toboolean(L, 2))
    mch_platform_get_byte(kernel->acks);
  return 1;
}

static int never_woken(void) {
  return 0;
}

static int receive_frame(lua_State *L) {
  struct kernel *kernel = kernel_of(L);
  int code;
  do {
    mch_lpool_await(L, kernel->fd, never_woken);
    code = mch_frames_receive(kernel->fd, &kernel->frame);
  } while (code == MCH_FRAMES_INTERRUPTED);
  if (code == MCH_FRAMES_MEMORY)
    return luaL_error(L, "not enough memory for the cell");
  if (code != MCH_FRAMES_OK)
    return 0;
  lua_pushlstring(L, (const char *)kernel->frame.data, kernel->frame.length);
  return 1;
}

/* --- bars --- */

static void tell_bar(void *ud, const struct mantichora_progress *report) {
  static const char *const events[] = {"start", "update", "end"};
  struct kernel *kernel = ud;
  char number[32];
  fflush(stdout);
  begin_frame(kernel, "bar");
  add_text(kernel, events[report->event]);
  snprintf(number, sizeof number, "%llu", (unsigned long long)report->id);
  add_text(kernel, number);
  snprintf(number, sizeof number, "%llu", (unsigned long long)report->done);
  add_text(kernel, number);
  snprintf(number, sizeof number, "%llu", (unsigned long long)report->total);
  add_text(kernel, report->total == MANTICHORA_UNKNOWN ? "" : number);
  snprintf(number, sizeof number, "%llu", (unsigned long long)(report->elapsed * 1e6));
  add_text(kernel, number);
  add_text(kernel, report->state);
  add_text(kernel, report->name);
  /* What is printed from now on stands below it. */
  if (send_made(kernel) && report->event == MANTICHORA_BAR_START)
    mch_platform_get_byte(kernel->acks);
}

/* --- io.stdin: each line is asked for in the notebook --- */

static int raise_no_input(lua_State *L);

static void on_no_input(lua_State *L, lua_Debug *activation) {
  (void)activation;
  raise_no_input(L);
}

static int raise_no_input(lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
  if (coroutines != NULL)
    mch_coroutines_set_hook(coroutines, NULL, 0, 0);
  return luaL_error(L, "nobody can be asked for input here");
}

static void hook_all(lua_Hook hook) {
  int events = hook != NULL ? LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT : 0;
  if (running != NULL)
    lua_sethook(running, hook, events, hook != NULL);
  if (coroutines != NULL)
    mch_coroutines_set_hook(coroutines, hook, events, hook != NULL);
}

/* The field at `at` of the frame that was received; where the next one is, 0: there is none. */
static size_t field_at(const struct mch_buf *frame, size_t at, const char **text, size_t *length) {
  if (at > frame->length || frame->length - at < 4)
    return 0;
  *length = mch_load_u32(frame->data + at);
  *text = (const char *)frame->data + at + 4;
  return *length <= frame->length - at - 4 ? at + 4 + *length : 0;
}

static int field_is(const char *text, size_t length, const char *word) {
  return length == strlen(word) && memcmp(text, word, length) == 0;
}

/* Take what was answered to the question `asked`: 1: a text; 0: the end; -1: this frame is no
 * answer to it; -2: nobody can be asked. */
static int take_answer(struct kernel *kernel) {
  const char *kind, *number, *text;
  size_t kind_length, number_length, length;
  char expected[32];
  size_t at = field_at(&kernel->frame, 0, &kind, &kind_length);
  snprintf(expected, sizeof expected, "%u", kernel->asked);
  at = at > 0 ? field_at(&kernel->frame, at, &number, &number_length) : 0;
  if (at == 0 || !field_is(number, number_length, expected))
    return -1;
  if (field_is(kind, kind_length, "no answer"))
    return -2;
  if (field_is(kind, kind_length, "end of input"))
    return 0;
  if (!field_is(kind, kind_length, "answer") || field_at(&kernel->frame, at, &text, &length) == 0)
    return -1;
  mch_buf_append(&kernel->typed, text, length);
  mch_buf_u8(&kernel->typed, '\n');
  return kernel->typed.failed == 0;
}

static int ask(struct kernel *kernel) {
  char number[32];
  int answer = -1;
  fflush(stdout);
  snprintf(number, sizeof number, "%u", ++kernel->asked);
  begin_frame(kernel, "input");
  add_text(kernel, number);
  if (!send_made(kernel))
    return 0;
  while (answer == -1) {
    int code = mch_frames_receive(kernel->fd, &kernel->frame);
    if (code != MCH_FRAMES_OK) {
      errno = code == MCH_FRAMES_INTERRUPTED ? EINTR : EIO;
      return -1;
    }
    answer = take_answer(kernel);
  }
  if (answer == -2) {
    hook_all(on_no_input);
    errno = ENXIO;
    return -1;
  }
  return answer;
}

static ssize_t take_typed(void *ud, char *bytes, size_t room) {
  struct kernel *kernel = ud;
  size_t count = mch_buf_unread(&kernel->typed);
  if (!is_ours(kernel))
    return 0;
  if (count == 0) {
    int answer;
    mch_buf_clear(&kernel->typed);
    answer = ask(kernel);
    if (answer <= 0)
      return answer;
    count = mch_buf_unread(&kernel->typed);
  }
  if (count > room)
    count = room;
  memcpy(bytes, kernel->typed.data + kernel->typed.read, count);
  mch_buf_consume(&kernel->typed, count);
  return (ssize_t)count;
}

static void replace_stdin(lua_State *L, struct kernel *kernel) {
  kernel->reader.take = take_typed;
  kernel->reader.ud = kernel;
  lua_getglobal(L, LUA_IOLIBNAME);
  lua_getfield(L, -1, "stdin");
  kernel->io_stdin = luaL_checkudata(L, -1, LUA_FILEHANDLE);
  luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  kernel->input = mch_platform_reader(&kernel->reader);
  if (kernel->input != NULL)
    kernel->io_stdin->f = kernel->input;
}

/* --- cells --- */

static void raise_interrupted(lua_State *L, lua_Debug *activation) {
  struct kernel *kernel;
  (void)activation;
  hook_all(NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &kernel_key);
  kernel = lua_touserdata(L, -1);
  lua_pop(L, 1);
  begin_frame(kernel, "interrupted");
  send_made(kernel);
  lua_pushliteral(L, "interrupted!");
  lua_error(L);
}

/* The kernel sends SIGINT to the group until it hears of it, and SIGURG to this process, which
 * os.execute does not ignore; between cells they mean nothing. */
static void on_sigint(int signal_number) {
  (void)signal_number;
  if (running != NULL)
    hook_all(raise_interrupted);
}

static int levels(lua_State *L) {
  lua_Debug activation;
  int count = 0;
  while (lua_getstack(L, count, &activation))
    count++;
  return count;
}

/* Cut the lines of the last `count` levels off a traceback. */
static void push_without_last(lua_State *L, const char *traceback, int count) {
  size_t length = strlen(traceback);
  while (count-- > 0) {
    size_t at = length;
    while (at > 0 && traceback[at - 1] != '\n')
      at--;
    length = at > 0 ? at - 1 : length;
  }
  lua_pushlstring(L, traceback, length);
}

/* The message handler; upvalues: levels below the cell, and the table for message and traceback. */
static int note_error(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  lua_settop(L, 1);
  if (message == NULL && luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) {
    lua_setfield(L, lua_upvalueindex(2), "message");
    return 1; /* says all by itself */
  }
  lua_settop(L, 1);
  if (message == NULL)
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  else
    lua_pushvalue(L, 1);
  lua_setfield(L, lua_upvalueindex(2), "message");
  luaL_traceback(L, L, NULL, 1);
  push_without_last(L, lua_tostring(L, -1), (int)lua_tointeger(L, lua_upvalueindex(1)));
  lua_setfield(L, lua_upvalueindex(2), "traceback");
  lua_settop(L, 1);
  return 1;
}

static int finish_call(lua_State *L, int status, int record) {
  if (status == LUA_OK) {
    lua_pushboolean(L, 1);
    lua_replace(L, record);
    return lua_gettop(L) - record + 1;
  }
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  if (lua_getfield(L, record, "message") == LUA_TNIL) { /* no memory for the handler */
    lua_pop(L, 1);
    luaL_tolstring(L, -1, NULL);
  }
  lua_getfield(L, record, "traceback");
  return 4;
}

static int call_cell(lua_State *L) {
  struct kernel *kernel = kernel_of(L);
  int count = lua_gettop(L) - 1, status;
  lua_newtable(L);
  lua_insert(L, 1);
  lua_pushinteger(L, levels(L));
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, note_error, 2);
  lua_insert(L, 2);
  coroutines = &kernel->coroutines;
  running = L;
  status = lua_pcall(L, count, LUA_MULTRET, 2);
  if (lua_gethook(L) == raise_interrupted || lua_gethook(L) == on_no_input)
    hook_all(NULL); /* it came too late to fire */
  running = NULL;
  lua_remove(L, 2);
  if (kernel->input != NULL)
    clearerr(kernel->input); /* the end of input was this cell's */
  return finish_call(L, status, 1);
}

/* --- the rest --- */

static int is_incomplete(lua_State *L) {
  luaL_checkstring(L, 1);
  lua_settop(L, 1);
  lua_pushboolean(L, mch_incomplete(L, LUA_ERRSYNTAX));
  return 1;
}

static int load_part(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const struct mch_embedded *part = mch_embedded_find(name);
  lua_settop(L, 2);
  if (part == NULL)
    return 0;
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    return lua_error(L);
  if (!lua_isnil(L, 2)) {
    lua_pushvalue(L, 2);
    lua_setupvalue(L, -2, 1);
  }
  lua_call(L, 0, 1);
  return 1;
}

static int get_file(lua_State *L) {
  const struct mch_embedded *part = mch_commands_find_part(luaL_checkstring(L, 1));
  if (part == NULL)
    return 0;
  lua_pushlstring(L, (const char *)part->bytes, part->length);
  return 1;
}

static int get_fields(lua_State *L) {
  struct mch_buf frame = {0};
  const char *text;
  size_t length, at = 0;
  lua_Integer count = 0;
  frame.data = (unsigned char *)(uintptr_t)luaL_checklstring(L, 1, &frame.length);
  lua_newtable(L);
  while ((at = field_at(&frame, at, &text, &length)) > 0) {
    lua_pushlstring(L, text, length);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

/* In a worker: the notebook is the parent's. */
static void leave_frames(void *ud) {
  struct kernel *kernel = ud;
  if (kernel->fd >= 0) {
    close(kernel->fd);
    close(kernel->acks);
  }
  kernel->fd = -1;
}

static void close_on_exec(int fd) {
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static int open_kernel(lua_State *L) {
  struct kernel *kernel = kernel_of(L);
  struct mch_context *context = mch_context_get(L);
  struct sigaction action = {0};
  const char *progress = getenv("MANTICHORA_PROGRESS");
  kernel->fd = atoi(luaL_checkstring(L, 1));
  kernel->acks = atoi(luaL_checkstring(L, 3));
  close_on_exec(kernel->fd);
  close_on_exec(kernel->acks);
  close_on_exec(atoi(luaL_checkstring(L, 2)));
  kernel->process = getpid();
  if (mch_platform_lifeline(atoi(luaL_checkstring(L, 2)), getppid()) != 0)
    return luaL_error(L, "the host cannot watch its kernel");
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  mch_loutput_get(L);
  if (progress == NULL || strcasecmp(progress, "off") != 0) {
    context->sinks.progress = tell_bar;
    context->sinks.progress_ud = kernel;
  }
  context->child_hook = leave_frames;
  context->child_hook_ud = kernel;
  mch_loutput_choose_mode(L);
  replace_stdin(L, kernel);
  mch_coroutines_watch(&kernel->coroutines, L);
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGURG, &action, NULL);
  return 0;
}

static int kernel_gc(lua_State *L) {
  struct kernel *kernel = lua_touserdata(L, 1);
  coroutines = NULL;
  if (kernel->input != NULL) {
    kernel->io_stdin->f = stdin;
    fclose(kernel->input);
  }
  if (kernel->coroutines.forward != NULL)
    mch_coroutines_leave(&kernel->coroutines, L);
  mch_buf_free(&kernel->frame);
  mch_buf_free(&kernel->made);
  mch_buf_free(&kernel->typed);
  return 0;
}

static void push_kernel(lua_State *L) {
  struct kernel *kernel = lua_newuserdatauv(L, sizeof *kernel, 0);
  memset(kernel, 0, sizeof *kernel);
  kernel->fd = -1;
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, kernel_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &kernel_key);
}

int mch_kernel_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"open", open_kernel}, {"receive", receive_frame},       {"send", send_frame},
      {"call", call_cell},   {"is_incomplete", is_incomplete}, {"part", load_part},
      {"file", get_file},    {"fields", get_fields},           {NULL, NULL}};
  luaL_newlibtable(L, functions);
  push_kernel(L);
  luaL_setfuncs(L, functions, 1);
  return 1;
}
