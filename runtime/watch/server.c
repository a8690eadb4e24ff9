/* Runs in: parent. Purpose: server.h.
 *
 * Here: the socket, its viewers, what they ask for, and how lines get to them. The hub calls
 * serve() on its thread; all else that touches a viewer's lines is under the hub's lock. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "orders.h"
#include "runtime/base/gate.h"
#include "runtime/show/jsonl.h"
#include "runtime/show/jsontext.h"
#include "server_state.h"

static const uint64_t again = SECOND / 50;     /* where lines wait that could not be sent */
static const uint64_t forgiven = SECOND / 2;   /* between two snapshots of one who is too slow */
static const uint64_t unwatched = SECOND / 10; /* where no descriptor tells: no thread is added */
static const uint64_t last_patience = SECOND / 5;

/* What is wanted while nobody watches, for those who will come; and while somebody does. */
enum {
  WANTS_PAST = MCH_WISH_FAILURES | MCH_WISH_LOG | MCH_WISH_LINES,
  WANTS_ALL = WANTS_PAST | MCH_WISH_TASKS | MCH_WISH_BARS
};

/* -- lines to viewers ---------------------------------------------------------------------- */

static size_t count_lines(const struct mch_buf *lines) {
  size_t count = 0, i;
  for (i = lines->read; i < lines->length; i++)
    count += lines->data[i] == '\n';
  return count;
}

void mch_server_give(struct viewer *viewer, const struct mch_buf *line) {
  size_t length = mch_buf_unread(line);
  if (viewer->missed > 0 || line->failed != 0 ||
      mch_buf_unread(&viewer->out) + length > viewer->allowed) {
    viewer->missed += count_lines(line) + (line->failed != 0);
    return;
  }
  mch_buf_append(&viewer->out, line->data + line->read, length);
  if (viewer->out.failed != 0) { /* what is there may end in the middle of a line */
    viewer->broken = 1;
    viewer->missed++;
  }
}

void mch_server_give_pool(struct mch_server *server, uint64_t number, const struct mch_buf *line) {
  struct viewer *viewer;
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    if (number <= viewer->upto)
      mch_server_give(viewer, line);
}

void mch_server_give_bars(struct mch_server *server, const struct mch_buf *line) {
  struct viewer *viewer;
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    if (viewer->sees_bars)
      mch_server_give(viewer, line);
}

void mch_server_give_all(struct mch_server *server, const struct mch_buf *line) {
  struct viewer *viewer;
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    if (viewer->is_ready)
      mch_server_give(viewer, line);
}

/* As much as the socket takes. */
static void push(struct viewer *viewer) {
  viewer->gone |= viewer->broken;
  while (mch_buf_unread(&viewer->out) > 0 && !viewer->gone) {
    ssize_t sent = mch_platform_send(viewer->fd, viewer->out.data + viewer->out.read,
                                     mch_buf_unread(&viewer->out), 0);
    if (sent > 0)
      mch_buf_consume(&viewer->out, (size_t)sent);
    else if (sent < 0 && errno == EINTR)
      continue;
    else {
      viewer->gone = !(sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
      break;
    }
  }
  if (mch_buf_unread(&viewer->out) == 0)
    mch_buf_shrink(&viewer->out, 64 * 1024);
}

/* -- what viewers ask for ------------------------------------------------------------------ */

static void answer(struct mch_server *server, struct viewer *viewer,
                   const struct mch_request *request, const char *was, const char *why_not) {
  struct mch_buf line = {0};
  if (request->id == NULL)
    return;
  mch_jsonl_open(&line, "answer");
  mch_jsontext_put(&line, ",\"id\":");
  mch_buf_append(&line, request->id, request->id_length);
  mch_jsonl_flag(&line, "ok", why_not == NULL);
  mch_jsonl_word(&line, "was", was);
  mch_jsonl_word(&line, "message", why_not);
  mch_jsonl_seconds(&line, "clock", mch_now());
  mch_jsonl_close(&line);
  mch_hub_lock(server->hub);
  mch_server_give(viewer, &line);
  mch_hub_unlock(server->hub);
  mch_buf_free(&line);
}

/* Paused as long as anybody who has asked for it is here. */
static void settle_pause(struct mch_server *server) {
  const struct viewer *viewer;
  int on = 0;
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    on |= viewer->pauses && !viewer->gone;
  if (on == mch_hub_is_paused(server->hub))
    return;
  mch_hub_pause(server->hub, on);
  mch_hub_lock(server->hub);
  mch_buf_clear(&server->line);
  mch_jsonl_open(&server->line, "paused");
  mch_jsonl_flag(&server->line, "paused", on);
  mch_jsonl_seconds(&server->line, "clock", mch_now());
  mch_jsonl_close(&server->line);
  mch_server_give_all(server, &server->line);
  mch_hub_unlock(server->hub);
}

/* What is asked of one pool. */
struct asked {
  const struct mch_request *request;
  int found, was;
};

static void ask_pool(void *ud, struct mch_pool *pool, uint64_t number) {
  struct asked *asked = ud;
  const struct mch_request *request = asked->request;
  if (pool == NULL || number != request->pool)
    return;
  asked->found = 1;
  if (request->order == MCH_ORDER_CANCEL)
    asked->was = mch_pool_cancel_from_outside(pool, request->runid);
  else
    mch_pool_resize_from_outside(pool, (unsigned)request->number);
}

static void ask(struct mch_server *server, struct viewer *viewer,
                const struct mch_request *request) {
  static const char *const was[] = {NULL, "queued", "running"};
  struct asked asked = {request, 0, 0};
  int cancels = request->order == MCH_ORDER_CANCEL;
  if (!cancels && (request->number < 1 || request->number > 4096)) {
    answer(server, viewer, request, NULL, "n is not a number from 1 to 4096");
    return;
  }
  mch_hub_each_pool(server->hub, ask_pool, &asked);
  if (!asked.found)
    answer(server, viewer, request, NULL, "there is no such pool");
  else if (cancels && asked.was == 0)
    answer(server, viewer, request, NULL, "there is no such task, or it has ended");
  else
    answer(server, viewer, request, cancels ? was[asked.was] : NULL, NULL);
  server->next_tick = 0;
}

static void obey(struct mch_server *server, struct viewer *viewer, const char *line,
                 size_t length) {
  struct mch_request request;
  if (!mch_orders_read(line, length, &request))
    return;
  switch (request.order) {
  case MCH_ORDER_PAUSE:
  case MCH_ORDER_RESUME:
    viewer->pauses = request.order == MCH_ORDER_PAUSE;
    settle_pause(server);
    answer(server, viewer, &request, NULL, NULL);
    break;
  case MCH_ORDER_CANCEL:
  case MCH_ORDER_WORKERS:
    ask(server, viewer, &request);
    break;
  default:
    break;
  }
}

/* Bytes of a viewer, at most some at a time: others and the pools want their turn. */
static void hear(struct viewer *viewer) {
  char bytes[MOST_ASKED];
  ssize_t got = recv(viewer->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (got > 0)
    mch_buf_append(&viewer->asked, bytes, (size_t)got);
  else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
    viewer->gone = 1;
}

static void obey_all(struct mch_server *server, struct viewer *viewer) {
  for (;;) {
    const char *from = (const char *)viewer->asked.data + viewer->asked.read;
    size_t length = mch_buf_unread(&viewer->asked);
    const char *end = length > 0 ? memchr(from, '\n', length) : NULL;
    if (end == NULL) {
      viewer->gone |= length > MOST_ASKED || viewer->asked.failed != 0;
      return;
    }
    obey(server, viewer, from, (size_t)(end - from));
    mch_buf_consume(&viewer->asked, (size_t)(end - from) + 1);
  }
}

/* -- who comes and goes -------------------------------------------------------------------- */

static struct viewer *new_viewer(struct mch_server *server, int fd) {
  struct viewer *viewer = calloc(1, sizeof *viewer);
  if (viewer == NULL)
    return NULL;
  viewer->fd = fd;
  viewer->allowed = MOST_WAITS;
  if (mch_poller_add(server->poller, fd, viewer) == 0)
    return viewer;
  free(viewer);
  return NULL;
}

/* 0: nobody else waits to come in. */
static int let_in(struct mch_server *server) {
  struct viewer *viewer;
  int fd = mch_platform_accept(server->listener);
  if (fd < 0)
    return 0;
  if (!mch_place_is_friend(fd) || server->viewer_count >= MOST_VIEWERS ||
      (viewer = new_viewer(server, fd)) == NULL) {
    close(fd);
    return 1;
  }
  mch_hub_lock(server->hub);
  viewer->next = server->viewers;
  server->viewers = viewer;
  server->viewer_count++;
  mch_hub_unlock(server->hub);
  return 1;
}

static void free_viewer(struct viewer *viewer) {
  close(viewer->fd);
  mch_buf_free(&viewer->asked);
  mch_buf_free(&viewer->out);
  free(viewer);
}

/* Let go of those who have gone. */
static void see_off(struct mch_server *server) {
  struct viewer **at = &server->viewers, *gone = NULL, *next;
  mch_hub_lock(server->hub);
  while (*at != NULL) {
    struct viewer *viewer = *at;
    if (!viewer->gone) {
      at = &viewer->next;
      continue;
    }
    *at = viewer->next;
    viewer->next = gone;
    gone = viewer;
    server->viewer_count--;
  }
  mch_hub_unlock(server->hub);
  for (; gone != NULL; gone = next) {
    next = gone->next;
    mch_poller_remove(server->poller, gone->fd);
    free_viewer(gone);
  }
}

/* -- serving ------------------------------------------------------------------------------- */

static void hear_all(struct mch_server *server) {
  struct mch_ready ready[MOST_VIEWERS + 1];
  struct viewer *viewer;
  int count = mch_poller_wait(server->poller, ready, MOST_VIEWERS + 1, 0, NULL), i;
  mch_gate_hold_off();
  for (i = 0; i < count; i++) {
    if (ready[i].ud != server)
      hear(ready[i].ud);
    else
      while (let_in(server)) {
      }
  }
  mch_gate_let_go();
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    obey_all(server, viewer);
}

/* The first lines of one who is new, or those after what he has missed. */
static void begin(struct mch_server *server, struct viewer *viewer, uint64_t now) {
  struct mch_buf line = {0};
  size_t missed;
  mch_hub_lock(server->hub);
  missed = viewer->missed;
  viewer->missed = 0;
  if (!viewer->begun)
    mch_lines_hello(&line, &server->script);
  else {
    mch_jsonl_open(&line, "skipped");
    mch_jsonl_count(&line, "lines", missed);
    mch_jsonl_seconds(&line, "clock", now);
    mch_jsonl_close(&line);
  }
  mch_server_give(viewer, &line);
  mch_hub_unlock(server->hub);
  mch_buf_free(&line);
  viewer->begun = 1;
  viewer->looked = now;
  mch_server_snapshot(server, viewer, now);
}

static int wants_snapshot(struct mch_server *server, const struct viewer *viewer, uint64_t now) {
  int wants;
  mch_hub_lock(server->hub);
  wants = !viewer->begun || (viewer->missed > 0 && mch_buf_unread(&viewer->out) == 0 &&
                             now >= viewer->looked + forgiven);
  if (server->hurries)
    server->next_tick = 0;
  server->hurries = 0;
  mch_hub_unlock(server->hub);
  return wants;
}

static void begin_all(struct mch_server *server, uint64_t now) {
  struct viewer *viewer;
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    if (wants_snapshot(server, viewer, now))
      begin(server, viewer, now);
}

/* Send what there is. Whether some is left. */
static int push_all(struct mch_server *server) {
  struct viewer *viewer;
  int left = 0;
  mch_gate_hold_off();
  mch_hub_lock(server->hub);
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next) {
    push(viewer);
    left |= mch_buf_unread(&viewer->out) > 0 || viewer->missed > 0;
  }
  mch_hub_unlock(server->hub);
  mch_gate_let_go();
  return left;
}

static uint64_t serve(void *ud, uint64_t now) {
  struct mch_server *server = ud;
  int left;
  hear_all(server);
  settle_pause(server);
  see_off(server);
  mch_hub_want(server->hub, &server->observer, server->viewers != NULL ? WANTS_ALL : WANTS_PAST);
  begin_all(server, now);
  if (server->viewers != NULL && now >= server->next_tick)
    mch_server_tick(server, now);
  if (server->viewers != NULL && now >= server->next_stats)
    mch_server_stats(server, now);
  left = push_all(server);
  if (server->viewers == NULL)
    return server->observer.fd < 0 ? now + unwatched : MCH_NEVER;
  return left ? now + again : mch_sooner(server->next_tick, server->next_stats);
}

/* -- life ---------------------------------------------------------------------------------- */

/* A fork has nothing to do with the socket. */
static void forget(void *ud) {
  struct mch_server *server = ud;
  struct viewer *viewer;
  close(server->listener);
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next)
    close(viewer->fd);
  mch_poller_free(server->poller);
}

static char *copy(const char *text) {
  return text != NULL ? strdup(text) : NULL;
}

static void free_server(struct mch_server *server) {
  struct viewer *next;
  for (; server->viewers != NULL; server->viewers = next) {
    next = server->viewers->next;
    free_viewer(server->viewers);
  }
  mch_server_free_pools(server);
  mch_server_free_past(&server->failures);
  mch_server_free_past(&server->records);
  mch_server_free_past(&server->printed);
  free(server->bars.bars);
  free(server->bars_before.bars);
  mch_buf_free(&server->line);
  mch_poller_free(server->poller);
  if (server->listener >= 0)
    close(server->listener);
  mch_mark_free(&server->mark);
  free((char *)server->script.name);
  free((char *)server->script.arguments);
  free(server);
}

static int start(struct mch_server *server, struct mch_error *error) {
  server->poller = mch_poller_new(error);
  if (server->poller == NULL)
    return MCH_SYSTEM;
  server->listener = mch_place_listen(server->path, error);
  if (server->listener < 0)
    return MCH_SYSTEM;
  if (mch_poller_add(server->poller, server->listener, server) == 0) {
    server->observer.wants = WANTS_PAST;
    server->observer.serve = serve;
    server->observer.forked = forget;
    server->observer.fd = mch_poller_has_fd() ? mch_poller_fd(server->poller) : -1;
    mch_server_set_observer(server);
    if (mch_hub_add(server->hub, &server->observer) == 0) {
      mch_output_watch_bars(server->output, 1);
      return 0;
    }
  }
  unlink(server->path);
  return mch_error_system(error, "the socket of viewers cannot be watched");
}

struct mch_server *mch_server_open(struct mch_output *output, const struct mch_script *script,
                                   struct mch_error *error) {
  struct mch_server *server = calloc(1, sizeof *server);
  mch_error_set(error, MCH_NOMEM, "not enough memory for the socket of viewers");
  if (server == NULL)
    return NULL;
  server->listener = -1;
  server->output = output;
  server->hub = mch_output_hub(output);
  server->script = *script;
  server->script.name = copy(script->name);
  server->script.arguments = copy(script->arguments);
  mch_mark_make(&server->mark);
  if (start(server, error) == 0)
    return server;
  free_server(server);
  return NULL;
}

const char *mch_server_path(const struct mch_server *server) {
  return server->path;
}

/* The last that viewers hear. Under the lock. */
static void say_end(struct mch_server *server) {
  struct viewer *viewer;
  mch_buf_clear(&server->line);
  mch_lines_plain(&server->line, "end", mch_now());
  for (viewer = server->viewers; viewer != NULL; viewer = viewer->next) {
    if (viewer->begun)
      mch_server_give(viewer, &server->line);
    push(viewer);
  }
}

void mch_server_close(struct mch_server *server) {
  if (server == NULL || !mch_mark_is_ours(&server->mark))
    return;
  if (!server->left) {
    mch_hub_remove(server->hub, &server->observer);
    server->next_tick = 0;
    serve(server, mch_now()); /* what changed last is told */
    say_end(server);
    unlink(server->path);
  }
  if (mch_hub_is_paused(server->hub))
    mch_hub_pause(server->hub, 0);
  mch_output_watch_bars(server->output, 0);
  free_server(server);
}

void mch_server_leave(struct mch_server *server) {
  if (!mch_mark_is_ours(&server->mark) || server->left)
    return;
  unlink(server->path);
  if (!mch_hub_lock_within(server->hub, last_patience))
    return;
  server->left = 1;
  say_end(server);
  mch_hub_unlock(server->hub);
}
