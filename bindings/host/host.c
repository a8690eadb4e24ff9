/* Runs in: parent.
 *
 * The program `mantichora`: behaves as section 7 of Lua's manual says of `lua`, with the module
 * inside and options of our own, which reach the module as environment variables. */
#define _POSIX_C_SOURCE 200809L

#include "host.h"
#include "lcall.h"
#include "runtime/base/ending.h"
#include "bindings/context.h"
#include "bindings/commands/commands.h"
#include "bindings/hosts/lsupervisor.h"
#include "bindings/pool/ltrace.h"
#include "runtime/links/program.h"
#include "runtime/links/url.h"
#include "runtime/mantichora.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

/* --- our own options: each sets the variable that the module reads ------------------------------
 */

static bool is_number(const char *text) {
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && digits < 7 && text[digits] == '\0';
}

static bool is_worker_count(const char *text) {
  return strcmp(text, "auto") == 0 || (is_number(text) && atol(text) > 0);
}

static bool is_one_of(const char *text, const char *const *words) {
  for (; *words != NULL; words++) {
    if (strcasecmp(text, *words) == 0)
      return true;
  }
  return false;
}

static bool is_progress_mode(const char *text) {
  static const char *const modes[] = {"auto", "bar", "text", "json", "off", "eta", NULL};
  return is_one_of(text, modes);
}

static bool is_log_level(const char *text) {
  static const char *const levels[] = {"DEBUG",    "INFO", "WARNING", "ERROR",
                                       "CRITICAL", "WARN", "FATAL",   NULL};
  return is_one_of(text, levels) || is_number(text);
}

static bool is_path(const char *text) {
  return *text != '\0';
}

struct setting {
  const char *name;
  const char *variable; /* NULL: it is for this program alone */
  bool (*is_valid)(const char *text);
  const char *values; /* for messages */
};

#define JOURNAL "MANTICHORA_JOURNAL"

static const struct setting settings[] = {
    {"--workers", "MANTICHORA_WORKERS", is_worker_count, "a number above 0, or auto"},
    {"--progress", "MANTICHORA_PROGRESS", is_progress_mode, "auto, bar, text, json, off or eta"},
    {"--log-level", "MANTICHORA_LOG_LEVEL", is_log_level,
     "DEBUG, INFO, WARNING, ERROR, CRITICAL or a number"},
    {"--journal", JOURNAL, is_path, "a path"},
    {"--trace", NULL, is_path, "the name of a file"},
    {"--report", NULL, is_path, "the name of a file"},
    {"--hosts", "MANTICHORA_HOSTS", is_path, "a list of machines"},
    {NULL, NULL, NULL, NULL},
};

static void print_usage(FILE *to, const char *program) {
  fprintf(to,
          "usage: %s [options] [script [args]]\n"
          "       %s [options] map|filter|run|journal|busted|jupyter|worker|top ...   (each has "
          "--help)\n"
          "Available options are:\n"
          "  -e stat   execute string 'stat'\n"
          "  -i        enter interactive mode after executing 'script'\n"
          "  -l mod    require library 'mod' into global 'mod'\n"
          "  -l g=mod  require library 'mod' into global 'g'\n"
          "  -v        show version information\n"
          "  -E        ignore environment variables\n"
          "  -W        turn warnings on\n"
          "  --workers N|auto   workers of a pool that does not set nworkers\n"
          "  --hosts LIST       machines of pools that do not set hosts: box1,box2:8\n"
          "  --progress MODE    how bars are shown: auto, bar, text, json, off or eta\n"
          "  --log-level LEVEL  lowest level that is logged: DEBUG, INFO, WARNING, ...\n"
          "  --journal PATH     keep results in this file, and run only what is not there\n"
          "  --trace FILE       write a trace of all tasks, for Perfetto\n"
          "  --report FILE      write a report of the run: one page for a browser\n"
          "  --help    show this text\n"
          "  --        stop handling options\n"
          "  -         stop handling options and execute stdin\n",
          program, program);
}

void mch_host_version(void) {
  printf("mantichora %s, %s\n", MANTICHORA_VERSION, LUA_COPYRIGHT);
  fflush(stdout);
}

/* --- the command line ---------------------------------------------------------------------------
 */

enum kind {
  KIND_SCRIPT, /* no option: the script's place, or the end */
  KIND_END,    /* "--" */
  KIND_LETTER, /* -e -i -l -v -E -W, in `letter` */
  KIND_SETTING,
  KIND_HELP,
  KIND_BAD,     /* unrecognized */
  KIND_MISSING, /* without its argument */
  KIND_INVALID, /* with an argument of the wrong kind */
};

struct option {
  enum kind kind;
  char letter;
  const struct setting *setting;
  const char *value; /* the argument */
  int next;          /* where the next option stands */
};

static bool read_setting(char **argv, int at, const struct setting *setting,
                         struct option *option) {
  size_t length = strlen(setting->name);
  const char *rest = argv[at] + length;
  if (strncmp(argv[at], setting->name, length) != 0 || (*rest != '\0' && *rest != '='))
    return false;
  option->setting = setting;
  option->value = *rest == '=' ? rest + 1 : argv[++option->next - 1];
  if (option->value == NULL)
    option->kind = KIND_MISSING;
  else
    option->kind = setting->is_valid(option->value) ? KIND_SETTING : KIND_INVALID;
  return true;
}

static void read_long_option(char **argv, int at, struct option *option) {
  option->kind = KIND_BAD;
  if (strcmp(argv[at], "--") == 0)
    option->kind = KIND_END;
  else if (strcmp(argv[at], "--help") == 0)
    option->kind = KIND_HELP;
  else {
    const struct setting *setting = settings;
    while (setting->name != NULL && !read_setting(argv, at, setting, option))
      setting++;
  }
}

/* -e and -l: the argument is the rest of the word or, if that is empty, the next word. */
static void read_argument(char **argv, int at, struct option *option) {
  option->value = argv[at] + 2;
  if (*option->value == '\0') {
    option->value = argv[option->next++];
    if (option->value == NULL || option->value[0] == '-')
      option->kind = KIND_MISSING;
  }
}

static struct option read_option(char **argv, int at) {
  struct option option = {KIND_SCRIPT, '\0', NULL, NULL, at + 1};
  const char *word = argv[at];
  if (word == NULL || word[0] != '-' || word[1] == '\0')
    return option;
  option.kind = KIND_LETTER;
  option.letter = word[1];
  if (word[1] == '-')
    read_long_option(argv, at, &option);
  else if (word[1] == 'e' || word[1] == 'l')
    read_argument(argv, at, &option);
  else if (strchr("ivEW", word[1]) == NULL || word[2] != '\0')
    option.kind = KIND_BAD;
  return option;
}

struct command_line {
  int count; /* of words */
  char **words;
  const char *program;
  int script;           /* the script's place among the words; `count` if there is none */
  bool is_interactive;  /* -i */
  bool wants_version;   /* -v or -i */
  bool executes;        /* -e */
  bool skips_variables; /* -E */
  bool wants_help;      /* --help */
  int status;           /* of a command */
};

/* Look at all options before any is acted on. Returns the one that is wrong, or one of a kind that
 * ends the options. */
static struct option scan(struct command_line *line) {
  int at = line->words[0] != NULL ? 1 : 0;
  for (;;) {
    struct option option = read_option(line->words, at);
    switch (option.kind) {
    case KIND_LETTER:
      line->is_interactive |= option.letter == 'i';
      line->wants_version |= option.letter == 'i' || option.letter == 'v';
      line->executes |= option.letter == 'e';
      line->skips_variables |= option.letter == 'E';
      break;
    case KIND_SETTING:
      break;
    case KIND_HELP:
      line->wants_help = true;
      break;
    default:
      line->script = option.kind == KIND_END ? at + 1 : at;
      return option;
    }
    at = option.next;
  }
}

static void complain(const struct command_line *line, const struct option *option) {
  const char *word = line->words[line->script];
  fprintf(stderr, "%s: ", line->program);
  if (option->kind == KIND_MISSING)
    fprintf(stderr, "'%s' needs argument\n", word);
  else if (option->kind == KIND_INVALID)
    fprintf(stderr, "'%s' must be %s: '%s' is given\n", option->setting->name,
            option->setting->values, option->value);
  else
    fprintf(stderr, "unrecognized option '%s'\n", word);
  print_usage(stderr, line->program);
}

/* --- calls, errors and Ctrl-C -------------------------------------------------------------------
 */

/* --- what the options say is done ---------------------------------------------------------------
 */

/* Call the chunk on top, or report why it could not be loaded. */
static int run_chunk(lua_State *L, int load_status, int count, const char *program) {
  int status = load_status != LUA_OK ? load_status : mch_lcall(L, count, true);
  return mch_lcall_report(L, status, program);
}

static int run_file(lua_State *L, const char *name, const char *program) {
  return run_chunk(L, luaL_loadfile(L, name), 0, program);
}

static int run_string(lua_State *L, const char *text, const char *chunkname, const char *program) {
  return run_chunk(L, luaL_loadbuffer(L, text, strlen(text), chunkname), 0, program);
}

static int run_init(lua_State *L, const char *program) {
  const char *name = "=LUA_INIT" LUA_VERSUFFIX;
  const char *init = getenv(name + 1);
  if (init == NULL) {
    name = "=LUA_INIT";
    init = getenv(name + 1);
  }
  if (init == NULL)
    return LUA_OK;
  if (init[0] == '@')
    return run_file(L, init + 1, program);
  return run_string(L, init, name, program);
}

/* -l mod, -l global=mod; what stands after a hyphen in `mod` is not part of the global's name. */
static int run_library(lua_State *L, const char *spec, const char *program) {
  const char *equals = strchr(spec, '=');
  const char *module = equals != NULL ? equals + 1 : spec;
  size_t length = equals != NULL ? (size_t)(equals - spec) : strcspn(spec, "-");
  int status;
  lua_settop(L, 0);
  lua_pushlstring(L, spec, length);
  lua_getglobal(L, "require");
  lua_pushstring(L, module);
  status = mch_lcall_report(L, mch_lcall(L, 1, true), program);
  if (status == LUA_OK) {
    lua_settop(L, 2);
    lua_setglobal(L, lua_tostring(L, 1));
  }
  lua_settop(L, 0);
  return status;
}

static int run_options(lua_State *L, const struct command_line *line) {
  int at = 1;
  int status = LUA_OK;
  while (status == LUA_OK && at < line->script) {
    struct option option = read_option(line->words, at);
    if (option.kind == KIND_LETTER && option.letter == 'e')
      status = run_string(L, option.value, "=(command line)", line->program);
    else if (option.kind == KIND_LETTER && option.letter == 'l')
      status = run_library(L, option.value, line->program);
    else if (option.kind == KIND_LETTER && option.letter == 'W')
      lua_warning(L, "@on", 0);
    lua_settop(L, 0);
    at = option.next;
  }
  return status;
}

/* The script's arguments, as its code may have changed them in -e. */
static int push_arguments(lua_State *L) {
  int count;
  if (lua_getglobal(L, "arg") != LUA_TTABLE)
    luaL_error(L, "'arg' is not a table");
  count = (int)luaL_len(L, -1);
  luaL_checkstack(L, count + 3, "too many arguments to script");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, -i, i);
  lua_remove(L, -count - 1);
  return count;
}

static int run_script(lua_State *L, const struct command_line *line) {
  const char *name = line->words[line->script];
  int status;
  int count = 0;
  if (strcmp(name, "-") == 0 && strcmp(line->words[line->script - 1], "--") != 0)
    name = NULL; /* stdin */
  status = luaL_loadfile(L, name);
  if (status == LUA_OK)
    count = push_arguments(L);
  status = run_chunk(L, status, count, line->program);
  lua_settop(L, 0);
  return status;
}

static int call_command(lua_State *L) {
  const struct command_line *line = lua_touserdata(L, 1);
  lua_pushinteger(L, mch_commands_run(L, line->program, line->count - line->script,
                                      line->words + line->script));
  return 1;
}

static int prompt(lua_State *L) {
  mch_repl_run(L);
  return 0;
}

/* A command may want the prompt, which is above it. */
static int open_prompt(lua_State *L) {
  lua_pushcfunction(L, prompt);
  return 1;
}

/* One of the commands, which are words in the script's place. Its exit status. */
static int run_command(lua_State *L, const struct command_line *line) {
  int status = 255;
  lua_settop(L, 0);
  lua_pushcfunction(L, call_command);
  lua_pushlightuserdata(L, (void *)(uintptr_t)line);
  if (mch_lcall_report(L, mch_lcall(L, 1, true), line->program) == LUA_OK)
    status = (int)lua_tointeger(L, -1);
  lua_settop(L, 0);
  return status;
}

/* Without anything to do: talk with a person, or run what stands in stdin (whose failure, as with
 * `lua`, does not change the exit status). */
static void run_stdin(lua_State *L, const struct command_line *line) {
  if (isatty(STDIN_FILENO)) {
    mch_host_version();
    mch_repl_run(L);
  } else
    run_file(L, NULL, line->program);
}

/* arg: the script at 0, its arguments above, what stands before it below. */
static void set_arg_table(lua_State *L, const struct command_line *line) {
  int zero = line->script < line->count ? line->script : 0;
  lua_createtable(L, line->count - zero, zero + 1);
  for (int i = 0; i < line->count; i++) {
    lua_pushstring(L, line->words[i]);
    lua_rawseti(L, -2, i - zero);
  }
  lua_setglobal(L, "arg");
}

/* This program is no host of others' states: its scripts' pools are as under `lua`. */
static int open_pool_module(lua_State *L) {
  lua_settop(L, 1);
  lua_pushliteral(L, "here"); /* where `require` tells a file */
  return luaopen_mantichora(L);
}

static void preload_modules(lua_State *L) {
  static const luaL_Reg modules[] = {
      {"mantichora", open_pool_module},
      {"mantichora.atpbar", luaopen_mantichora_atpbar},
      {"mantichora.logging", luaopen_mantichora_logging},
      {"mantichora.commands.prompt", open_prompt},
#ifdef MANTICHORA_JOURNAL
      {"mantichora.journal", luaopen_mantichora_journal},
#endif
      {NULL, NULL},
  };
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  for (const luaL_Reg *module = modules; module->name != NULL; module++) {
    lua_pushcfunction(L, module->func);
    lua_setfield(L, -2, module->name);
  }
  lua_pop(L, 1);
}

/* The socket of those who watch; "": there is none. For the handler of signals. */
static char watched_path[256];

static void remove_socket(void) {
  if (watched_path[0] != '\0')
    unlink(watched_path);
}

static void note_socket(const char *path) {
  mch_ending_remove(remove_socket);
  watched_path[0] = '\0';
  if (path == NULL || strlen(path) >= sizeof watched_path)
    return;
  strcpy(watched_path, path);
  mch_ending_add(remove_socket);
}

/* Scripts and the prompt can be watched, our other commands cannot. */
static void let_watch(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  context->watchable = 1;
  context->attached = note_socket;
}

static bool is_command(const struct command_line *line) {
  return line->script < line->count && mch_commands_has(line->words[line->script]);
}

/* What was given with this option, the last time; NULL: nothing. */
static const char *value_of(const struct command_line *line, const char *name) {
  const char *value = NULL;
  for (int at = 1; at < line->script;) {
    struct option option = read_option(line->words, at);
    if (option.kind == KIND_SETTING && strcmp(option.setting->name, name) == 0)
      value = option.value;
    at = option.next;
  }
  return value;
}

/* Commands that only look at what others do have no run of their own to record. */
static bool is_recorded(const struct command_line *line) {
  static const char *const commands[] = {"map", "filter", "run", "busted", NULL};
  return !is_command(line) || is_one_of(line->words[line->script], commands);
}

static void open_records(lua_State *L, const struct command_line *line) {
  if (is_recorded(line)) {
    mch_ltrace_open(L, value_of(line, "--trace"), value_of(line, "--report"));
    mch_ltrace_say_farewell(L);
  } else
    mch_ltrace_open(L, "", "");
  lua_settop(L, 0);
}

/* Runs in protected mode; true for success. */
static int run(lua_State *L) {
  struct command_line *line = lua_touserdata(L, 1);
  luaL_checkversion(L);
  if (line->skips_variables) {
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  }
  luaL_openlibs(L);
  preload_modules(L);
  set_arg_table(L, line);
  open_records(L, line);
  lua_gc(L, LUA_GCGEN, 0, 0);
  lua_settop(L, 0);
  if (!is_command(line))
    let_watch(L);
  if (!line->skips_variables && run_init(L, line->program) != LUA_OK)
    return 0;
  lua_settop(L, 0);
  if (run_options(L, line) != LUA_OK)
    return 0;
  if (is_command(line))
    line->status = run_command(L, line);
  else if (line->script < line->count && run_script(L, line) != LUA_OK)
    return 0;
  if (line->is_interactive)
    mch_repl_run(L);
  else if (line->script == line->count && !line->executes && !line->wants_version)
    run_stdin(L, line);
  lua_pushboolean(L, 1);
  return 1;
}

/* The journal's path counts from where the program began; specs have none. */
static bool settle_journal(const struct command_line *line) {
  const char *path = getenv(JOURNAL);
  char here[4096], *whole;
  bool fine;
  if (line->script < line->count && strcmp(line->words[line->script], "busted") == 0)
    return unsetenv(JOURNAL) == 0;
  if (path == NULL || *path == '\0' || *path == '/')
    return true;
  whole = getcwd(here, sizeof here) != NULL ? malloc(strlen(here) + strlen(path) + 2) : NULL;
  if (whole != NULL)
    sprintf(whole, "%s/%s", here, path);
  fine = whole != NULL && setenv(JOURNAL, whole, 1) == 0;
  free(whole);
  return fine;
}

/* Hand our options to the module. They also reach programs that the script starts. */
static bool export_settings(const struct command_line *line) {
  for (int at = 1; at < line->script;) {
    struct option option = read_option(line->words, at);
    if (option.kind == KIND_SETTING && option.setting->variable != NULL &&
        setenv(option.setting->variable, option.value, 1) != 0) {
      perror(line->program);
      return false;
    }
    at = option.next;
  }
  if (settle_journal(line))
    return true;
  perror(line->program);
  return false;
}

static int run_state(struct command_line *line) {
  lua_State *L = luaL_newstate();
  bool succeeded = false;
  int status;
  if (L == NULL) {
    fprintf(stderr, "%s: cannot create state: not enough memory\n", line->program);
    return EXIT_FAILURE;
  }
  lua_pushcfunction(L, run);
  lua_pushlightuserdata(L, line);
  status = lua_pcall(L, 1, 1, 0);
  if (mch_lcall_report(L, status, line->program) == LUA_OK)
    succeeded = lua_toboolean(L, -1);
  lua_close(L);
  return succeeded ? line->status : EXIT_FAILURE;
}

/* `key ...` and `worker amqps://...` are a program of their own, which has the libraries for it. */
static bool is_for_broker(const struct command_line *line) {
  const char *word = line->script < line->count ? line->words[line->script] : "";
  if (strcmp(word, "worker") == 0)
    for (int at = line->script + 1; at < line->count; at++)
      if (mch_url_is_broker(line->words[at]))
        return true;
  return strcmp(word, "key") == 0;
}

static int become_for_broker(const struct command_line *line) {
  char **words = calloc((size_t)(line->count - line->script) + 2, sizeof *words);
  if (words == NULL) {
    perror(line->program);
    return EXIT_FAILURE;
  }
  memcpy(words + 1, line->words + line->script,
         (size_t)(line->count - line->script) * sizeof *words);
  mch_link_become("mantichora-amqp", words);
  fprintf(stderr, "%s: cannot run mantichora-amqp, which this needs: %s\n", line->program,
          strerror(errno));
  free(words);
  return EXIT_FAILURE;
}

int main(int argc, char **argv) {
  struct command_line line = {0};
  struct option last;
  line.count = argc;
  line.words = argv;
  line.program = argc > 0 && argv[0][0] != '\0' ? argv[0] : "mantichora";
  last = scan(&line);
  if (last.kind == KIND_BAD || last.kind == KIND_MISSING || last.kind == KIND_INVALID) {
    complain(&line, &last);
    return EXIT_FAILURE;
  }
  if (line.wants_help) {
    print_usage(stdout, line.program);
    return EXIT_SUCCESS;
  }
  if (is_for_broker(&line))
    return become_for_broker(&line);
  if (line.script < line.count && strcmp(line.words[line.script], "worker") == 0 &&
      export_settings(&line))
    return mch_lsupervisor_main(line.count - line.script, line.words + line.script);
  if (line.wants_version)
    mch_host_version();
  return export_settings(&line) ? run_state(&line) : EXIT_FAILURE;
}
