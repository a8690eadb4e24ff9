/* Runs in: both.
 *
 * What a shell command is to do with each item: one userdata, made by the parent before it forks,
 * which the workers inherit. */
#ifndef MCH_JOB_H
#define MCH_JOB_H

#include "bindings/commands/json.h"
#include "bindings/commands/text.h"
#include "runtime/commands/input.h"
#include "runtime/commands/spawn.h"
#include "runtime/commands/tray.h"

enum mch_verb { MCH_VERB_MAP, MCH_VERB_FILTER, MCH_VERB_RUN };

struct mch_job {
  enum mch_verb verb;
  enum mch_input_format in, out;
  int retries;     /* extra attempts */
  int tags;        /* the item stands before each line */
  int skips_blank; /* of CSV */
  int ends_crlf;   /* of CSV out */
  int skips_bad;   /* bad input is no failure */
  int keeps;       /* what map and filter print by themselves is a part of their results */
  struct mch_counter *counter;
  struct mch_tray *trays; /* all of them, side by side, shared */
  unsigned tray_count;
  size_t shared; /* bytes of both */

  /* A worker's. */
  struct mch_json_reader *reader;
  struct mch_text result;  /* of the item that runs */
  struct mch_text scratch; /* what it is made of */
  struct mch_spawned command;
  struct mch_capture capture;

  /* The parent's. */
  struct mch_text output; /* written up to `written` */
  size_t written;
};

/* What belongs to the job in Lua: its user values. */
enum {
  MCH_JOB_FUNCTION = 1, /* of map and filter, or the pieces of run's command */
  MCH_JOB_READER,       /* its userdata */
  MCH_JOB_NAMES,        /* of the fields of this batch */
  MCH_JOB_COLUMNS,      /* of CSV out */
  MCH_JOB_VALUES = MCH_JOB_COLUMNS,
};

/* The job of this state. Raises that there is none. Pushes nothing. */
struct mch_job *mch_job_get(lua_State *L);

/* Push the job. */
void mch_job_push(lua_State *L);

/* The tray of this number. */
struct mch_tray *mch_job_tray(lua_State *L, struct mch_job *job, int arg);

/* work(tray, first, attempt, names, columns, items): do the items of a tray. Runs in a worker.
 * `first`: the number of the first item; `attempt`: attempts that it has behind it; `names`: of the
 * fields of CSV in, or nil; `columns`: of CSV out, a list, or nil: there is no header, or true: the
 * first line makes them, and the batch ends with it; `items`: the batch, if it is not in the tray.
 * Returns the seconds it took, and the payload of the last record if that is away. */
int mch_work(lua_State *L);

/* command(item, number): the command of run for this item. Raises why there is none. */
int mch_work_command(lua_State *L);

#endif
