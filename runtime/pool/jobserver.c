/* Runs in: both. Purpose: jobserver.h. */
#define _POSIX_C_SOURCE 200809L
#include "jobserver.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/ending.h"
#include "runtime/base/file.h"
#include "runtime/base/platform.h"

/* -- what MAKEFLAGS says ------------------------------------------------------------------ */

struct flags {
  int under_j;
  unsigned jobs;           /* 0: no number */
  char auth[PATH_MAX + 8]; /* of the last --jobserver-auth; empty: none */
};

/* The next word, without the backslashes of what is quoted. 0: there is none. A longer one is cut:
 * nothing that is looked for is so long. */
static int next_word(const char **at, char *word, size_t room) {
  size_t length = 0;
  const char *text = *at + strspn(*at, " \t");
  if (*text == '\0')
    return 0;
  for (; *text != '\0' && *text != ' ' && *text != '\t'; text++) {
    if (*text == '\\' && text[1] != '\0')
      text++;
    if (length < room - 1)
      word[length++] = *text;
  }
  word[length] = '\0';
  *at = text;
  return 1;
}

static const char *behind(const char *word, const char *prefix) {
  size_t length = strlen(prefix);
  return strncmp(word, prefix, length) == 0 ? word + length : NULL;
}

static void note_jobs(struct flags *flags, const char *number) {
  unsigned long jobs = strtoul(number, NULL, 10);
  flags->under_j = 1;
  flags->jobs = jobs < UINT_MAX ? (unsigned)jobs : 0;
}

/* Single letters come first, without a hyphen; variables come behind "--". */
static void parse(const char *makeflags, struct flags *flags) {
  char word[sizeof flags->auth + 32];
  const char *rest;
  int first = 1;
  memset(flags, 0, sizeof *flags);
  for (; next_word(&makeflags, word, sizeof word) && strcmp(word, "--") != 0; first = 0)
    if ((rest = behind(word, "--jobserver-auth=")) != NULL ||
        (rest = behind(word, "--jobserver-fds=")) != NULL)
      snprintf(flags->auth, sizeof flags->auth, "%.*s", (int)sizeof flags->auth - 1, rest);
    else if ((rest = behind(word, "--jobs")) != NULL && (*rest == '\0' || *rest == '='))
      note_jobs(flags, *rest == '=' ? rest + 1 : rest);
    else if ((rest = behind(word, "-j")) != NULL)
      note_jobs(flags, rest);
    else if (first && word[0] != '-' && strpbrk(word, "=./") == NULL && strchr(word, 'j') != NULL)
      note_jobs(flags, "");
}

/* -- what was taken ----------------------------------------------------------------------- */

/* For a process and all its workers: a token that was taken is process << 16 | TAKEN | its byte; a
 * place that is about to get one is process << 16; 0 is a free one. Who exchanges it for 0 gives
 * the token back, and nobody else. */
enum { MOST_TOKENS = 4096, TAKEN = 0x100 };
struct ledger {
  _Atomic uint64_t entries[MOST_TOKENS];
  _Atomic uint32_t count; /* of tokens, for those who need not search */
};

/* A process has one share in its make's jobserver. */
static struct {
  pthread_mutex_t lock;
  int pid;            /* whose state this is; a fork begins anew, but for what is shared */
  unsigned users;     /* pools that have it open */
  int reader, writer; /* -1: not open */
  size_t busy, held;  /* tasks that run; tokens that were taken for them */
  struct ledger *ledger;
  int maker;         /* the process that made it: the outermost */
  atomic_int taking; /* a token is between the pipe and the ledger */
  int told;          /* what is wrong with it */
} own = {.lock = PTHREAD_MUTEX_INITIALIZER, .reader = -1, .writer = -1};

/* Give back the token of this place, if `value` still stands there. For signal handlers too. */
static int give_entry(_Atomic uint64_t *entry, uint64_t value) {
  char byte = (char)(value & 0xff);
  ssize_t wrote;
  if ((value & TAKEN) == 0 || !atomic_compare_exchange_strong(entry, &value, 0))
    return 0;
  atomic_fetch_sub(&own.ledger->count, 1);
  do
    wrote = write(own.writer, &byte, 1);
  while (wrote < 0 && errno == EINTR);
  return 1;
}

/* Give back all tokens of this process; of the outermost one, which ends, those of its workers,
 * too. */
static void give_all(void) {
  size_t i;
  if (own.ledger == NULL || own.writer < 0)
    return;
  for (i = 0; i < MOST_TOKENS; i++) {
    uint64_t value = atomic_load(&own.ledger->entries[i]);
    if (value != 0 && (own.maker == own.pid || value >> 16 == (uint64_t)own.pid))
      give_entry(&own.ledger->entries[i], value);
  }
}

/* Give back one token of this process. */
static void give_one(void) {
  size_t i;
  own.held--;
  for (i = 0; i < MOST_TOKENS; i++) {
    uint64_t value = atomic_load(&own.ledger->entries[i]);
    if (value >> 16 == (uint64_t)own.pid && give_entry(&own.ledger->entries[i], value))
      return;
  }
}

/* Workers that were killed have left theirs. */
static void give_for_dead(void) {
  size_t i;
  if (atomic_load(&own.ledger->count) == own.held)
    return;
  for (i = 0; i < MOST_TOKENS; i++) {
    uint64_t value = atomic_load(&own.ledger->entries[i]);
    pid_t pid = (pid_t)(value >> 16);
    if (value != 0 && pid != own.pid && kill(pid, 0) != 0 && errno == ESRCH &&
        !give_entry(&own.ledger->entries[i], value) && (value & TAKEN) == 0)
      atomic_compare_exchange_strong(&own.ledger->entries[i], &value, 0);
  }
}

/* -- signals that end the process --------------------------------------------------------- */

/* Another thread may just take one: that does not last. */
static void give_back(void) {
  unsigned long patience = 10000000;
  if (own.pid != (int)getpid())
    return;
  while (own.taking && patience-- > 0)
    continue;
  give_all();
}

/* exit() without closing the pools, or the library is unloaded. */
static void at_end(void) __attribute__((destructor));
static void at_end(void) {
  mch_jobserver_leave();
}

void mch_jobserver_leave(void) {
  if (own.users == 0 || own.pid != (int)getpid())
    return;
  give_all();
  mch_ending_remove(give_back);
}

/* -- opening ------------------------------------------------------------------------------ */

/* In a fork nothing runs yet; its pools share what is shared. */
static void lock(void) {
  if (own.pid != 0 && own.pid != (int)getpid())
    pthread_mutex_init(&own.lock, NULL);
  pthread_mutex_lock(&own.lock);
  if (own.pid == (int)getpid())
    return;
  own.pid = (int)getpid();
  own.users = 0;
  own.busy = own.held = 0;
  own.taking = 0;
}

static void unlock(void) {
  pthread_mutex_unlock(&own.lock);
}

static void close_both(void) {
  if (own.reader >= 0)
    close(own.reader);
  if (own.writer >= 0)
    close(own.writer);
  own.reader = own.writer = -1;
}

static int open_fifo(const char *path, char why[MCH_JOBSERVER_WHY]) {
  struct stat status;
  if (stat(path, &status) != 0 || !S_ISFIFO(status.st_mode)) {
    snprintf(why, MCH_JOBSERVER_WHY, "there is no FIFO %.200s", path);
    return -1;
  }
  own.reader = mch_file_open(path, O_RDONLY | O_NONBLOCK, 0);
  own.writer = mch_file_open(path, O_WRONLY | O_NONBLOCK, 0);
  if (own.reader >= 0 && own.writer >= 0)
    return 0;
  snprintf(why, MCH_JOBSERVER_WHY, "the FIFO %.200s cannot be opened", path);
  return -1;
}

/* Whether these are what make has left open, and not what has got the same numbers since: the two
 * ends of one pipe, which other programs inherit. */
static int is_pipe(int in, int out) {
  struct stat a, b;
  return fstat(in, &a) == 0 && fstat(out, &b) == 0 && S_ISFIFO(a.st_mode) && S_ISFIFO(b.st_mode) &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
         (fcntl(in, F_GETFL) & O_ACCMODE) != O_WRONLY &&
         (fcntl(out, F_GETFL) & O_ACCMODE) != O_RDONLY && (fcntl(in, F_GETFD) & FD_CLOEXEC) == 0 &&
         (fcntl(out, F_GETFD) & FD_CLOEXEC) == 0;
}

/* An open file of our own that never waits; what make has may do so, and is left as it is. */
static int open_again(int fd) {
  char path[64];
  int again;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  again = mch_file_open(path, O_RDONLY | O_NONBLOCK, 0);
  if (again < 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0)
    again = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return again;
}

static int open_pipe(const char *auth, char why[MCH_JOBSERVER_WHY]) {
  char *end;
  long in = strtol(auth, &end, 10), out = -1;
  if (*end == ',')
    out = strtol(end + 1, &end, 10);
  if (*end != '\0' || in < 0 || out < 0 || in > INT_MAX || out > INT_MAX ||
      !is_pipe((int)in, (int)out)) {
    snprintf(why, MCH_JOBSERVER_WHY,
             "its descriptors %.40s are closed (a + before the recipe's command keeps them open)",
             auth);
    return -1;
  }
  own.reader = open_again((int)in);
  own.writer = fcntl((int)out, F_DUPFD_CLOEXEC, 3);
  if (own.reader >= 0 && own.writer >= 0)
    return 0;
  snprintf(why, MCH_JOBSERVER_WHY, "its descriptors %.40s cannot be opened again", auth);
  return -1;
}

static int open_both(const char *auth, char why[MCH_JOBSERVER_WHY]) {
  const char *path = behind(auth, "fifo:");
  int code;
  if (own.reader >= 0)
    return 0;
  if (auth[0] == '\0') {
    snprintf(why, MCH_JOBSERVER_WHY, "MAKEFLAGS names none");
    return -1;
  }
  code = path != NULL ? open_fifo(path, why) : open_pipe(auth, why);
  if (code == 0 && own.ledger == NULL) {
    own.ledger = mch_platform_share(sizeof *own.ledger);
    own.maker = own.pid;
    if (own.ledger == NULL)
      code = -1, snprintf(why, MCH_JOBSERVER_WHY, "there is not enough memory");
  }
  if (code != 0)
    close_both();
  return code;
}

enum mch_jobserver mch_jobserver_open(const char *makeflags, unsigned *jobs,
                                      char why[MCH_JOBSERVER_WHY]) {
  struct flags flags;
  enum mch_jobserver result = MCH_JOBSERVER_READY;
  *jobs = 0;
  *why = '\0';
  if (makeflags == NULL)
    return MCH_JOBSERVER_NONE;
  parse(makeflags, &flags);
  *jobs = flags.jobs;
  if (!flags.under_j && flags.auth[0] == '\0')
    return MCH_JOBSERVER_NONE;
  lock();
  if (open_both(flags.auth, why) == 0)
    own.users++;
  else {
    result = MCH_JOBSERVER_UNUSABLE;
    if (own.told || flags.jobs == 1) /* it would hand out nothing */
      *why = '\0';
    own.told = 1;
  }
  unlock();
  return result;
}

void mch_jobserver_close(void) {
  lock();
  if (own.users > 0 && --own.users == 0) {
    give_all();
    own.busy = own.held = 0;
    mch_ending_remove(give_back);
    close_both();
    if (own.maker == own.pid) {
      mch_platform_unshare(own.ledger, sizeof *own.ledger);
      own.ledger = NULL;
    }
  }
  unlock();
}

/* -- tokens ------------------------------------------------------------------------------- */

/* Take a token from the pipe into the ledger, if there is one and room for it. */
static int take_one(void) {
  uint64_t mine = (uint64_t)own.pid << 16, none;
  unsigned char byte;
  ssize_t got;
  size_t i;
  for (i = 0; i < MOST_TOKENS; i++)
    if (none = 0, atomic_compare_exchange_strong(&own.ledger->entries[i], &none, mine))
      break;
  if (i == MOST_TOKENS)
    return 0;
  got = read(own.reader, &byte, 1);
  atomic_store(&own.ledger->entries[i], got == 1 ? mine | TAKEN | byte : 0);
  if (got != 1)
    return 0;
  atomic_fetch_add(&own.ledger->count, 1);
  return 1;
}

/* No signal handler of ours runs on this thread in between, and on others it waits. */
static int take_token(void) {
  sigset_t all, old;
  int took;
  mch_ending_add(give_back);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  own.taking = 1;
  took = take_one();
  own.taking = 0;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return took;
}

int mch_jobserver_take(void) {
  int took = 1;
  lock();
  if (own.busy > 0) {
    took = take_token();
    own.held += (size_t)took;
    if (!took)
      give_for_dead();
  }
  own.busy += (size_t)took;
  unlock();
  return took;
}

void mch_jobserver_give(void) {
  lock();
  if (own.busy > 0)
    own.busy--;
  while (own.held > 0 && own.held + 1 > own.busy)
    give_one();
  if (own.ledger != NULL)
    give_for_dead();
  unlock();
}

void mch_jobserver_adopt(size_t tasks) {
  lock();
  own.busy += tasks;
  unlock();
}

int mch_jobserver_fd(void) {
  return own.reader;
}
