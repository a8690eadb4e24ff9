/* Runs in: both. Purpose: progress.h. */
#include "progress.h"

#include <stdlib.h>
#include <string.h>

const char *mch_bar_end_word(enum mch_bar_end how) {
  switch (how) {
#define MCH_WORD(name, word, mark)                                                                 \
  case MCH_BAR_##name:                                                                             \
    return word;
    MCH_BAR_ENDS(MCH_WORD)
#undef MCH_WORD
  }
  return "";
}

const char *mch_bar_end_mark(enum mch_bar_end how) {
  switch (how) {
#define MCH_MARK(name, word, mark)                                                                 \
  case MCH_BAR_##name:                                                                             \
    return mark;
    MCH_BAR_ENDS(MCH_MARK)
#undef MCH_MARK
  }
  return "";
}

const char *mch_bar_unit_word(enum mch_bar_unit unit) {
  static const char *const words[MCH_UNITS] = {"", "B", "iB"};
  return words[unit];
}

static void append(struct mch_bar_list *list, struct mch_bar *bar) {
  bar->previous = list->last;
  bar->next = NULL;
  if (list->last != NULL)
    list->last->next = bar;
  else
    list->first = bar;
  list->last = bar;
  list->count++;
}

static void take(struct mch_bar_list *list, struct mch_bar *bar) {
  if (bar->previous != NULL)
    bar->previous->next = bar->next;
  else
    list->first = bar->next;
  if (bar->next != NULL)
    bar->next->previous = bar->previous;
  else
    list->last = bar->previous;
  list->count--;
}

/* At most MCH_BAR_TEXT bytes, and no half character at the cut. */
static size_t bounded(const char *text, size_t length) {
  size_t cut = MCH_BAR_TEXT;
  if (text == NULL)
    return 0;
  if (length <= MCH_BAR_TEXT)
    return length;
  while (cut > MCH_BAR_TEXT - 4 && ((unsigned char)text[cut] & 0xC0) == 0x80)
    cut--;
  return cut;
}

/* --- pace --- */

static void note_pace(struct mch_bar *bar, uint64_t now_ns) {
  struct mch_bar_pace *pace = &bar->pace;
  pace->ns[pace->next] = now_ns;
  pace->done[pace->next] = bar->done;
  pace->next = (pace->next + 1) % MCH_PACE;
  pace->count += pace->count < MCH_PACE;
}

/* Sample `i` of the ring, from the oldest. */
static unsigned pace_at(const struct mch_bar_pace *pace, unsigned i) {
  return (pace->next + MCH_PACE - pace->count + i) % MCH_PACE;
}

/* A sample for each tenth of a second in which it moved. One that goes back begins anew. */
static void watch_pace(struct mch_bar *bar, uint64_t now_ns) {
  static const uint64_t step = 90000000u;
  struct mch_bar_pace *pace = &bar->pace;
  unsigned last = pace_at(pace, pace->count - 1);
  if (bar->done < pace->done[last])
    pace->count = 0;
  else if (bar->done == pace->done[last] || now_ns < pace->ns[last] + step)
    return;
  note_pace(bar, now_ns);
}

/* The fastest step is left out when there are others: an instant part, of files that were there
 * already, say, tells nothing of the remainder. A standstill counts once it is longer than the
 * steps were. */
double mch_progress_pace(const struct mch_bar *bar, uint64_t now_ns) {
  const struct mch_bar_pace *pace = &bar->pace;
  double done = 0, seconds = 0, most = -1, most_done = 0, most_seconds = 0, still;
  unsigned i, steps = pace->count > 0 ? pace->count - 1 : 0;
  for (i = 0; i < steps; i++) {
    unsigned from = pace_at(pace, i), to = pace_at(pace, i + 1);
    double count = (double)(pace->done[to] - pace->done[from]);
    double time = (double)(pace->ns[to] - pace->ns[from]) / 1e9;
    done += count;
    seconds += time;
    if (time <= 0 || count / time <= most)
      continue;
    most = count / time;
    most_done = count;
    most_seconds = time;
  }
  if (steps == 0)
    return -1;
  i = pace_at(pace, steps);
  still = now_ns > pace->ns[i] ? (double)(now_ns - pace->ns[i]) / 1e9 : 0;
  if (still > seconds / steps)
    seconds += still;
  if (steps > 1) {
    done -= most_done;
    seconds -= most_seconds;
  }
  return seconds > 0 ? done / seconds : -1;
}

/* --- bars --- */

struct mch_bar *mch_progress_start(struct mch_progress *progress, const struct mch_bar_spec *spec,
                                   uint64_t now_ns) {
  size_t name = bounded(spec->name, spec->name_length);
  size_t task = bounded(spec->task, spec->task_length);
  struct mch_bar *bar = calloc(1, sizeof *bar + name + task);
  if (bar == NULL)
    return NULL;
  bar->key = ++progress->last_key;
  bar->slot = spec->slot != NULL ? spec->slot : &bar->own;
  bar->slot_id = spec->slot != NULL ? spec->slot_id : bar->key;
  atomic_init(&bar->own.id, bar->key);
  atomic_init(&bar->own.total, spec->total);
  bar->total = spec->total;
  bar->started_ns = now_ns;
  bar->runid = spec->runid;
  bar->loop = spec->loop != 0;
  bar->tasks = spec->tasks;
  bar->of_tasks = spec->tasks != NULL;
  bar->unit = spec->unit;
  bar->leave = spec->leave;
  note_pace(bar, now_ns);
  bar->name_length = name;
  bar->task_at = name;
  bar->task_length = task;
  if (name > 0)
    memcpy(bar->text, spec->name, name);
  if (task > 0)
    memcpy(bar->text + name, spec->task, task);
  append(&progress->running, bar);
  return bar;
}

static int sample_tasks(struct mch_bar *bar) {
  uint64_t running = atomic_load_explicit(&bar->tasks->running, memory_order_relaxed);
  uint64_t failed = atomic_load_explicit(&bar->tasks->failed, memory_order_relaxed);
  uint64_t cancelled = atomic_load_explicit(&bar->tasks->cancelled, memory_order_relaxed);
  uint64_t found = atomic_load_explicit(&bar->tasks->found, memory_order_relaxed);
  int changed = running != bar->tasks_running || failed != bar->tasks_failed ||
                cancelled != bar->tasks_cancelled || found != bar->tasks_found;
  bar->tasks_running = running;
  bar->tasks_failed = failed;
  bar->tasks_cancelled = cancelled;
  bar->tasks_found = found;
  return changed;
}

int mch_progress_sample(struct mch_bar *bar) {
  struct mch_bar_slot *slot = bar->slot;
  uint64_t done, total;
  int changed = bar->tasks != NULL && sample_tasks(bar);
  if (slot == NULL || atomic_load_explicit(&slot->id, memory_order_acquire) != bar->slot_id)
    return changed;
  done = atomic_load_explicit(&slot->done, memory_order_relaxed);
  total = atomic_load_explicit(&slot->total, memory_order_relaxed);
  atomic_thread_fence(memory_order_acquire);
  if (atomic_load_explicit(&slot->id, memory_order_relaxed) != bar->slot_id)
    return changed;
  changed |= done != bar->done || total != bar->total;
  bar->done = done;
  bar->total = total;
  return changed;
}

int mch_progress_sample_at(struct mch_bar *bar, uint64_t now_ns) {
  int changed = mch_progress_sample(bar);
  watch_pace(bar, now_ns);
  return changed;
}

void mch_progress_stay(struct mch_bar *bar, uint64_t done, uint64_t total, enum mch_bar_end how,
                       uint64_t now_ns) {
  if (done == MCH_BAR_UNKNOWN) {
    mch_progress_sample(bar);
  } else {
    bar->done = done;
    bar->total = total;
  }
  if (bar->tasks != NULL)
    sample_tasks(bar);
  bar->how = how;
  bar->ended_ns = now_ns;
  bar->tasks = NULL;
  bar->slot = NULL; /* it may be somebody else's from now on */
}

void mch_progress_move(struct mch_progress *progress, struct mch_bar *bar) {
  bar->waiting = 0;
  take(&progress->running, bar);
  append(&progress->ended, bar);
}

void mch_progress_sort_forgotten(struct mch_progress *progress) {
  struct mch_bar *bar = progress->ended.last, *at = bar->previous;
  struct mch_bar_list *list = &progress->ended;
  while (at != NULL && at->forgotten && at->place == bar->place && at->key > bar->key)
    at = at->previous;
  if (at == bar->previous)
    return;
  take(list, bar);
  bar->previous = at;
  bar->next = at != NULL ? at->next : list->first;
  bar->next->previous = bar;
  if (at != NULL)
    at->next = bar;
  else
    list->first = bar;
  list->count++;
}

void mch_progress_end(struct mch_progress *progress, struct mch_bar *bar, uint64_t done,
                      uint64_t total, enum mch_bar_end how, uint64_t now_ns) {
  mch_progress_stay(bar, done, total, how, now_ns);
  mch_progress_move(progress, bar);
}

static void free_bar(struct mch_bar *bar) {
  free(bar->renamed);
  free(bar);
}

void mch_progress_drop(struct mch_progress *progress, struct mch_bar *bar) {
  take(&progress->ended, bar);
  free_bar(bar);
}

void mch_progress_rename(struct mch_bar *bar, const char *name, size_t length) {
  size_t kept = bounded(name, length);
  char *text = malloc(kept + 1);
  if (text == NULL)
    return;
  if (kept > 0)
    memcpy(text, name, kept);
  free(bar->renamed);
  bar->renamed = text;
  bar->name_length = kept;
}

const char *mch_progress_name(const struct mch_bar *bar) {
  return bar->renamed != NULL ? bar->renamed : bar->text;
}

int mch_progress_has_work(const struct mch_progress *progress) {
  const struct mch_bar *bar = progress->running.first;
  while (bar != NULL && bar->of_tasks)
    bar = bar->next;
  return bar != NULL;
}

static void drop_all(struct mch_bar_list *list) {
  while (list->first != NULL) {
    struct mch_bar *bar = list->first;
    take(list, bar);
    free_bar(bar);
  }
}

static void disown(struct mch_progress *progress, struct mch_bar *bar) {
  take(&progress->running, bar);
  bar->slot = &bar->own;
  bar->tasks = NULL;
  bar->upstream = NULL;
  bar->ticking = 0;
  bar->foreign = 1;
  append(&progress->foreign, bar);
}

void mch_progress_disown(struct mch_progress *progress) {
  drop_all(&progress->ended);
  while (progress->running.first != NULL)
    if (progress->running.first->waiting) {
      mch_progress_move(progress, progress->running.first);
      mch_progress_drop(progress, progress->ended.last);
    } else
      disown(progress, progress->running.first);
}

struct mch_bar *mch_progress_leave(struct mch_progress *progress, struct mch_bar *bar) {
  size_t size = sizeof *bar + bar->task_at + bar->task_length;
  struct mch_bar *heir = malloc(size);
  if (heir == NULL)
    return NULL;
  memcpy(heir, bar, size);
  if (bar->slot == &bar->own)
    heir->slot = &heir->own;
  bar->renamed = NULL;
  disown(progress, bar);
  append(&progress->running, heir);
  return heir;
}

void mch_progress_release(struct mch_progress *progress, struct mch_bar *bar) {
  take(&progress->foreign, bar);
  free_bar(bar);
}

void mch_progress_free(struct mch_progress *progress) {
  drop_all(&progress->running);
  drop_all(&progress->ended);
  drop_all(&progress->foreign);
}
