/* mantichora: runs Lua functions concurrently in background processes.
 *
 * The library links no Lua: it uses the Lua 5.4 of the program that it is part of. Scripts do the
 * work (`require "mantichora"`); the functions below let a C or C++ program take part: advance
 * pools from its own loop, show logs, progress and output in its own way, keep its handles out of
 * the workers.
 *
 * A program with a frame loop, such as a game engine:
 *
 *     luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
 *     lua_pop(L, 1);
 *     mantichora_set_progress_sink(L, show_progress, &engine);
 *     mantichora_set_child_hook(L, drop_handles, &engine);
 *     for (;;) {
 *       if (mantichora_poll(L, 0) > 0)
 *         ... let a script call pool:receive_finished() ...
 *       draw();
 *     }
 *
 * and one with an event loop of its own, here around poll(2):
 *
 *     struct pollfd fd = {mantichora_fd(L), POLLIN, 0};
 *     double seconds = mantichora_timeout(L);
 *     poll(&fd, 1, seconds < 0 || seconds > 60 ? 60000 : (int)(seconds * 1000) + 1);
 *     mantichora_poll(L, 0);
 *
 * Rules for all functions except luaopen_*:
 *   - Threads. A Lua state and all of its pools belong to one thread at a time, the one that runs
 *     Lua code of it or calls here. Different states may be used in different threads at the same
 *     time. `L` may be the main thread or a coroutine of a state.
 *   - Errors. No function raises a Lua error or calls the panic function, even when memory runs
 *     out: it returns a negative MANTICHORA_ERR... code, and mantichora_error() says what was
 *     wrong. The stack of `L` is left as it was.
 *   - Memory. No call passes on ownership: strings that sinks get are valid until the sink returns;
 *     `ud` is passed back and never dereferenced. Everything that the library keeps for a state is
 *     freed by lua_close(), which kills the workers of pools that were not closed, and says so in
 *     one line on stderr if the logger `mantichora` passes warnings. States may be closed in any
 *     order.
 *   - A pool made with background = false starts no thread. No pool replaces a signal handler.
 *   - A state is embedded once a program gave it luaopen_mantichora (by luaL_requiref, or in
 *     package.preload) or called one of these functions on it. Pools that a script makes there
 *     later leave the garbage collector's mode alone (as with the option gc = "keep") unless the
 *     script sets gc = "auto".
 *
 * Structures given to sinks may grow at their end in later versions: `size` is the size that the
 * library knows. A program that uses a newer field asks for
 *     r->size >= offsetof(struct mantichora_log, field) + sizeof r->field. */
#ifndef MANTICHORA_H
#define MANTICHORA_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MANTICHORA_API __attribute__((visibility("default")))
#else
#define MANTICHORA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;

/* -- opening ------------------------------------------------------------------------------ */

/* Open the module in a Lua state, as `require "mantichora"` does:
 *
 *     luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
 *     lua_pop(L, 1);
 *
 * Afterwards scripts may also require "mantichora.atpbar" and "mantichora.logging". Makes no
 * process and no thread; does not block. The state needs the libraries base, string and table only.
 * May raise a memory error: call it, like every lua_CFunction that opens a library, where errors
 * are caught. It may be opened in any number of states. */
MANTICHORA_API int luaopen_mantichora(struct lua_State *L);

/* The parts, for `require "mantichora.atpbar"` and `require "mantichora.logging"`. */
MANTICHORA_API int luaopen_mantichora_atpbar(struct lua_State *L);
MANTICHORA_API int luaopen_mantichora_logging(struct lua_State *L);

/* For `require "mantichora.journal"`: in the module of that name and in the program, not in the
 * library. */
MANTICHORA_API int luaopen_mantichora_journal(struct lua_State *L);

/* Internal: what mantichora.logging needs of the runtime. */
MANTICHORA_API int luaopen_mantichora_report(struct lua_State *L);

/* -- errors ------------------------------------------------------------------------------- */

enum {
  MANTICHORA_ERRRUN = -1, /* Lua code that was called (a script's progress renderer) raised an
                             error; or `interrupted!`, when the host handles Ctrl-C by a hook */
  MANTICHORA_ERRMEM = -2, /* not enough memory */
  MANTICHORA_ERRSYS = -3  /* the system refused something; the message says what */
};

/* Why a function last returned a negative code for this state; "" if none has. Never NULL. The next
 * failure overwrites it, and it is freed with the state: copy it. */
MANTICHORA_API const char *mantichora_error(struct lua_State *L);

/* -- advancing pools ----------------------------------------------------------------------- */

/* Advance all pools of the state: take in what workers sent, give them tasks, replace workers that
 * ended, call the sinks. Forks happen here: with timeout 0 at most one, and only when the pool has
 * no worker left; further workers are replaced by calls that wait. Returns how many finished tasks
 * wait to be received by a script, in all pools together; or a negative code.
 *
 * `timeout`: seconds. With 0 it does not wait, and costs a microsecond when nothing is due.
 * Otherwise it waits until a task waits to be received or none is outstanding, but no longer than
 * `timeout`. In addition it takes the time of the sinks and handlers that it calls, of tasks of an
 * engine "inline", and, without an output sink, of a terminal or pipe that is full. A negative
 * timeout or one above 30 years waits without a limit. While it waits, signal handlers of the
 * process run, and a hook that such a handler sets on the state (as lua.c does) ends the wait with
 * MANTICHORA_ERRRUN. */
MANTICHORA_API int mantichora_poll(struct lua_State *L, double timeout);

/* A descriptor for select, poll, epoll, kqueue or an event loop: readable when mantichora_poll(L,
 * 0) has something to do, for all pools of the state, including later ones. It is always the same
 * one for a state, and belongs to the library: wait for it, do not read or close it. lua_close()
 * closes it; in a fork of this process it is useless. On a system without such a descriptor:
 * MANTICHORA_ERRSYS; call mantichora_poll() from time to time there. */
MANTICHORA_API int mantichora_fd(struct lua_State *L);

/* Seconds after which mantichora_poll(L, 0) has something to do although the descriptor is not
 * readable (a task's time is over, progress is to be shown); 0: at once; negative: never. It holds
 * until the next call that concerns a pool of the state: ask again before each sleep. */
MANTICHORA_API double mantichora_timeout(struct lua_State *L);

/* -- sinks -------------------------------------------------------------------------------- */

/* A sink is a function of the program that receives what the library would otherwise show by
 * itself. Rules for all sinks:
 *   - It is called only inside calls of the library, Lua's or C's, on the thread that makes the
 *     call; never from the helper thread, never in a worker.
 *   - It gets what a task logged, wrote and showed before the task's result is handed over.
 *   - It may use Lua and this library, on the same state. While a progress or output sink runs,
 *     neither of these two is called again: what comes meanwhile is delivered after it has
 *     returned.
 *   - It should not raise a Lua error; one that does is reported through Lua's warning system, and
 *     what it was given is not delivered again. C++ exceptions must not leave it.
 *   - lua_close() delivers the last reports and lines to progress and output sinks: each bar that
 *     began ends.
 *   - NULL as the function restores the default: streams, bars, standard output.
 * Each setter returns 0 or a negative code. It does not block. */

/* A log record: of a task, or of a script in this process. */
struct mantichora_log {
  size_t size;            /* of this structure */
  int level;              /* 10 DEBUG, 20 INFO, 30 WARNING, 40 ERROR, 50 CRITICAL, or between */
  const char *level_name; /* "WARNING" */
  const char *logger;     /* "root", "net.http" */
  const char *message;    /* terminated; may hold zeros */
  size_t message_length;
  double created;   /* seconds since the epoch */
  int64_t process;  /* where it was made */
  int64_t runid;    /* of the task that made it; -1: none */
  const char *task; /* its name; "": none */
};

/* Log records that the levels set by scripts let pass (`basic_config{level=}`; WARNING at first) go
 * to `fn` instead of to a stream. Handlers that scripts have added are called as well. */
typedef void (*mantichora_log_sink)(void *ud, const struct mantichora_log *record);
MANTICHORA_API int mantichora_set_log_sink(struct lua_State *L, mantichora_log_sink fn, void *ud);

enum { MANTICHORA_BAR_START, MANTICHORA_BAR_UPDATE, MANTICHORA_BAR_END };

#define MANTICHORA_UNKNOWN UINT64_MAX /* as a total */

/* A report about one progress bar. */
struct mantichora_progress {
  size_t size;       /* of this structure */
  int event;         /* MANTICHORA_BAR_...: each bar starts and ends once, updates between them */
  uint64_t id;       /* unique among this state's bars */
  uint64_t done;     /* iterations done */
  uint64_t total;    /* of how many, or MANTICHORA_UNKNOWN */
  double elapsed;    /* seconds since its start */
  const char *name;  /* UTF-8 if the script's is */
  int64_t runid;     /* of the task whose bar it is; -1: none */
  const char *task;  /* its name; "": none */
  const char *state; /* "running"; at the end "finished", "broken" (left early), or the kind of the
                        task's end: "error", "exited", "killed", "timeout", "cancelled" */
};

/* Progress goes to `fn`, and nothing is drawn. Each bar is updated at most ten times a second.
 * atpbar.disable(), and progressbar = false of a pool, silence it too; a renderer set by a script
 * (atpbar.set_renderer) is not called meanwhile. */
typedef void (*mantichora_progress_sink)(void *ud, const struct mantichora_progress *report);
MANTICHORA_API int mantichora_set_progress_sink(struct lua_State *L, mantichora_progress_sink fn,
                                                void *ud);

/* A line that a task, or a program that it started, wrote. */
struct mantichora_output {
  size_t size;      /* of this structure */
  int stream;       /* 1: standard output, 2: standard error */
  const char *line; /* without its newline; terminated, may hold zeros */
  size_t length;
};

/* Lines go to `fn` instead of to this process's standard output and error: whole lines, in the
 * order in which each task wrote them. So do log lines that would go there, if there is no log
 * sink. What this process itself prints is not touched, nor is what tasks of the engine "inline"
 * print, since they run in it. Between calls of the library at most a few megabytes are kept; then
 * workers wait. */
typedef void (*mantichora_output_sink)(void *ud, const struct mantichora_output *output);
MANTICHORA_API int mantichora_set_output_sink(struct lua_State *L, mantichora_output_sink fn,
                                              void *ud);

/* What happens to tasks and workers. Fields that are not known or have no meaning for an event are
 * NULL, or negative. */
struct mantichora_task {
  size_t size;       /* of this structure */
  const char *event; /* "queued", "started", "emitted", "retried", "ended", "worker_started",
                        "worker_ended", and others in later versions */
  uint64_t pool;     /* tells this state's pools apart */
  double time;       /* seconds since the epoch */
  double clock;      /* seconds of a clock that nobody sets */
  int64_t runid;
  const char *name;               /* of the task */
  const char *place;              /* queued: where its function is defined, "<file.lua:12>" */
  int priority;                   /* queued */
  int64_t index;                  /* number of the item that it is in a map or imap, from 1 */
  int64_t call;                   /* which of the pool's maps, from 1 */
  int attempt;                    /* from 1 */
  int64_t pid;                    /* of the worker */
  int slot;                       /* likewise, from 1 */
  const char *kind;               /* ended, retried: "ok", "error", "killed", ... */
  double waited, elapsed, cpu;    /* ended: seconds */
  int64_t maxrss, sent, received; /* ended: bytes */
  int exitcode, signal;           /* ended: of the kinds "exited" and "killed" */
  const char *message;            /* ended: what was said of a failure */
  const char *why;                /* worker_ended */
  struct lua_State *L;            /* emitted: the values stand on this stack, */
  int first, count;               /* so many from this index on */
};

/* Whatever happens to tasks of all pools of the state from now on is told to `fn`, at the end of
 * the step in which it was found out, in the order of its happening. Each "queued" is followed by
 * exactly one "ended", by lua_close() at the latest. It is not called while another sink, a handler
 * or a listener of a script (pool:on) runs, nor inside of itself: what these cause is told later.
 * It may use what does not wait; what waits, and closing a pool, fails there. As long as there is a
 * task sink, tasks cost a little more. */
typedef void (*mantichora_task_sink)(void *ud, const struct mantichora_task *event);
MANTICHORA_API int mantichora_set_task_sink(struct lua_State *L, mantichora_task_sink fn, void *ud);

/* -- workers ------------------------------------------------------------------------------ */

/* `fn` is called in each worker that is forked for this state from now on, as the first thing there
 * and before the pool's `init`: to drop what only this process may have, above all its descriptors:
 * close sockets and devices; forget windows, sound and threads, of which a fork has only copies
 * that do not work. NULL: none.
 *
 * It runs on the worker's only thread, a copy of the one that forked; another thread may have held
 * any lock at the fork. So it may use close(2), munmap(2) and assignments, but no functions that
 * take locks, no Lua and nothing of this library. What it writes to standard output is output of a
 * task. It is not called in workers of a worker's own pools, nor with the engine "inline". Returns
 * 0 or a negative code. */
typedef void (*mantichora_child_hook)(void *ud);
MANTICHORA_API int mantichora_set_child_hook(struct lua_State *L, mantichora_child_hook fn,
                                             void *ud);

#ifdef __cplusplus
}
#endif

#endif
