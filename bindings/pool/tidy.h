/* Runs in: both (in the parent only with the inline engine).
 *
 * Settings of the interpreter that a task changes and the next task would see: the debug hook of
 * the tasks' thread, the collector (stopped or not, mode and parameters), and the default files of
 * the io library. After each task, and between the items of a batch, they are restored to what
 * `init` left. */
#ifndef MCH_TIDY_H
#define MCH_TIDY_H

#include <lua.h>

struct mch_tidy {
  int noted;
  lua_Hook hook;
  int mask, count;
  int function;         /* registry reference to the function behind `hook`, or LUA_NOREF */
  int runs;             /* the collector does */
  int pause, stepmul;   /* its parameters */
  const void *files[2]; /* default input and output; NULL: there is none */
  int references[2];    /* to these */
  int touched; /* one of the functions that mch_tidy_watch() has replaced may have changed it */
  int mode;    /* LUA_GCGEN or LUA_GCINC: the one before; 0: it was not changed */
};

/* Note how things are on this thread, which is that of tasks. Raises an error for want of memory.
 */
void mch_tidy_note(lua_State *L, struct mch_tidy *tidy);

/* Set back what is not so any more; raises nothing. Cheap where nothing is, for empty tasks are
 * many: only a `thorough` look finds what was changed through a function that was kept in a local
 * variable since before the fork. Takes four slots of the stack, as the next. */
void mch_tidy_restore(lua_State *L, struct mch_tidy *tidy, int thorough);

/* Only the debug hook, after what has used its place. */
void mch_tidy_restore_hook(lua_State *L, const struct mch_tidy *tidy);

void mch_tidy_forget(lua_State *L, struct mch_tidy *tidy);

/* In a worker: have collectgarbage(), io.input() and io.output() note that they change something.
 * (Lua has no way to ask for the collector's mode.) `baseline`: registry reference to the pool's,
 * or LUA_NOREF. */
void mch_tidy_watch(lua_State *L, struct mch_tidy *tidy, int baseline);

#endif
