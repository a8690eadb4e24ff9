/* Runs in: parent. Purpose: tty.h. What handlers of signals need is static. */
#define _GNU_SOURCE
#include "tty.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"

/* Another screen, no cursor; and back. */
static const char enter_screen[] = "\033[?1049h\033[?25l\033[2J";
static const char leave_screen[] = "\033[m\033[?25h\033[?1049l";

static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static struct termios saved, raw;
static volatile sig_atomic_t is_open, is_taken;
static int waker[2] = {-1, -1};
static struct sigaction before[sizeof ends / sizeof ends[0] + 3];
static int at_exit;

/* In handlers, too. */
static void take(void) {
  tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
  is_taken = write(STDOUT_FILENO, enter_screen, sizeof enter_screen - 1) >= 0;
}

static void give_back(void) {
  if (!is_taken)
    return;
  is_taken = 0;
  if (write(STDOUT_FILENO, leave_screen, sizeof leave_screen - 1) < 0) {
    /* it has gone */
  }
  tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

static void wake(void) {
  int kept = errno;
  if (write(waker[1], "", 1) < 0) {
    /* it is full: who waits wakes up all the same */
  }
  errno = kept;
}

/* SIGTTOU, which tcsetattr() would cause in the background, stops nobody. */
static void without_stop(void (*f)(void)) {
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGTTOU);
  sigprocmask(SIG_BLOCK, &set, &old);
  f();
  sigprocmask(SIG_SETMASK, &old, NULL);
}

static void die_of(int number) {
  sigset_t set;
  signal(number, SIG_DFL);
  sigemptyset(&set);
  sigaddset(&set, number);
  raise(number);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void on_end(int number) {
  without_stop(give_back);
  die_of(number);
}

static void on_stop(int number);

static void set_handler(int number, void (*handler)(int), struct sigaction *old) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, old);
}

/* Here the process stops, until SIGCONT. */
static void on_stop(int number) {
  int kept = errno;
  without_stop(give_back);
  die_of(number);
  set_handler(number, on_stop, NULL);
  errno = kept;
}

static void on_continue(int number) {
  int kept = errno;
  (void)number;
  if (is_open && !is_taken && tcgetpgrp(STDIN_FILENO) == getpgrp())
    without_stop(take);
  wake();
  errno = kept;
}

static void on_resize(int number) {
  (void)number;
  wake();
}

static void make_raw(void) {
  raw = saved;
  raw.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON | ISTRIP | BRKINT);
  raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG | IEXTEN);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
}

static int has_been_ignored(size_t i) {
  return before[i].sa_handler == SIG_IGN;
}

static void set_handlers(void) {
  size_t i, count = sizeof ends / sizeof ends[0];
  for (i = 0; i < count; i++) {
    sigaction(ends[i], NULL, &before[i]);
    if (!has_been_ignored(i))
      set_handler(ends[i], on_end, NULL);
  }
  set_handler(SIGTSTP, on_stop, &before[count]);
  if (has_been_ignored(count)) /* a shell without job control */
    sigaction(SIGTSTP, &before[count], NULL);
  set_handler(SIGCONT, on_continue, &before[count + 1]);
  set_handler(SIGWINCH, on_resize, &before[count + 2]);
}

static void reset_handlers(void) {
  size_t i, count = sizeof ends / sizeof ends[0];
  for (i = 0; i < count; i++)
    sigaction(ends[i], &before[i], NULL);
  sigaction(SIGTSTP, &before[count], NULL);
  sigaction(SIGCONT, &before[count + 1], NULL);
  sigaction(SIGWINCH, &before[count + 2], NULL);
}

int mch_tty_open(void) {
  struct mch_error error;
  if (is_open)
    return 0;
  if (tcgetattr(STDIN_FILENO, &saved) != 0)
    return errno;
  if (waker[0] < 0 && mch_platform_pipe(waker, &error) != 0)
    return errno;
  mch_platform_nonblocking(waker[0]);
  mch_platform_nonblocking(waker[1]);
  if (!at_exit)
    at_exit = atexit(mch_tty_close) == 0;
  make_raw();
  is_open = 1;
  set_handlers();
  take();
  return 0;
}

void mch_tty_close(void) {
  if (!is_open)
    return;
  is_open = 0;
  without_stop(give_back);
  reset_handlers();
}

int mch_tty_size(int fd, unsigned *columns, unsigned *rows) {
  struct winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) != 0)
    return 0;
  *columns = size.ws_col > 0 ? size.ws_col : 80;
  *rows = size.ws_row > 0 ? size.ws_row : 24;
  return 1;
}

int mch_tty_write(const char *bytes, size_t length) {
  while (length > 0 && is_taken) { /* in the background it is somebody else's */
    ssize_t written = write(STDOUT_FILENO, bytes, length);
    if (written > 0) {
      bytes += written;
      length -= (size_t)written;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      struct pollfd out = {STDOUT_FILENO, POLLOUT, 0};
      poll(&out, 1, 1000);
    } else if (errno != EINTR)
      return 0;
  }
  return 1;
}

static int get_keys(char *keys, size_t room, size_t *length) {
  ssize_t got = read(STDIN_FILENO, keys, room);
  *length = got > 0 ? (size_t)got : 0;
  if (got > 0)
    return MCH_TTY_KEYS;
  return got == 0 || (errno != EINTR && errno != EAGAIN) ? MCH_TTY_GONE : 0;
}

int mch_tty_wait(int fd, int milliseconds, char *keys, size_t room, size_t *length) {
  struct pollfd fds[3] = {{waker[0], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}, {fd, POLLIN, 0}};
  char bytes[64];
  int brought = 0;
  *length = 0;
  if (poll(fds, 3, milliseconds) <= 0)
    return 0;
  if (fds[0].revents != 0 && read(waker[0], bytes, sizeof bytes) > 0)
    brought |= MCH_TTY_CHANGED;
  if (fds[1].revents != 0)
    brought |= get_keys(keys, room, length);
  if (fds[2].revents != 0)
    brought |= MCH_TTY_READABLE;
  return brought;
}

void mch_tty_stop(void) {
  kill(0, SIGTSTP);
}
