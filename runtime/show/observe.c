/* Runs in: parent. Purpose: observe.h. */
#define _POSIX_C_SOURCE 200809L
#include "observe.h"

#include <stdlib.h>

#include "runtime/base/error.h"

/* Where no thread serves: between looks at descriptors. */
static const uint64_t look_again = 100000000u; /* 0.1 s */

struct mch_hub {
  pthread_mutex_t serving; /* one thread serves; the list of observers stays */
  pthread_mutex_t roll;    /* for the pools */
  pthread_mutex_t lock;    /* for what observers keep, and the list */
  struct mch_observer *observers;
  struct mch_rolled *pools, **last_pool;
  struct mch_poller *poller; /* NULL: no observer has a descriptor */
  uint64_t numbers;          /* given to pools */
  atomic_uint wants;
  _Atomic uint64_t due, look;
  atomic_int threads, paused;
};

static void init_locks(struct mch_hub *hub) {
  pthread_mutex_init(&hub->serving, NULL);
  pthread_mutex_init(&hub->roll, NULL);
  pthread_mutex_init(&hub->lock, NULL);
}

struct mch_hub *mch_hub_new(void) {
  struct mch_hub *hub = calloc(1, sizeof *hub);
  if (hub == NULL)
    return NULL;
  init_locks(hub);
  hub->last_pool = &hub->pools;
  atomic_init(&hub->due, MCH_NEVER);
  atomic_init(&hub->look, MCH_NEVER);
  return hub;
}

void mch_hub_free(struct mch_hub *hub) {
  if (hub == NULL)
    return;
  mch_poller_free(hub->poller);
  pthread_mutex_destroy(&hub->serving);
  pthread_mutex_destroy(&hub->roll);
  pthread_mutex_destroy(&hub->lock);
  free(hub);
}

void mch_hub_lock(struct mch_hub *hub) {
  pthread_mutex_lock(&hub->lock);
}

void mch_hub_unlock(struct mch_hub *hub) {
  pthread_mutex_unlock(&hub->lock);
}

int mch_hub_lock_within(struct mch_hub *hub, uint64_t nanoseconds) {
  return mch_platform_lock_within(&hub->lock, nanoseconds);
}

/* -- when ---------------------------------------------------------------------------------- */

/* The next time by what the observers said; under the lock. */
static void schedule(struct mch_hub *hub) {
  const struct mch_observer *observer;
  uint64_t due = MCH_NEVER;
  for (observer = hub->observers; observer != NULL; observer = observer->next)
    due = mch_sooner(due, observer->due);
  atomic_store(&hub->due, due);
  if (due < atomic_load(&hub->look))
    atomic_store(&hub->look, due);
}

uint64_t mch_hub_due(const struct mch_hub *hub) {
  return hub != NULL ? atomic_load_explicit(&hub->due, memory_order_relaxed) : MCH_NEVER;
}

int mch_hub_fd(const struct mch_hub *hub) {
  return hub != NULL && hub->poller != NULL ? mch_poller_fd(hub->poller) : -1;
}

void mch_hub_hasten(struct mch_hub *hub, struct mch_observer *observer, uint64_t due) {
  if (due < observer->due)
    observer->due = due;
  if (due < atomic_load(&hub->due))
    atomic_store(&hub->due, due);
  if (due < atomic_load(&hub->look))
    atomic_store(&hub->look, due);
}

void mch_hub_count_threads(struct mch_hub *hub, int step) {
  if (hub != NULL)
    atomic_fetch_add(&hub->threads, step);
}

uint64_t mch_hub_next_look(const struct mch_hub *hub) {
  if (hub == NULL || atomic_load_explicit(&hub->threads, memory_order_relaxed) > 0)
    return MCH_NEVER;
  return atomic_load_explicit(&hub->look, memory_order_relaxed);
}

void mch_hub_look(struct mch_hub *hub, uint64_t now) {
  if (now < mch_hub_next_look(hub))
    return;
  mch_hub_serve(hub, now);
  atomic_store(&hub->look,
               mch_sooner(mch_hub_due(hub), hub->poller != NULL ? now + look_again : MCH_NEVER));
}

/* -- observers ----------------------------------------------------------------------------- */

/* What anybody wants has changed, perhaps. */
static void tell_pools(struct mch_hub *hub) {
  struct mch_rolled *rolled;
  const struct mch_observer *observer;
  unsigned wants = 0;
  pthread_mutex_lock(&hub->roll);
  pthread_mutex_lock(&hub->lock);
  for (observer = hub->observers; observer != NULL; observer = observer->next)
    wants |= observer->wants;
  atomic_store(&hub->wants, wants);
  pthread_mutex_unlock(&hub->lock);
  for (rolled = hub->pools; rolled != NULL; rolled = rolled->next)
    rolled->changed(rolled->pool);
  pthread_mutex_unlock(&hub->roll);
}

/* Its descriptor is listened to. 0, or MCH_NOMEM. */
static int join(struct mch_hub *hub, struct mch_observer *observer) {
  struct mch_error error;
  if (observer->fd < 0)
    return 0;
  if (hub->poller == NULL && (hub->poller = mch_poller_new(&error)) == NULL)
    return MCH_NOMEM;
  return mch_poller_add(hub->poller, observer->fd, observer) == 0 ? 0 : MCH_NOMEM;
}

int mch_hub_add(struct mch_hub *hub, struct mch_observer *observer) {
  int code;
  pthread_mutex_lock(&hub->serving);
  code = join(hub, observer);
  if (code == 0) {
    pthread_mutex_lock(&hub->lock);
    observer->next = hub->observers;
    hub->observers = observer;
    observer->due = observer->serve != NULL ? 0 : MCH_NEVER;
    schedule(hub);
    pthread_mutex_unlock(&hub->lock);
  }
  pthread_mutex_unlock(&hub->serving);
  if (code == 0)
    tell_pools(hub);
  return code;
}

void mch_hub_remove(struct mch_hub *hub, struct mch_observer *observer) {
  struct mch_observer **at = &hub->observers;
  pthread_mutex_lock(&hub->serving);
  if (observer->fd >= 0)
    mch_poller_remove(hub->poller, observer->fd);
  pthread_mutex_lock(&hub->lock);
  while (*at != NULL && *at != observer)
    at = &(*at)->next;
  if (*at != NULL)
    *at = observer->next;
  schedule(hub);
  pthread_mutex_unlock(&hub->lock);
  pthread_mutex_unlock(&hub->serving);
  tell_pools(hub);
}

void mch_hub_want(struct mch_hub *hub, struct mch_observer *observer, unsigned wants) {
  if (observer->wants == wants)
    return;
  pthread_mutex_lock(&hub->lock);
  observer->wants = wants;
  pthread_mutex_unlock(&hub->lock);
  tell_pools(hub);
}

void mch_hub_pause(struct mch_hub *hub, int on) {
  atomic_store(&hub->paused, on);
  tell_pools(hub);
}

int mch_hub_is_paused(const struct mch_hub *hub) {
  return atomic_load(&hub->paused);
}

/* -- telling ------------------------------------------------------------------------------- */

unsigned mch_hub_wants(const struct mch_hub *hub) {
  return hub != NULL ? atomic_load_explicit(&hub->wants, memory_order_relaxed) : 0;
}

/* Tell those who want it and can be told so. */
#define TELL(hub, wish, member, ...)                                                               \
  do {                                                                                             \
    struct mch_observer *observer;                                                                 \
    pthread_mutex_lock(&(hub)->lock);                                                              \
    for (observer = (hub)->observers; observer != NULL; observer = observer->next)                 \
      if ((observer->wants & (wish)) && observer->member != NULL)                                  \
        observer->member(observer->ud, __VA_ARGS__);                                               \
    pthread_mutex_unlock(&(hub)->lock);                                                            \
  } while (0)

void mch_hub_tell_event(struct mch_hub *hub, const struct mch_told *told) {
  unsigned wish = MCH_WISH_TASKS | (told->result != NULL ? MCH_WISH_FAILURES : 0u);
  TELL(hub, wish, event, told);
}

void mch_hub_tell_bar(struct mch_hub *hub, const struct mch_report *report) {
  TELL(hub, MCH_WISH_BARS, bar, report);
}

void mch_hub_tell_lines(struct mch_hub *hub, int stream, const char *bytes, size_t length) {
  TELL(hub, MCH_WISH_LINES, lines, stream, bytes, length);
}

void mch_hub_tell_log(struct mch_hub *hub, const struct mch_log_record *record) {
  TELL(hub, MCH_WISH_LOG, log, record);
}

/* -- pools --------------------------------------------------------------------------------- */

void mch_hub_enter(struct mch_hub *hub, struct mch_rolled *rolled) {
  pthread_mutex_lock(&hub->roll);
  rolled->next = NULL;
  rolled->number = ++hub->numbers;
  *hub->last_pool = rolled;
  hub->last_pool = &rolled->next;
  rolled->changed(rolled->pool);
  TELL(hub, ~0u, pool, rolled->pool, rolled->number, 1);
  pthread_mutex_unlock(&hub->roll);
}

void mch_hub_leave(struct mch_hub *hub, struct mch_rolled *rolled) {
  struct mch_rolled **at = &hub->pools;
  struct mch_observer *leaving;
  if (rolled->number == 0)
    return;
  pthread_mutex_lock(&hub->serving);
  pthread_mutex_lock(&hub->roll);
  for (leaving = hub->observers; leaving != NULL; leaving = leaving->next)
    if (leaving->leaving != NULL)
      leaving->leaving(leaving->ud, rolled->pool, rolled->number);
  while (*at != rolled)
    at = &(*at)->next;
  *at = rolled->next;
  if (hub->last_pool == &rolled->next)
    hub->last_pool = at;
  TELL(hub, ~0u, pool, rolled->pool, rolled->number, 0);
  pthread_mutex_unlock(&hub->roll);
  pthread_mutex_unlock(&hub->serving);
  rolled->number = 0;
}

void mch_hub_each_pool(struct mch_hub *hub,
                       void (*f)(void *ud, struct mch_pool *pool, uint64_t number), void *ud) {
  struct mch_rolled *rolled;
  pthread_mutex_lock(&hub->roll);
  for (rolled = hub->pools; rolled != NULL; rolled = rolled->next)
    f(ud, rolled->pool, rolled->number);
  f(ud, NULL, 0);
  pthread_mutex_unlock(&hub->roll);
}

/* -- serving ------------------------------------------------------------------------------- */

static void mark_ready(struct mch_hub *hub) {
  struct mch_ready ready[8];
  int count = hub->poller != NULL ? mch_poller_wait(hub->poller, ready, 8, 0, NULL) : 0, i;
  for (i = 0; i < count; i++)
    ((struct mch_observer *)ready[i].ud)->due = 0;
}

/* Whose time has come is served; it may hasten itself meanwhile. */
static void serve(struct mch_hub *hub, struct mch_observer *observer, uint64_t now) {
  uint64_t next;
  pthread_mutex_lock(&hub->lock);
  if (observer->due > now || observer->serve == NULL) {
    pthread_mutex_unlock(&hub->lock);
    return;
  }
  observer->due = MCH_NEVER;
  pthread_mutex_unlock(&hub->lock);
  next = observer->serve(observer->ud, now);
  pthread_mutex_lock(&hub->lock);
  observer->due = mch_sooner(observer->due, next);
  pthread_mutex_unlock(&hub->lock);
}

int mch_hub_serve(struct mch_hub *hub, uint64_t now) {
  struct mch_observer *observer;
  if (hub == NULL || pthread_mutex_trylock(&hub->serving) != 0)
    return 0;
  pthread_mutex_lock(&hub->lock);
  mark_ready(hub);
  pthread_mutex_unlock(&hub->lock);
  for (observer = hub->observers; observer != NULL; observer = observer->next)
    serve(hub, observer, now);
  pthread_mutex_lock(&hub->lock);
  schedule(hub);
  pthread_mutex_unlock(&hub->lock);
  pthread_mutex_unlock(&hub->serving);
  return 1;
}

void mch_hub_become_child(struct mch_hub *hub) {
  struct mch_observer *observer, *next;
  if (hub == NULL)
    return;
  for (observer = hub->observers; observer != NULL; observer = next) {
    next = observer->next;
    if (observer->forked != NULL)
      observer->forked(observer->ud);
  }
  hub->observers = NULL;
  hub->pools = NULL;
  hub->last_pool = &hub->pools;
  mch_poller_free(hub->poller);
  hub->poller = NULL;
  atomic_store(&hub->wants, 0);
  atomic_store(&hub->threads, 0);
  atomic_store(&hub->paused, 0);
  atomic_store(&hub->due, MCH_NEVER);
  atomic_store(&hub->look, MCH_NEVER);
  init_locks(hub);
}
