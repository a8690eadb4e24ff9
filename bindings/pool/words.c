/* Runs in: parent. Purpose: words.h. The sentences are those of scripts/mantichora/failure.lua. */
#include "words.h"

#include <lua.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bindings/values/bytecode.h"
#include "bindings/values/graph.h"
#include "runtime/base/buf.h"
#include "runtime/base/decimal.h"
#include "runtime/engines/task.h"

static void put(struct mch_buf *to, const char *text) {
  mch_buf_append(to, text, strlen(text));
}

static void put_number(struct mch_buf *to, uint64_t number) {
  char text[32];
  snprintf(text, sizeof text, "%" PRIu64, number);
  put(to, text);
}

static void put_fixed(struct mch_buf *to, double number, int digits) {
  char text[MCH_DECIMAL_ROOM];
  mch_decimal_fixed(text, number, digits);
  put(to, text);
}

/* -- where a function is defined ----------------------------------------------------------- */

/* A source as Lua shows it: "=name", "@file", or the code itself. */
static void put_source(struct mch_buf *to, const char *source, size_t length) {
  const char *end;
  size_t room = LUA_IDSIZE - 1;
  if (length > 0 && (*source == '=' || *source == '@')) {
    size_t over = length - 1 > room ? length - 1 - room : 0;
    if (*source == '@' && over > 0) {
      put(to, "...");
      mch_buf_append(to, source + 1 + over + 3, length - 1 - over - 3);
    } else
      mch_buf_append(to, source + 1, length - 1 - over);
    return;
  }
  end = memchr(source, '\n', length);
  room -= sizeof "[string \"...\"]" - 1;
  put(to, "[string \"");
  if (end == NULL && length <= room)
    mch_buf_append(to, source, length);
  else {
    size_t shown = end != NULL ? (size_t)(end - source) : length;
    mch_buf_append(to, source, shown < room ? shown : room);
    put(to, "...");
  }
  put(to, "\"]");
}

static void place(const struct mch_pool *pool, const struct mch_task *task, struct mch_buf *to) {
  const char *source;
  const void *dump;
  size_t length, source_length, line;
  uint32_t id;
  if (task->codes == 0)
    return;
  memcpy(&id, task->body, sizeof id);
  dump = mch_observe_code(pool, id, &length);
  if (dump == NULL || !mch_bytecode_origin(dump, length, &source, &source_length, &line))
    return;
  put(to, "<");
  put_source(to, source, source_length);
  put(to, ":");
  put_number(to, line);
  put(to, ">");
}

/* -- what a worker said of an error -------------------------------------------------------- */

struct text {
  const char *bytes; /* NULL: none */
  size_t length;
};

/* The first three values of such an answer (ltask.c). */
struct said {
  struct text message, traceback, shown;
};

struct graph {
  const unsigned char *at, *end;
};

static size_t take_varint(struct graph *graph) {
  size_t value = 0;
  unsigned shift;
  for (shift = 0; graph->at < graph->end && shift < 63; shift += 7) {
    unsigned char byte = *graph->at++;
    value |= (size_t)(byte & 0x7f) << shift;
    if (byte < 0x80)
      return value;
  }
  graph->at = graph->end;
  return SIZE_MAX;
}

/* A string; any other value of one byte is passed over. */
static struct text take_text(struct graph *graph) {
  struct text text = {NULL, 0};
  unsigned tag = graph->at < graph->end ? *graph->at++ : 0;
  unsigned plain = tag & ~(unsigned)MCH_TAG_KEPT;
  if (plain >= MCH_TAG_SHORT && plain < MCH_TAG_SHORT + 32)
    text.length = plain - MCH_TAG_SHORT;
  else if (plain == MCH_TAG_STRING)
    text.length = take_varint(graph);
  else
    return text;
  if (text.length > (size_t)(graph->end - graph->at)) {
    graph->at = graph->end;
    text.length = 0;
    return text;
  }
  text.bytes = (const char *)graph->at;
  graph->at += text.length;
  return text;
}

static void read_said(struct said *said, const struct mch_result *result) {
  struct graph graph = {result->graph, result->graph + result->length};
  memset(said, 0, sizeof *said);
  if (result->text != NULL) {
    said->message.bytes = result->text;
    said->message.length = strlen(result->text);
  }
  if (result->length == 0 || result->graph_is_log || *graph.at++ != MCH_GRAPH_VERSION ||
      take_varint(&graph) < 3)
    return;
  said->message = take_text(&graph);
  said->traceback = take_text(&graph);
  said->shown = take_text(&graph);
}

static void put_text(struct mch_buf *to, struct text text) {
  mch_buf_append(to, text.bytes, text.length);
}

/* -- how it failed ------------------------------------------------------------------------- */

static const char *signal_name(int number) {
  static const struct {
    int number;
    const char *name;
  } names[] = {{1, "SIGHUP"},   {2, "SIGINT"},   {3, "SIGQUIT"},  {4, "SIGILL"},   {6, "SIGABRT"},
               {7, "SIGBUS"},   {8, "SIGFPE"},   {9, "SIGKILL"},  {11, "SIGSEGV"}, {13, "SIGPIPE"},
               {14, "SIGALRM"}, {15, "SIGTERM"}, {24, "SIGXCPU"}, {25, "SIGXFSZ"}};
  size_t i;
  for (i = 0; i < sizeof names / sizeof names[0]; i++)
    if (names[i].number == number)
      return names[i].name;
  return NULL;
}

static int is(struct text text, const char *words) {
  return text.bytes != NULL && text.length == strlen(words) &&
         memcmp(text.bytes, words, text.length) == 0;
}

static void put_reason(struct mch_buf *to, struct text reason) {
  if (reason.bytes == NULL)
    return;
  put(to, " ");
  put_text(to, reason);
}

static void put_killed(struct mch_buf *to, const struct mch_result *result, struct text reason) {
  const char *name = signal_name(result->signal);
  if (is(reason, "its worker broke the protocol")) {
    put_text(to, reason);
    return;
  }
  put(to, "its worker was killed");
  if (result->signal != 0) {
    put(to, " by signal ");
    put_number(to, (uint64_t)result->signal);
    if (name != NULL) {
      put(to, " (");
      put(to, name);
      put(to, ")");
    }
  }
  if (result->perhaps_oom)
    put(to, ", perhaps because memory was short");
  put_reason(to, reason);
}

static void put_or(struct mch_buf *to, struct text reason, const char *otherwise) {
  if (reason.bytes != NULL)
    put_text(to, reason);
  else
    put(to, otherwise);
}

static void put_message(struct mch_buf *to, const struct mch_task *task,
                        const struct mch_result *result, const struct said *said) {
  switch (result->kind) {
  case MCH_KIND_UNSENDABLE:
    put_or(to, said->message, "its result could not be sent");
    break;
  case MCH_KIND_EXITED:
    put(to, "its worker exited with status ");
    put_number(to, (uint64_t)(unsigned)result->exitcode);
    put_reason(to, said->message);
    break;
  case MCH_KIND_KILLED:
    put_killed(to, result, said->message);
    break;
  case MCH_KIND_TIMEOUT:
    put(to, is(said->message, "init") && said->traceback.bytes == NULL ? "init" : "it");
    put(to, " ran longer than allowed (");
    put_fixed(to, (double)result->elapsed / 1e9, 2);
    put(to, " s)");
    break;
  case MCH_KIND_CANCELLED:
    put(to, "it was cancelled");
    if (task->cause != NULL) {
      put(to, " because of task ");
      put_number(to, task->cause->runid);
    }
    break;
  default:
    put_or(to, said->message, "not enough memory");
  }
}

/* Which task it was, in parentheses. */
static void put_details(struct mch_buf *to, const struct mch_pool *pool,
                        const struct mch_task *task, uint64_t index) {
  size_t before = to->length;
  const struct mch_task_extra *extra = task->extra;
  struct mch_buf where = {0};
  if (index > 0) {
    put(to, " (item ");
    put_number(to, index);
  }
  if (extra != NULL && extra->name_length > 0) {
    put(to, to->length == before ? " (\"" : ", \"");
    mch_buf_append(to, extra->name, extra->name_length);
    put(to, "\"");
  }
  place(pool, task, &where);
  if (mch_buf_unread(&where) > 0) {
    put(to, to->length == before ? " (function " : ", function ");
    mch_buf_append(to, where.data, where.length);
  }
  if (to->length > before)
    put(to, ")");
  mch_buf_free(&where);
}

static void put_worker(struct mch_buf *to, const struct mch_result *result) {
  if (result->pid == 0)
    return;
  put(to, "\n  in worker ");
  put_number(to, (uint64_t)result->pid);
  put(to, ", after ");
  put_fixed(to, (double)result->elapsed / 1e9, 3);
  put(to, " s");
  if (result->maxrss == 0)
    return;
  put(to, ", ");
  put_fixed(to, (double)result->maxrss / (1024 * 1024), 1);
  put(to, " MiB at most");
}

static void put_report(struct mch_buf *to, const struct mch_pool *pool, const struct mch_task *task,
                       const struct mch_result *result, const struct said *said) {
  if (mch_observe_name(pool) != NULL) {
    put(to, "\n  in pool \"");
    put(to, mch_observe_name(pool));
    put(to, "\"");
  }
  put_worker(to, result);
  if (task->attempt > 0) {
    put(to, ", at attempt ");
    put_number(to, task->attempt + 1u);
  }
  if (result->progress != NULL) {
    put(to, "\n  last progress: ");
    put(to, result->progress);
  }
  if (said->traceback.bytes != NULL) {
    put(to, "\nworker's ");
    put_text(to, said->traceback);
  }
}

static void failure(const struct mch_pool *pool, const struct mch_task *task,
                    const struct mch_result *result, uint64_t runid, uint64_t index,
                    struct mch_buf *message, struct mch_buf *report) {
  struct said said;
  size_t from = message->length;
  read_said(&said, result);
  put_message(message, task, result, &said);
  put(report, "task ");
  put_number(report, runid);
  put_details(report, pool, task, index);
  put(report, ": ");
  put(report, mch_kind_word(result->kind));
  put(report, ": ");
  if (said.shown.bytes != NULL)
    put_text(report, said.shown);
  else if (message->failed == 0)
    mch_buf_append(report, message->data + from, message->length - from);
  put_report(report, pool, task, result, &said);
}

struct mch_words mch_words_of_pools(void) {
  struct mch_words words = {place, failure};
  return words;
}
