/* Runs in: both. Purpose: output.h. */
#define _POSIX_C_SOURCE 200809L
#include "output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "output_state.h"
#include "runtime/base/platform.h"

enum { MANY_LINES = 65536, PATIENCE = 1000 }; /* bytes that do not wait for the next frame; ms */

/* The grace of tasks that are stopped, and what it takes to see their end. */
static const uint64_t stop_patience = SECOND * 3 / 4;

/* --- who may --- */

static int ours(const struct mch_output *out) {
  return mch_mark_is_ours(&out->mark);
}

/* Lock. 0: not in this process, a fork that we do not know of; the lock may be held there for ever.
 */
static int enter(struct mch_output *out) {
  if (!ours(out))
    return 0;
  pthread_mutex_lock(&out->lock);
  return 1;
}

/* Unlock. On the Lua thread a helper thread of ours that is to end is seen off. */
static void quit(struct mch_output *out, int on_lua_thread) {
  pthread_mutex_unlock(&out->lock);
  if (on_lua_thread)
    mch_ticker_join(&out->ticker);
}

/* --- lines --- */

/* There is something for whoever takes lines or reports, at once. */
static void want_owner(struct mch_output *out, int what) {
  atomic_fetch_or(&out->wanted, what);
}

void mch_output_complain(struct mch_output *out, int trouble, int cause) {
  unsigned bit = 1u << trouble;
  if (out->troubled & bit)
    return;
  out->troubled |= bit;
  out->untold |= bit;
  out->causes[trouble] = cause;
  want_owner(out, WANTED_FOR_TROUBLE);
}

/* What could not be written is lost. */
static void see_failure(struct mch_output *out, struct mch_sink *sink, int for_stdout) {
  if (sink->failure == 0)
    return;
  if (for_stdout && sink->failure == EPIPE && out->may_die && !out->child)
    mch_sink_die();
  mch_output_complain(out, for_stdout ? MCH_TROUBLE_STDOUT : MCH_TROUBLE_STDERR, sink->failure);
  sink->failure = 0;
}

static void push(struct mch_output *out, struct mch_sink *sink, int patience) {
  if (patience > 0)
    mch_sink_finish(sink, patience);
  else
    mch_sink_push(sink);
  see_failure(out, sink, sink == &out->sinks[0] || out->mixed);
}

/* Send what waits for descriptor 1 or 2, if it needs the host's stdout not to be in the way. */
static void push_after_host(struct mch_output *out, struct mch_sink *sink, int on_lua_thread,
                            int patience) {
  int locked;
  if (mch_buf_unread(&sink->unsent) == 0)
    return;
  locked = mch_output_lock_stdout(out, on_lua_thread);
  if (locked < 0)
    return;
  push(out, sink, patience);
  mch_hold_unlock(locked);
}

static void push_sinks(struct mch_output *out, int on_lua_thread, int patience) {
  push_after_host(out, &out->sinks[0], on_lua_thread, patience);
  if (out->mixed || (out->same && on_lua_thread))
    push_after_host(out, &out->sinks[1], on_lua_thread, patience);
  else
    push(out, &out->sinks[1], patience);
  if (mch_buf_unread(&out->sinks[1].unsent) == 0)
    out->mixed = 0;
}

/* Is what appears on the terminal put together in frames? */
static int in_frames(const struct mch_output *out) {
  return (out->mode == MCH_PROGRESS_BAR || out->edit.active) && !out->child;
}

static void keep_line(struct mch_output *out, int stream, const char *bytes, size_t length) {
  if (length <= SIZE_MAX - 9 && mch_buf_reserve(&out->kept, 9 + length) == 0) {
    mch_buf_u8(&out->kept, (uint8_t)stream);
    mch_buf_u64(&out->kept, length);
    mch_buf_append(&out->kept, bytes, length);
    want_owner(out, WANTED_FOR_LINES);
  }
  out->kept.failed = 0; /* without memory this line is lost, not the next */
}

/* Each line becomes a record of its own, so that they can be taken one by one. */
static void keep_lines(struct mch_output *out, int stream, const char *bytes, size_t length) {
  while (length > 0) {
    const char *end = memchr(bytes, '\n', length);
    size_t line = end != NULL ? (size_t)(end - bytes) : length;
    keep_line(out, stream, bytes, line);
    line += end != NULL;
    bytes += line;
    length -= line;
  }
}

static void route(struct mch_output *out, int stream, const char *bytes, size_t length) {
  if (out->child && out->upstream.lines != NULL) {
    out->upstream.lines(out->upstream.ud, stream, bytes, length);
    return;
  }
  if (out->keeps_lines) {
    keep_lines(out, stream, bytes, length);
    return;
  }
  mch_output_look(out);
  if (in_frames(out) && (stream == 2 || out->same))
    mch_buf_append(&out->above, bytes, length);
  else
    mch_sink_put(&out->sinks[out->same || stream == 2], bytes, length);
  out->mixed |= stream == 1 && out->same;
}

/* --- when --- */

static uint64_t frame_due(const struct mch_output *out) {
  size_t waiting = mch_buf_unread(&out->above);
  if (waiting > MANY_LINES)
    return 0;
  if (out->progress.running.count > 0)
    return out->drawn_ns + FRAME_INTERVAL;
  if (mch_screen_live(&out->screen) > 0 && !out->edit.active)
    return 0;
  return waiting > 0 || out->progress.ended.count > 0 ? 0 : NEVER;
}

/* Lines for somebody who edits without bars. */
static uint64_t lines_due(const struct mch_output *out) {
  return out->edit.active && mch_buf_unread(&out->above) > 0 ? 0 : NEVER;
}

static uint64_t report_due(const struct mch_output *out) {
  uint64_t due = out->progress.ended.count > 0 ? 0 : NEVER;
  uint64_t step = out->mode == MCH_PROGRESS_TEXT ? TEXT_INTERVAL : FRAME_INTERVAL;
  const struct mch_bar *bar;
  for (bar = out->progress.running.first; bar != NULL && due > 0; bar = bar->next)
    if (!bar->waiting)
      due = mch_sooner(due, bar->told ? bar->told_ns + step : 0);
  return out->waiting > 0 ? mch_sooner(due, out->stop_ns + stop_patience) : due;
}

static uint64_t progress_due(const struct mch_output *out) {
  if (out->child)
    return out->forwarded > 0 ? out->drawn_ns + FRAME_INTERVAL : NEVER;
  switch (out->mode) {
  case MCH_PROGRESS_BAR:
    return out->paused ? NEVER : frame_due(out);
  case MCH_PROGRESS_TEXT:
  case MCH_PROGRESS_JSON:
  case MCH_PROGRESS_REPORTS:
    return mch_sooner(report_due(out), lines_due(out));
  default:
    return lines_due(out);
  }
}

/* What could not be sent at the last try is tried again at the pace of frames. */
static void schedule(struct mch_output *out, uint64_t now) {
  uint64_t due = progress_due(out);
  if (mch_buf_unread(&out->sinks[0].unsent) + mch_buf_unread(&out->sinks[1].unsent) > 0)
    due = mch_sooner(due, now + FRAME_INTERVAL);
  if (due <= now && now > 0) /* the host was printing, or the terminal takes nothing */
    due = now + FRAME_INTERVAL / 10;
  atomic_store_explicit(&out->due, due, memory_order_relaxed);
}

/* Something new has come; `immediate`: it need not wait for the next frame. */
static void hasten(struct mch_output *out, int immediate) {
  uint64_t due = atomic_load_explicit(&out->due, memory_order_relaxed);
  uint64_t wanted = immediate ? 0 : progress_due(out);
  if (wanted < due)
    atomic_store_explicit(&out->due, wanted, memory_order_relaxed);
}

/* --- in a worker --- */

static void forward(struct mch_output *out, uint64_t now) {
  struct mch_bar *bar;
  out->drawn_ns = now;
  for (bar = out->progress.running.first; bar != NULL; bar = bar->next) {
    if (bar->waiting || !bar->forwarded || !mch_progress_sample(bar))
      continue;
    if (bar->upstream != NULL) {
      atomic_store_explicit(&bar->upstream->total, bar->total, memory_order_relaxed);
      atomic_store_explicit(&bar->upstream->done, bar->done, memory_order_relaxed);
    } else {
      out->upstream.bar_update(out->upstream.ud, bar->key, bar->done, bar->total);
    }
  }
}

/* The loop's stores go to the upstream slot at once, if there is one. */
static void start_upstream(struct mch_output *out, struct mch_bar *bar,
                           const struct mch_bar_spec *spec) {
  struct mch_bar_slot *slot = out->upstream.bar_start(out->upstream.ud, bar->key, spec);
  if (slot != NULL && spec->slot == NULL) {
    bar->slot = slot;
    bar->slot_id = atomic_load_explicit(&slot->id, memory_order_relaxed);
    bar->ticking = 0;
    return;
  }
  bar->upstream = slot;
  bar->forwarded = 1;
  out->forwarded++;
}

static void end_upstream(struct mch_output *out, struct mch_bar *bar, enum mch_bar_end how) {
  out->upstream.bar_end(out->upstream.ud, bar->key, bar->done, bar->total, how);
  out->forwarded -= bar->forwarded;
  mch_progress_drop(&out->progress, bar);
}

/* --- bars --- */

/* Tell those who observe. */
static void tell_bar(struct mch_output *out, const struct mch_bar *bar, uint64_t now,
                     enum mch_report_event event) {
  struct mch_report report;
  if ((mch_hub_wants(out->hub) & MCH_WISH_BARS) == 0)
    return;
  mch_output_describe(bar, now, &report);
  report.event = event;
  mch_hub_tell_bar(out->hub, &report);
}

void mch_output_each_bar(struct mch_output *out, uint64_t now_ns,
                         void (*f)(void *ud, const struct mch_report *report), void *ud) {
  struct mch_report report;
  struct mch_bar *bar;
  if (!enter(out))
    return;
  for (bar = out->progress.running.first; bar != NULL; bar = bar->next) {
    if (bar->waiting)
      continue;
    mch_progress_sample_at(bar, now_ns);
    mch_output_describe(bar, now_ns, &report);
    f(ud, &report);
  }
  f(ud, NULL);
  quit(out, 0);
}

static int has_bars(const struct mch_output *out) {
  return (out->mode != MCH_PROGRESS_OFF || out->watched) &&
         !(out->child && out->upstream.bar_start == NULL);
}

struct mch_bar *mch_output_bar_start(struct mch_output *out, const struct mch_bar_spec *spec) {
  struct mch_bar *bar = NULL;
  if (!enter(out))
    return NULL;
  mch_output_resolve(out);
  if (spec->tasks == NULL && !mch_progress_has_work(&out->progress))
    out->fit.known = 0; /* nothing stands that would jump */
  if (has_bars(out))
    bar = mch_progress_start(&out->progress, spec, mch_output_now(out));
  if (bar != NULL) {
    bar->ticking = bar->loop;
    tell_bar(out, bar, mch_output_now(out), MCH_REPORT_START);
    if (out->child)
      start_upstream(out, bar, spec);
    else if (out->mode == MCH_PROGRESS_REPORTS)
      want_owner(out, WANTED_FOR_REPORTS);
    hasten(out, 0);
  }
  quit(out, 0);
  return bar;
}

static void pump(struct mch_output *out, uint64_t now, int on_lua_thread);

static int goes(const struct mch_bar *bar) {
  return bar->leave == MCH_LEAVE_NEVER ||
         (bar->leave == MCH_LEAVE_FAILED && *mch_bar_end_mark(bar->how) == '\0');
}

/* A bar that has ended leaves its place: what comes from now on stands below it. */
static void move_up(struct mch_output *out, struct mch_bar *bar) {
  out->waiting -= bar->waiting;
  mch_progress_move(&out->progress, bar);
  bar->place = mch_buf_unread(&out->above);
  bar->forgotten = out->finalizing != 0;
  if (bar->forgotten)
    mch_progress_sort_forgotten(&out->progress);
  if (out->mode == MCH_PROGRESS_OFF || (out->mode == MCH_PROGRESS_BAR && goes(bar)))
    mch_progress_drop(&out->progress, bar);
  else if (out->mode == MCH_PROGRESS_TEXT || out->mode == MCH_PROGRESS_JSON)
    mch_output_write_reports(out, mch_output_now(out));
}

/* Those that wait for others which were stopped by the same call; 0: all that wait. */
static void move_up_all(struct mch_output *out, uint64_t stop) {
  struct mch_bar *bar, *next;
  if (!out->finalizing)
    mch_output_take_host(out, 0);
  for (bar = out->progress.running.first; bar != NULL && out->waiting > 0; bar = next) {
    next = bar->next;
    if (bar->waiting && (stop == 0 || bar->stop == stop))
      move_up(out, bar);
  }
}

/* Does a bar still run that this call has stopped, and whose end is to be waited for? */
static int awaits_others(const struct mch_output *out, uint64_t stop, uint64_t now) {
  const struct mch_bar *bar = out->progress.running.first;
  if (stop == 0 || out->mode == MCH_PROGRESS_REPORTS || out->mode == MCH_PROGRESS_OFF ||
      (stop == out->stop && now >= out->stop_ns + stop_patience))
    return 0;
  while (bar != NULL && (bar->stop != stop || bar->waiting))
    bar = bar->next;
  return bar != NULL;
}

/* It has ended. The last of this process's own bars is shown at once, for its loop goes on to
 * print; so are all where the host's text is not held. */
static void ended(struct mch_output *out, int loop) {
  uint64_t now = mch_output_now(out);
  if (out->mode == MCH_PROGRESS_REPORTS)
    want_owner(out, WANTED_FOR_REPORTS);
  if (!loop || out->mode == MCH_PROGRESS_REPORTS) {
    hasten(out, 0);
    return;
  }
  if (in_frames(out) && out->hold.streams == 0 && out->progress.ended.count > 0)
    mch_output_draw_frame(out, now, 1);
  if (out->progress.running.count == 0 || out->mode != MCH_PROGRESS_BAR)
    pump(out, now, 1);
  else
    hasten(out, 0);
}

/* What reached its end has ended well, whatever became of its task. */
static enum mch_bar_end fair_end(uint64_t done, uint64_t total, enum mch_bar_end how) {
  return total != MCH_BAR_UNKNOWN && done >= total ? MCH_BAR_FINISHED : how;
}

static void end_bar(struct mch_output *out, struct mch_bar *bar, uint64_t done, uint64_t total,
                    enum mch_bar_end how) {
  uint64_t now = mch_output_now(out), stop = bar->stop;
  int loop = bar->loop;
  if (out->child) {
    mch_progress_end(&out->progress, bar, done, total, how, now);
    bar->how = bar->of_tasks ? how : fair_end(bar->done, bar->total, how);
    end_upstream(out, bar, bar->how);
    return;
  }
  if (!out->finalizing)
    mch_output_take_host(out, loop);
  mch_progress_stay(bar, done, total, how, now);
  if (!bar->of_tasks)
    bar->how = fair_end(bar->done, bar->total, how);
  bar->waiting = 1;
  out->waiting++;
  tell_bar(out, bar, now, MCH_REPORT_END);
  if (!awaits_others(out, stop, now)) {
    if (stop != 0)
      move_up_all(out, stop);
    else
      move_up(out, bar);
  }
  ended(out, loop);
}

void mch_output_bar_end(struct mch_output *out, struct mch_bar *bar, uint64_t done, uint64_t total,
                        enum mch_bar_end how) {
  int loop = 0;
  if (bar == NULL || !enter(out))
    return;
  if (bar->foreign) {
    mch_progress_release(&out->progress, bar);
  } else {
    loop = bar->loop;
    end_bar(out, bar, done, total, how);
  }
  quit(out, loop);
}

void mch_output_finalize(struct mch_output *out, int on) {
  if (!enter(out))
    return;
  out->finalizing = on;
  quit(out, 0);
}

void mch_output_bar_name(struct mch_output *out, struct mch_bar *bar, const char *name,
                         size_t length) {
  if (bar == NULL || !enter(out))
    return;
  if (!bar->foreign && !bar->waiting) {
    mch_progress_rename(bar, name, length);
    tell_bar(out, bar, mch_output_now(out), MCH_REPORT_UPDATE);
    if (out->child)
      out->upstream.bar_name(out->upstream.ud, bar->key, mch_progress_name(bar), bar->name_length);
  }
  quit(out, 0);
}

void mch_output_begin_stop(struct mch_output *out) {
  if (!enter(out))
    return;
  out->stop++;
  out->stop_ns = mch_output_now(out);
  quit(out, 0);
}

void mch_output_bar_stopping(struct mch_output *out, struct mch_bar *bar) {
  if (bar == NULL || !enter(out))
    return;
  if (bar->stop == 0)
    bar->stop = out->stop;
  quit(out, 0);
}

/* Its object lives on, and is of no use. */
static void leave_bar(struct mch_output *out, struct mch_bar *bar, enum mch_bar_end how) {
  struct mch_bar *heir = mch_progress_leave(&out->progress, bar);
  if (heir == NULL)
    return;
  mch_progress_sample(heir);
  if (how == MCH_BAR_FINISHED && heir->total != MCH_BAR_UNKNOWN)
    how = MCH_BAR_BROKEN;
  end_bar(out, heir, MCH_BAR_UNKNOWN, 0, how);
}

void mch_output_leave_bars(struct mch_output *out, uint64_t first, enum mch_bar_end how) {
  struct mch_bar *bar, *next;
  if (!enter(out))
    return;
  for (bar = out->progress.running.first; bar != NULL; bar = next) {
    next = bar->next;
    if (bar->loop && bar->key >= first && !bar->waiting)
      leave_bar(out, bar, how);
  }
  quit(out, 1);
}

/* --- pumping --- */

/* The host's own text: nonzero if it must be drawn above the bars, else it is flushed. */
static int flush_host(struct mch_output *out) {
  int locked, waiting;
  if (out->hold.streams == 0) {
    if (mch_output_real(out))
      mch_hold_flush_stdout();
    return 0;
  }
  locked = mch_hold_lock(out->hold.streams, 1);
  waiting = mch_hold_waiting(&out->hold);
  mch_hold_unlock(locked);
  return waiting;
}

/* Text of the host while somebody edits without bars: nothing else would bring it to the screen. */
static int host_waits(struct mch_output *out) {
  int shows = out->progress.running.count > 0 && out->mode != MCH_PROGRESS_OFF;
  return out->edit.active && !shows && flush_host(out);
}

static void pump_progress(struct mch_output *out, uint64_t now, int on_lua_thread) {
  if (progress_due(out) > now && !(on_lua_thread && host_waits(out)))
    return;
  if (out->waiting > 0 && now >= out->stop_ns + stop_patience)
    move_up_all(out, 0);
  if (out->child)
    forward(out, now);
  else if (out->mode == MCH_PROGRESS_TEXT || out->mode == MCH_PROGRESS_JSON)
    mch_output_write_reports(out, now);
  if (in_frames(out))
    mch_output_draw_frame(out, now, on_lua_thread);
}

static void pump(struct mch_output *out, uint64_t now, int on_lua_thread) {
  pump_progress(out, now, on_lua_thread);
  push_sinks(out, on_lua_thread, 0);
  schedule(out, now);
}

void mch_output_pump(struct mch_output *out, uint64_t now_ns, int on_lua_thread) {
  if (!enter(out))
    return;
  out->helped_ns = now_ns;
  pump(out, now_ns, on_lua_thread);
  quit(out, on_lua_thread);
}

uint64_t mch_output_next(struct mch_output *out) {
  return atomic_load_explicit(&out->due, memory_order_relaxed);
}

static int tick(struct mch_output *out, uint64_t now) {
  int reports = out->mode == MCH_PROGRESS_REPORTS && !out->child;
  if ((reports && progress_due(out) <= now) || out->wanted)
    return MCH_TICK_OWNER;
  if (!reports)
    pump(out, now, 1);
  return 0;
}

int mch_output_tick(struct mch_output *out) {
  uint64_t now = mch_output_cheap_now(out);
  int soon = now < out->ticked_ns + SECOND / 1000 ? MCH_TICK_SOON : 0;
  int due;
  out->ticked_ns = now;
  if (now >= mch_hub_next_look(out->hub) && ours(out))
    mch_hub_look(out->hub, mch_now());
  if ((now < atomic_load_explicit(&out->due, memory_order_relaxed) && !out->wanted) || !ours(out))
    return soon;
  if (pthread_mutex_trylock(&out->lock) != 0)
    return soon; /* somebody is drawing */
  due = tick(out, now);
  quit(out, 1);
  return due | soon;
}

void mch_output_lines(struct mch_output *out, int stream, const char *bytes, size_t length) {
  if (!enter(out))
    return;
  route(out, stream, bytes, length);
  hasten(out, out->keeps_lines || !in_frames(out));
  quit(out, 0);
}

void mch_output_task_lines(struct mch_output *out, int stream, const char *bytes, size_t length) {
  if (mch_hub_wants(out->hub) & MCH_WISH_LINES)
    mch_hub_tell_lines(out->hub, stream, bytes, length);
  mch_output_lines(out, stream, bytes, length);
}

size_t mch_output_backlog(struct mch_output *out) {
  size_t backlog;
  if (!enter(out))
    return 0;
  backlog = mch_buf_unread(&out->above) + mch_buf_unread(&out->sinks[0].unsent) +
            mch_buf_unread(&out->sinks[1].unsent) + mch_buf_unread(&out->kept);
  quit(out, 0);
  return backlog;
}

/* Does something wait for the next frame, besides running bars? */
static int is_undrawn(const struct mch_output *out) {
  return mch_buf_unread(&out->above) > 0 ||
         (out->mode == MCH_PROGRESS_BAR && out->progress.ended.count > 0);
}

/* Draw until no line and no ended bar is left, or the terminal takes none for a second. */
static void draw_out(struct mch_output *out, uint64_t now) {
  mch_output_draw_frame(out, now, 1);
  while (!out->paused && is_undrawn(out) && mch_sink_wait(&out->sinks[1], PATIENCE) == 0)
    mch_output_draw_frame(out, now, 1);
}

/* `all`: the bars as they are now, too. */
static void flush(struct mch_output *out, int all) {
  uint64_t now = mch_output_now(out);
  int waiting = flush_host(out);
  if (in_frames(out) && (all || waiting || mch_buf_unread(&out->above) > 0 ||
                         (out->hold.streams == 0 && is_undrawn(out))))
    draw_out(out, now);
  else
    pump_progress(out, now, 1);
  push_sinks(out, 1, PATIENCE);
  schedule(out, now);
}

void mch_output_flush(struct mch_output *out) {
  if (!enter(out))
    return;
  flush(out, 0);
  quit(out, 1);
}

void mch_output_draw(struct mch_output *out) {
  if (!enter(out))
    return;
  flush(out, 1);
  quit(out, 1);
}

/* The streams are the host's again. */
static void let_go(struct mch_output *out) {
  int locked = mch_hold_lock(out->hold.streams, 1);
  mch_screen_detach(&out->screen);
  mch_buf_clear(&out->host);                        /* it stays on the screen as a whole line */
  mch_hold_take(&out->hold, &out->sinks[1].unsent); /* another thread's, of just now */
  mch_hold_end(&out->hold);
  mch_hold_unlock(locked);
  mch_ticker_stop(&out->ticker);
}

/* What somebody edits becomes lines that stay. */
static void end_edit(struct mch_output *out) {
  if (!out->edit.active)
    return;
  mch_output_keep_edit(out);
  draw_out(out, mch_output_now(out));
}

static void release(struct mch_output *out) {
  if (out->waiting > 0)
    move_up_all(out, 0);
  end_edit(out);
  flush(out, 1);
  if (out->hold.streams != 0 || mch_screen_live(&out->screen) > 0)
    let_go(out);
  push_sinks(out, 1, PATIENCE);
  schedule(out, mch_output_now(out));
}

void mch_output_release(struct mch_output *out) {
  if (!enter(out))
    return;
  release(out);
  quit(out, 1);
}

void mch_output_pause(struct mch_output *out) {
  if (!enter(out))
    return;
  release(out);
  out->paused = 1;
  schedule(out, mch_output_now(out));
  quit(out, 1);
}

void mch_output_resume(struct mch_output *out) {
  if (!enter(out))
    return;
  out->paused = 0;
  hasten(out, 0);
  quit(out, 1);
}

int mch_output_can_edit(struct mch_output *out) {
  int can;
  if (!enter(out))
    return 0;
  mch_output_look(out);
  can = out->terminal && out->same && !mch_output_is_dumb() && !out->child;
  quit(out, 0);
  return can;
}

static void set_edit(struct mch_output *out, const char *text, size_t length, size_t cursor) {
  out->edit.active = 1;
  out->edit.cursor = cursor;
  mch_buf_clear(&out->edit.text);
  mch_buf_append(&out->edit.text, text, length);
}

void mch_output_edit(struct mch_output *out, const char *text, size_t length, size_t cursor) {
  if (!enter(out))
    return;
  set_edit(out, text, length, cursor);
  out->helped_ns = mch_output_now(out);
  mch_output_draw_frame(out, out->helped_ns, 1);
  schedule(out, out->helped_ns);
  quit(out, 1);
}

void mch_output_edit_end(struct mch_output *out, const char *text, size_t length) {
  if (!enter(out))
    return;
  set_edit(out, text, length, length);
  end_edit(out);
  schedule(out, mch_output_now(out));
  quit(out, 1);
}

void mch_output_clear(struct mch_output *out) {
  if (!enter(out))
    return;
  mch_screen_detach(&out->screen);
  mch_sink_put(&out->sinks[1], "\033[H\033[2J", 7);
  mch_output_draw_frame(out, mch_output_now(out), 1);
  quit(out, 1);
}

/* Where the host's text is not held, we would not see it. */
static void detach(struct mch_output *out) {
  flush(out, 1);
  if (out->hold.streams == 0 && !out->edit.active)
    mch_screen_detach(&out->screen);
  out->leaving = 1;
}

void mch_output_detach(struct mch_output *out) {
  if (!enter(out))
    return;
  detach(out);
  quit(out, 1);
}

/* By exit(): any thread may hold the lock, and may be ended while it does. */
void mch_output_leave(void *output) {
  struct mch_output *out = output;
  if (ours(out) && mch_platform_lock_within(&out->lock, 1000000000u)) {
    release(out);
    out->mode = MCH_PROGRESS_OFF; /* a helper thread does not hold it again */
    pthread_mutex_unlock(&out->lock);
  }
  out->anchor = NULL;
}

static int take_line(struct mch_output *out, struct mch_buf *line) {
  const unsigned char *record = out->kept.data + out->kept.read;
  size_t length;
  int stream;
  mch_buf_clear(line);
  if (mch_buf_unread(&out->kept) == 0)
    return 0;
  stream = record[0];
  length = (size_t)mch_load_u64(record + 1);
  mch_buf_append(line, record + 9, length);
  mch_buf_u8(line, 0);
  mch_buf_consume(&out->kept, 9 + length);
  if (mch_buf_unread(&out->kept) == 0 && out->kept.capacity > MANY_LINES)
    mch_buf_free(&out->kept);
  return stream;
}

int mch_output_take_line(struct mch_output *out, struct mch_buf *line) {
  int stream;
  if (!enter(out))
    return 0;
  stream = take_line(out, line);
  if (stream == 0)
    atomic_fetch_and(&out->wanted, ~WANTED_FOR_LINES);
  quit(out, 1);
  return stream;
}

void mch_output_keep_lines(struct mch_output *out, int keep) {
  struct mch_buf line = {0};
  int stream;
  if (!enter(out))
    return;
  out->keeps_lines = keep;
  atomic_fetch_and(&out->wanted, ~WANTED_FOR_LINES);
  while (!keep && (stream = take_line(out, &line)) != 0) {
    if (line.failed != 0)
      continue;
    line.data[line.length - 1] = '\n';
    route(out, stream, (const char *)line.data, line.length);
  }
  mch_buf_free(&line);
  hasten(out, !in_frames(out));
  quit(out, 1);
}

int mch_output_trouble(struct mch_output *out, int *cause) {
  int trouble = 0, i;
  if ((out->wanted & WANTED_FOR_TROUBLE) == 0 || !enter(out))
    return 0;
  for (i = 1; i < MCH_TROUBLES && trouble == 0; i++)
    if (out->untold & 1u << i)
      trouble = i;
  *cause = out->causes[trouble];
  out->untold &= ~(1u << trouble);
  if (out->untold == 0)
    atomic_fetch_and(&out->wanted, ~WANTED_FOR_TROUBLE);
  quit(out, 1);
  return trouble;
}

void mch_output_may_die(struct mch_output *out, int may) {
  atomic_store_explicit(&out->may_die, may, memory_order_relaxed);
}

int mch_output_is_joined(struct mch_output *out) {
  int joined;
  if (!enter(out))
    return 0;
  mch_output_look(out);
  joined = out->child && out->upstream.lines != NULL ? out->upstream.joined
                                                     : out->same && !out->keeps_lines;
  quit(out, 0);
  return joined;
}

int mch_output_shows_bars(struct mch_output *out) {
  int shows;
  if (!enter(out))
    return 0;
  mch_output_resolve(out);
  shows = !out->child && (out->mode == MCH_PROGRESS_BAR || out->mode == MCH_PROGRESS_TEXT);
  quit(out, 0);
  return shows;
}

int mch_output_wants_owner(struct mch_output *out, uint64_t now_ns) {
  return out->wanted || (out->reports && mch_output_next(out) <= now_ns);
}

static void drop_reported(struct mch_output *out) {
  if (out->reported != NULL)
    mch_progress_drop(&out->progress, out->reported);
  out->reported = NULL;
}

int mch_output_report(struct mch_output *out, uint64_t now_ns, struct mch_report *report) {
  struct mch_bar *bar;
  if (!enter(out))
    return 0;
  drop_reported(out);
  bar = out->child ? NULL : out->progress.ended.first;
  if (bar == NULL && !out->child)
    bar = out->progress.running.first;
  while (bar != NULL && !mch_output_to_tell(out, bar, now_ns, report))
    bar = bar->next;
  if (bar != NULL) {
    mch_output_told(bar, now_ns, report);
    out->reported = report->event == MCH_REPORT_END ? bar : NULL;
  } else {
    atomic_fetch_and(&out->wanted, ~WANTED_FOR_REPORTS);
    schedule(out, now_ns);
  }
  quit(out, 1);
  return bar != NULL;
}

/* --- life --- */

/* By our own helper thread. */
static void tick_alone(void *ud) {
  struct mch_output *out = ud;
  uint64_t now = mch_output_now(out);
  pthread_mutex_lock(&out->lock);
  if (out->hold.streams == 0 || out->no_thread || mch_output_helped(out, now))
    mch_ticker_stop(&out->ticker);
  else
    pump(out, now, 0);
  pthread_mutex_unlock(&out->lock);
  mch_hub_look(out->hub, mch_now());
}

static void set_up(struct mch_output *out) {
  int i;
  for (i = 0; i < 2; i++) {
    out->sinks[i].fd = i + 1;
    out->sinks[i].write = mch_output_real(out) ? mch_sink_write : out->config.write;
    out->sinks[i].ud = out->config.ud;
  }
  mch_mark_free(&out->mark); /* in a child it is its parent's */
  mch_mark_make(&out->mark);
  atomic_store_explicit(&out->due, NEVER, memory_order_relaxed);
  pthread_mutex_init(&out->lock,
                     NULL); /* in a child: another thread may have held it at the fork */
  mch_ticker_init(&out->ticker, tick_alone, out);
}

struct mch_output *mch_output_new(const struct mch_output_config *config, struct mch_error *error) {
  struct mch_output *out = calloc(1, sizeof *out);
  if (out == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory");
    return NULL;
  }
  if (config != NULL)
    out->config = *config;
  atomic_init(&out->refs, 1);
  out->hub = mch_hub_new();
  if (out->hub == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory");
    free(out);
    return NULL;
  }
  set_up(out);
  return out;
}

struct mch_hub *mch_output_hub(struct mch_output *out) {
  return out->hub;
}

struct mch_output *mch_output_ref(struct mch_output *out) {
  atomic_fetch_add(&out->refs, 1);
  return out;
}

void mch_output_unref(struct mch_output *out) {
  int i;
  if (out == NULL || atomic_fetch_sub(&out->refs, 1) > 1)
    return;
  if (!ours(out))
    return; /* its thread and its lock are another process's */
  mch_output_release(out);
  mch_ticker_free(&out->ticker);
  mch_mark_free(&out->mark);
  mch_anchor_drop(&out->anchor);
  mch_progress_free(&out->progress);
  mch_screen_free(&out->screen);
  mch_buf_free(&out->above);
  mch_buf_free(&out->host);
  mch_buf_free(&out->scratch);
  mch_buf_free(&out->edit.text);
  mch_buf_free(&out->frame);
  mch_buf_free(&out->kept);
  for (i = 0; i < 2; i++)
    mch_buf_free(&out->sinks[i].unsent);
  pthread_mutex_destroy(&out->lock);
  mch_hub_free(out->hub);
  free(out);
}

void mch_output_set_mode(struct mch_output *out, enum mch_progress_mode mode) {
  if (!enter(out))
    return;
  if (in_frames(out) && mode != MCH_PROGRESS_BAR && !out->edit.active)
    release(out);
  drop_reported(out);
  if (out->waiting > 0)
    move_up_all(out, 0);
  out->mode = mode;
  out->reports = mode == MCH_PROGRESS_REPORTS;
  atomic_fetch_and(&out->wanted, ~WANTED_FOR_REPORTS);
  if (mode == MCH_PROGRESS_AUTO && out->progress.running.count > 0)
    mch_output_resolve(out);
  hasten(out, 0);
  quit(out, 1);
}

void mch_output_watch_bars(struct mch_output *out, int on) {
  if (!enter(out))
    return;
  out->watched = on;
  quit(out, 0);
}

void mch_output_set_style(struct mch_output *out, enum mch_tty_style style) {
  if (!enter(out))
    return;
  out->style = style;
  quit(out, 1);
}

void mch_output_no_thread(struct mch_output *out) {
  if (!enter(out))
    return;
  out->no_thread = 1;
  mch_ticker_stop(&out->ticker);
  quit(out, 1);
}

void mch_output_become_child(struct mch_output *out, const struct mch_upstream *upstream) {
  int i;
  for (i = 0; i < 2; i++) {
    mch_buf_clear(&out->sinks[i].unsent);
    out->sinks[i].dead = 0;
  }
  mch_hold_drop(&out->hold);
  mch_anchor_drop(&out->anchor);
  mch_progress_disown(&out->progress);
  mch_screen_detach(&out->screen);
  mch_buf_clear(&out->above);
  mch_buf_clear(&out->host);
  mch_buf_clear(&out->kept);
  out->keeps_lines = 0;
  out->reports = 0;
  out->wanted = 0;
  out->untold = 0;
  out->reported = NULL;
  out->forwarded = out->waiting = 0;
  out->looked = out->mixed = out->paused = out->leaving = out->edit.active = 0;
  out->child = 1;
  mch_hub_become_child(out->hub);
  out->upstream = *upstream;
  set_up(out);
}
