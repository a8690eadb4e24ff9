/* Runs in: both, then hands over to relay.c in a process of its own. Purpose: helper.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay.h"
#include "runtime/base/gate.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"

static void close_both(int fds[2]) {
  if (fds[0] >= 0)
    close(fds[0]);
  if (fds[1] >= 0)
    close(fds[1]);
  fds[0] = fds[1] = -1;
}

static void ignore_signal(int number) {
  struct sigaction ignore;
  memset(&ignore, 0, sizeof ignore);
  ignore.sa_handler = SIG_IGN;
  sigaction(number, &ignore, NULL);
}

static void put_at(int fd, int place) {
  if (dup2(fd, place) < 0)
    _exit(71);
}

static void put_null_at(int place, int how) {
  int null = open("/dev/null", how);
  if (null < 0)
    _exit(71);
  if (null != place)
    put_at(null, place);
  if (null > 2)
    close(null);
}

/* -- the carrier -------------------------------------------------------------------------- */

struct carrier {
  int in[2], out[2], err[2]; /* the carrier reads from `in`, writes to `out` and `err` */
  int problem[2];            /* errno of an exec that failed; else it is closed by exec */
};

static void close_carrier(struct carrier *carrier) {
  close_both(carrier->in);
  close_both(carrier->out);
  close_both(carrier->err);
  close_both(carrier->problem);
}

static int make_carrier(struct carrier *carrier, struct mch_error *error) {
  int code;
  memset(carrier, -1, sizeof *carrier);
  if ((code = mch_platform_pipe(carrier->in, error)) == 0 &&
      (code = mch_platform_pipe(carrier->out, error)) == 0 &&
      (code = mch_platform_pipe(carrier->err, error)) == 0 &&
      (code = mch_platform_pipe(carrier->problem, error)) == 0)
    return 0;
  close_carrier(carrier);
  return code;
}

static void set_variable(const char *pair) {
  char name[256];
  const char *sign = strchr(pair, '=');
  size_t length = sign == NULL ? 0 : (size_t)(sign - pair);
  if (length == 0 || length >= sizeof name)
    return;
  memcpy(name, pair, length);
  name[length] = '\0';
  setenv(name, sign + 1, 1);
}

/* In the carrier's process. All others of this process's descriptors close themselves. */
static void carrier_main(const struct carrier *carrier, const struct mch_link_config *config,
                         pid_t helper) __attribute__((noreturn));
static void carrier_main(const struct carrier *carrier, const struct mch_link_config *config,
                         pid_t helper) {
  size_t i;
  int problem;
  mch_process_die_with(helper);
  put_at(carrier->in[0], 0);
  put_at(carrier->out[1], 1);
  put_at(carrier->err[1], 2);
  for (i = 0; config->environment != NULL && config->environment[i] != NULL; i++)
    set_variable(config->environment[i]);
  mch_process_unblock_signals();
  execvp(config->command[0], config->command);
  problem = errno;
  if (write(carrier->problem[1], &problem, sizeof problem) < 0)
    _exit(70);
  _exit(127);
}

/* Start it from the helper. 0, or errno. */
static int start_carrier(const struct carrier *carrier, const struct mch_link_config *config,
                         pid_t *pid) {
  int problem = 0;
  pid_t helper = getpid();
  ssize_t got;
  *pid = mch_process_fork();
  if (*pid == 0)
    carrier_main(carrier, config, helper);
  if (*pid < 0)
    return errno;
  close(carrier->problem[1]);
  do
    got = read(carrier->problem[0], &problem, sizeof problem);
  while (got < 0 && errno == EINTR);
  close(carrier->problem[0]);
  if (got != sizeof problem)
    return 0;
  while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
    ;
  return problem;
}

/* -- the script's helper ------------------------------------------------------------------ */

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

/* The helper's way from the fork to its loop. What is undone here, in this order, and why:
 *  1. a session of its own: a terminal's Ctrl-C, Ctrl-Z and hanging up do not reach it;
 *  2. handlers: it must not run the host's;
 *  3. descriptors: it keeps open no stream that somebody else waits for the end of;
 *  4. the carrier, while there still is memory to start it from;
 *  5. memory: what it was forked with is given back, so that the script's pages stay its own. */
static void helper_main(struct carrier *carrier, const struct mch_link_config *config, int end,
                        struct mch_relay_board *board) __attribute__((noreturn));
static void helper_main(struct carrier *carrier, const struct mch_link_config *config, int end,
                        struct mch_relay_board *board) {
  struct mch_relay_config relay_config = {
      1, end, -1, -1, -1, -1, -1, base_name(config->command[0]), 0, 0, board};
  struct mch_relay *relay;
  const void *kept[1];
  int problem, fds[9], i, j;
  setsid();
  mch_gate_open_copied();
  mch_process_reset_signals();
  fds[0] = end;
  memcpy(fds + 1, carrier, sizeof *carrier);
  for (i = 1; i < 9; i++) /* ascending */
    for (j = i; j > 0 && fds[j - 1] > fds[j]; j--) {
      int other = fds[j];
      fds[j] = fds[j - 1];
      fds[j - 1] = other;
    }
  mch_process_close_others(3, fds, 9);
  put_null_at(0, O_RDONLY);
  put_null_at(1, O_WRONLY);
  put_null_at(2, O_WRONLY);
  problem = start_carrier(carrier, config, &relay_config.child);
  mch_process_unblock_signals();
  ignore_signal(SIGPIPE);
  close(carrier->in[0]);
  close(carrier->out[1]);
  close(carrier->err[1]);
  relay_config.out = carrier->in[1];
  relay_config.in = carrier->out[0];
  relay_config.err = carrier->err[0];
  mch_platform_nonblocking(relay_config.out);
  mch_platform_nonblocking(relay_config.in);
  mch_platform_nonblocking(relay_config.err);
  mch_process_widen_pipe(relay_config.out);
  mch_process_widen_pipe(relay_config.in);
  relay_config.lease = config->lease;
  relay_config.connect_timeout = config->connect_timeout;
  relay = mch_relay_make(&relay_config);
  if (relay == NULL)
    _exit(71);
  if (problem != 0)
    mch_relay_refuse(relay, config->command[0], problem);
  kept[0] = relay;
  mch_process_forget_memory(kept, 1);
  mch_relay_run(relay);
}

/* -- both sides --------------------------------------------------------------------------- */

static int make_ends(struct mch_helper *helper, int ends[2], struct mch_error *error) {
  int code;
  memset(helper, 0, sizeof *helper);
  helper->fd = helper->watch = -1;
  helper->board = mch_platform_share(sizeof *helper->board);
  if (helper->board == NULL)
    return mch_error_set(error, MCH_NOMEM, "cannot start a helper: not enough memory");
  if ((code = mch_platform_socketpair(ends, error)) != 0) {
    mch_platform_unshare(helper->board, sizeof *helper->board);
    helper->board = NULL;
    return code;
  }
  mch_platform_nonblocking(ends[0]);
  mch_platform_nonblocking(ends[1]);
  return 0;
}

int mch_helper_start(struct mch_helper *helper, const struct mch_link_config *config,
                     struct mch_error *error) {
  struct carrier carrier;
  int ends[2], code = make_ends(helper, ends, error);
  if (code != 0)
    return code;
  if ((code = make_carrier(&carrier, error)) == 0) {
    helper->pid = mch_process_fork();
    if (helper->pid == 0)
      helper_main(&carrier, config, ends[1], helper->board);
    if (helper->pid < 0)
      code = mch_error_system(error, "cannot start a helper");
    close_carrier(&carrier);
  }
  close(ends[1]);
  if (code != 0) {
    close(ends[0]);
    mch_platform_unshare(helper->board, sizeof *helper->board);
    helper->board = NULL;
    return code;
  }
  helper->fd = ends[0];
  helper->watch = mch_platform_watch_process(helper->pid);
  return 0;
}

/* The process that was started by the carrier. Its stdin and stdout are the stream. */
static void machine_main(int end, pid_t supervisor, const struct mch_link_serve_config *config,
                         struct mch_relay_board *board) __attribute__((noreturn));
static void machine_main(int end, pid_t supervisor, const struct mch_link_serve_config *config,
                         struct mch_relay_board *board) {
  struct mch_relay_config relay_config = {
      0, end, 0, 1, -1, config->slots_fd, supervisor, "its supervisor", 0, 0, board};
  struct mch_relay *relay = mch_relay_make(&relay_config);
  ignore_signal(SIGPIPE);
  if (relay == NULL) {
    kill(supervisor, SIGKILL);
    _exit(71);
  }
  mch_platform_nonblocking(0);
  mch_platform_nonblocking(1);
  mch_relay_run(relay);
}

static void supervisor_begin(pid_t parent, const struct mch_link_serve_config *config) {
  mch_process_die_with(parent);
  mch_gate_open_copied();
  mch_process_unblock_signals();
  put_null_at(0, O_RDONLY);
  if (dup2(2, 1) < 0)
    put_null_at(1, O_WRONLY);
  if (config->slots_fd >= 0)
    close(config->slots_fd);
}

int mch_helper_serve(struct mch_helper *helper, const struct mch_link_serve_config *config,
                     struct mch_error *error) {
  int ends[2], code = make_ends(helper, ends, error);
  pid_t parent = getpid(), supervisor;
  if (code != 0)
    return code;
  supervisor = mch_process_fork();
  if (supervisor < 0)
    return mch_error_system(error, "cannot start the supervisor");
  if (supervisor != 0) {
    close(ends[0]);
    machine_main(ends[1], supervisor, config, helper->board);
  }
  close(ends[1]);
  helper->fd = ends[0];
  supervisor_begin(parent, config);
  return 0;
}

void mch_helper_bury(struct mch_helper *helper) {
  struct mch_ending ending;
  if (helper->pid > 0) {
    /* While it lives its number is its own; SIGKILL takes effect at once: the wait is short. */
    if (!mch_platform_has_ended(helper->watch))
      kill(helper->pid, SIGKILL);
    while (!mch_platform_ended(helper->pid, helper->watch, 1, &ending))
      mch_platform_await(&helper->watch, 1, mch_now() + 1000000u, NULL);
  }
  if (helper->watch >= 0)
    close(helper->watch);
  helper->watch = -1;
  helper->pid = 0;
  mch_platform_unshare(helper->board, sizeof *helper->board);
  helper->board = NULL;
}
