/* Runs in: both; its thread in the parent.
 *
 * The poller of platform.h for systems without epoll: an array for poll(2). Its descriptor is the
 * end of a pipe, the bell, which a thread rings when one of the array's has become readable. From
 * then on the thread rests until the owner has looked (mch_poller_wait, mch_poller_settle): only
 * the owner knows when what was there has been taken. */
#include "platform.h"

#if !defined(__linux__) || defined(MANTICHORA_PORTABLE)

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gate.h"

struct bell {
  pthread_t thread;
  pthread_mutex_t lock;      /* also around changes of the poller's array */
  int out[2];                /* readable: something is */
  int rung;                  /* a byte is in `out` */
  int nudge[2];              /* readable: the thread shall look anew */
  int nudged;                /* a byte is in `nudge` */
  int stop;                  /* the thread shall end */
  pid_t owner;               /* a fork has no such thread */
  struct mch_poller *poller; /* whose array is read */
  struct pollfd *seen;       /* the thread's own copy, behind `nudge` */
  size_t room;
};

struct entry {
  void *ud;
  struct mch_poller *inner; /* stands for those of another poller; or NULL */
};

struct mch_poller {
  struct pollfd *fds;
  struct entry *entries; /* of each of them */
  size_t count, room;
  struct pollfd *all; /* for a wait: these and those of inner pollers that have no bell */
  size_t all_room;
  struct bell *bell; /* NULL: nobody has asked for the descriptor */
};

/* -- the bell, under its lock ------------------------------------------------------------- */

static void put_byte(int fd, int *is_there) {
  if (!*is_there && write(fd, "", 1) == 1)
    *is_there = 1;
}

static void take_byte(int fd, int *is_there) {
  char byte;
  if (*is_there && read(fd, &byte, 1) == 1)
    *is_there = 0;
}

static void silence(struct bell *bell) {
  if (!bell->rung)
    return;
  take_byte(bell->out[0], &bell->rung);
  put_byte(bell->nudge[1], &bell->nudged);
}

/* -- its thread --------------------------------------------------------------------------- */

/* How many descriptors there are to look at: none but `nudge` while the bell is rung. -1: the copy
 * has no room for them. */
static int copy_set(struct bell *bell) {
  size_t count = bell->rung ? 0 : bell->poller->count;
  if (count + 1 > bell->room)
    return -1;
  bell->seen[0].fd = bell->nudge[0];
  bell->seen[0].events = POLLIN;
  if (count > 0)
    memcpy(bell->seen + 1, bell->poller->fds, count * sizeof *bell->seen);
  return (int)count + 1;
}

/* No fork happens meanwhile: it would copy the allocator's locks. */
static int make_room(struct bell *bell, size_t room) {
  struct pollfd *seen;
  mch_gate_hold_off();
  seen = realloc(bell->seen, room * sizeof *seen);
  mch_gate_let_go();
  if (seen == NULL)
    return -1;
  bell->seen = seen;
  bell->room = room;
  return 0;
}

/* A look at an array that has changed meanwhile says nothing: there is a nudge then. */
static void look(struct bell *bell, int count) {
  int got = poll(bell->seen, (nfds_t)count, -1);
  pthread_mutex_lock(&bell->lock);
  if (bell->nudged)
    take_byte(bell->nudge[0], &bell->nudged);
  else if (got > 0)
    put_byte(bell->out[1], &bell->rung);
}

static void *watch(void *argument) {
  struct bell *bell = argument;
  mch_gate_let_go(); /* it is born */
  pthread_mutex_lock(&bell->lock);
  while (!bell->stop) {
    size_t wanted = 2 * (bell->poller->count + 1);
    int count = copy_set(bell);
    pthread_mutex_unlock(&bell->lock);
    if (count < 0 && make_room(bell, wanted) != 0)
      mch_platform_await(&bell->nudge[0], 1, mch_now() + 10000000u, NULL);
    if (count < 0)
      pthread_mutex_lock(&bell->lock);
    else
      look(bell, count);
  }
  pthread_mutex_unlock(&bell->lock);
  return NULL;
}

/* It takes no signals; nobody forks before it has come to its function. */
static int start_thread(struct bell *bell) {
  sigset_t all, old;
  int code;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  mch_gate_hold_off();
  code = pthread_create(&bell->thread, NULL, watch, bell);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (code != 0)
    mch_gate_let_go();
  return code;
}

static void close_bell(struct bell *bell) {
  close(bell->out[0]);
  close(bell->out[1]);
  close(bell->nudge[0]);
  close(bell->nudge[1]);
}

static struct bell *new_bell(struct mch_poller *poller) {
  struct bell *bell = calloc(1, sizeof *bell);
  if (bell == NULL)
    return NULL;
  if (mch_platform_pipe(bell->out, NULL) != 0) {
    free(bell);
    return NULL;
  }
  if (mch_platform_pipe(bell->nudge, NULL) != 0) {
    close(bell->out[0]);
    close(bell->out[1]);
    free(bell);
    return NULL;
  }
  bell->poller = poller;
  bell->owner = getpid();
  pthread_mutex_init(&bell->lock, NULL);
  if (start_thread(bell) == 0)
    return bell;
  pthread_mutex_destroy(&bell->lock);
  close_bell(bell);
  free(bell);
  return NULL;
}

static void free_bell(struct bell *bell) {
  if (bell->owner == getpid()) {
    pthread_mutex_lock(&bell->lock);
    bell->stop = 1;
    put_byte(bell->nudge[1], &bell->nudged);
    pthread_mutex_unlock(&bell->lock);
    pthread_join(bell->thread, NULL);
    pthread_mutex_destroy(&bell->lock);
  }
  close_bell(bell);
  free(bell->seen);
  free(bell);
}

/* -- the array ---------------------------------------------------------------------------- */

struct mch_poller *mch_poller_new(struct mch_error *error) {
  struct mch_poller *poller = calloc(1, sizeof *poller);
  if (poller == NULL)
    mch_error_set(error, MCH_NOMEM, "not enough memory");
  return poller;
}

void mch_poller_free(struct mch_poller *poller) {
  if (poller == NULL)
    return;
  if (poller->bell != NULL)
    free_bell(poller->bell);
  free(poller->fds);
  free(poller->entries);
  free(poller->all);
  free(poller);
}

static void begin_change(struct mch_poller *poller) {
  if (poller->bell != NULL)
    pthread_mutex_lock(&poller->bell->lock);
}

static void end_change(struct mch_poller *poller) {
  if (poller->bell == NULL)
    return;
  put_byte(poller->bell->nudge[1], &poller->bell->nudged);
  pthread_mutex_unlock(&poller->bell->lock);
}

static int grow(struct mch_poller *poller) {
  size_t room = poller->room == 0 ? 16 : poller->room * 2;
  struct pollfd *fds = realloc(poller->fds, room * sizeof *fds);
  struct entry *entries;
  if (fds == NULL)
    return -1;
  poller->fds = fds;
  entries = realloc(poller->entries, room * sizeof *entries);
  if (entries == NULL)
    return -1;
  poller->entries = entries;
  poller->room = room;
  return 0;
}

static int add(struct mch_poller *poller, int fd, struct mch_poller *inner, void *ud) {
  int code = 0;
  begin_change(poller);
  if (poller->count == poller->room)
    code = grow(poller);
  if (code == 0) {
    poller->fds[poller->count] = (struct pollfd){fd, POLLIN, 0};
    poller->entries[poller->count++] = (struct entry){ud, inner};
  }
  end_change(poller);
  return code;
}

static void take_out(struct mch_poller *poller, size_t i) {
  if (i == poller->count)
    return;
  begin_change(poller);
  poller->count--;
  poller->fds[i] = poller->fds[poller->count];
  poller->entries[i] = poller->entries[poller->count];
  end_change(poller);
}

static size_t find(const struct mch_poller *poller, int fd) {
  size_t i = 0;
  while (i < poller->count && (poller->entries[i].inner != NULL || poller->fds[i].fd != fd))
    i++;
  return i;
}

static size_t find_inner(const struct mch_poller *poller, const struct mch_poller *inner) {
  size_t i = 0;
  while (i < poller->count && poller->entries[i].inner != inner)
    i++;
  return i;
}

int mch_poller_add(struct mch_poller *poller, int fd, void *ud) {
  if (fd >= 0 && find(poller, fd) == poller->count)
    return add(poller, fd, NULL, ud);
  errno = fd < 0 ? EBADF : EEXIST;
  return -1;
}

void mch_poller_remove(struct mch_poller *poller, int fd) {
  take_out(poller, find(poller, fd));
}

int mch_poller_add_inner(struct mch_poller *poller, struct mch_poller *inner, void *ud) {
  if (poller->bell != NULL && mch_poller_fd(inner) < 0)
    return -1;
  return add(poller, inner->bell != NULL ? inner->bell->out[0] : -1, inner, ud);
}

void mch_poller_remove_inner(struct mch_poller *poller, struct mch_poller *inner) {
  take_out(poller, find_inner(poller, inner));
}

/* -- waiting ------------------------------------------------------------------------------ */

/* An inner poller is heard by its bell if it has one, since another thread may change its array.
 * Else its array is only ever changed by who waits here. How many are to be polled. */
static size_t count_all(struct mch_poller *poller) {
  size_t i, count = poller->count;
  for (i = 0; i < poller->count; i++) {
    struct mch_poller *inner = poller->entries[i].inner;
    if (inner != NULL && inner->bell == NULL)
      count += inner->count;
    else if (inner != NULL && poller->fds[i].fd < 0)
      poller->fds[i].fd = inner->bell->out[0];
  }
  return count;
}

static void copy_to(struct pollfd *all, const struct pollfd *fds, size_t count) {
  if (count > 0)
    memcpy(all, fds, count * sizeof *all);
}

/* Poll a copy: the bell's thread reads the array itself. */
static int poll_all(struct mch_poller *poller, uint64_t deadline, const sigset_t *mask) {
  size_t i, count = count_all(poller), at = poller->count;
  if (count > poller->all_room) {
    struct pollfd *all = realloc(poller->all, 2 * count * sizeof *all);
    if (all == NULL)
      return -1;
    poller->all = all;
    poller->all_room = 2 * count;
  }
  copy_to(poller->all, poller->fds, poller->count);
  for (i = 0; at < count; i++) {
    struct mch_poller *inner = poller->entries[i].inner;
    if (inner == NULL || inner->bell != NULL)
      continue;
    copy_to(poller->all + at, inner->fds, inner->count);
    at += inner->count;
  }
  return mch_platform_poll(poller->all, count, deadline, mask);
}

/* Whether entry `i` has something; `at`: where the next inner array without a bell begins. */
static int is_ready(const struct mch_poller *poller, size_t i, size_t *at) {
  const struct mch_poller *inner = poller->entries[i].inner;
  int ready = poller->all[i].revents != 0;
  if (inner != NULL && inner->bell == NULL) {
    size_t end = *at + inner->count;
    while (*at < end)
      ready |= poller->all[(*at)++].revents != 0;
  }
  return ready;
}

/* What the array says now: the bell says it, too. */
static void set_bell(struct bell *bell, int is_readable) {
  pthread_mutex_lock(&bell->lock);
  if (is_readable)
    put_byte(bell->out[1], &bell->rung);
  else
    silence(bell);
  pthread_mutex_unlock(&bell->lock);
}

int mch_poller_wait(struct mch_poller *poller, struct mch_ready *ready, int room, uint64_t deadline,
                    const sigset_t *mask) {
  size_t i, at = poller->count;
  int got = poll_all(poller, deadline, mask), count = 0;
  if (got == 0 && poller->bell != NULL)
    set_bell(poller->bell, 0);
  for (i = 0; got > 0 && i < poller->count && count < room; i++)
    if (is_ready(poller, i, &at))
      ready[count++].ud = poller->entries[i].ud;
  return got > 0 ? count : got;
}

void mch_poller_sleep(struct mch_poller *poller, uint64_t deadline, const sigset_t *mask) {
  struct mch_ready ready[1];
  mch_poller_wait(poller, ready, 1, deadline, mask);
}

/* With one of its own each inner poller has one, so that the thread reads no array but this. */
int mch_poller_fd(struct mch_poller *poller) {
  size_t i;
  for (i = 0; poller->bell == NULL && i < poller->count; i++)
    if (poller->entries[i].inner != NULL && mch_poller_fd(poller->entries[i].inner) < 0)
      return -1;
  count_all(poller);
  if (poller->bell == NULL)
    poller->bell = new_bell(poller);
  return poller->bell != NULL ? poller->bell->out[0] : -1;
}

int mch_poller_has_fd(void) {
  return 0;
}

void mch_poller_settle(struct mch_poller *poller) {
  if (poller->bell != NULL)
    set_bell(poller->bell, poll_all(poller, 0, NULL) > 0);
}

void mch_poller_disown(struct mch_poller *poller) {
  if (poller->bell != NULL)
    close_bell(poller->bell);
}

#endif
