/* Runs in: child. Purpose: spawn.h. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/commands/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

void mch_spawn_init(struct mch_spawned *command) {
  memset(command, 0, sizeof *command);
  command->out = command->err = -1;
}

/* A file that nobody else finds, above the standard descriptors. */
static int open_nameless(void) {
  const char *folder = getenv("TMPDIR");
  char path[PATH_MAX];
  int fd, high;
  if (folder == NULL || folder[0] == '\0' || strlen(folder) > PATH_MAX - 32)
    folder = "/tmp";
  snprintf(path, sizeof path, "%s/mantichora-XXXXXX", folder);
  fd = mkstemp(path);
  if (fd < 0)
    return -1;
  unlink(path);
  high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  close(fd);
  return high;
}

/* The command starts as a program started by hand would: no signal blocked; those that the worker
 * ignores by itself are its defaults. */
static int spawn(struct mch_spawned *command, posix_spawn_file_actions_t *actions,
                 posix_spawnattr_t *attributes, const char *text) {
  char *words[] = {"sh", "-c", (char *)(uintptr_t)text, NULL};
  sigset_t none;
  sigemptyset(&none);
  if (posix_spawn_file_actions_adddup2(actions, command->out, STDOUT_FILENO) != 0 ||
      posix_spawn_file_actions_adddup2(actions, command->err, STDERR_FILENO) != 0)
    return ENOMEM;
  posix_spawnattr_setsigmask(attributes, &none);
  posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK);
  return posix_spawn(&command->pid, "/bin/sh", actions, attributes, words, environ);
}

int mch_spawn_start(struct mch_spawned *command, const char *text) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int problem;
  mch_spawn_drop(command);
  command->out = open_nameless();
  command->err = open_nameless();
  if (command->out < 0 || command->err < 0)
    return errno;
  if (posix_spawn_file_actions_init(&actions) != 0)
    return ENOMEM;
  if (posix_spawnattr_init(&attributes) != 0) {
    posix_spawn_file_actions_destroy(&actions);
    return ENOMEM;
  }
  problem = spawn(command, &actions, &attributes, text);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (problem != 0)
    command->pid = 0;
  return problem;
}

int mch_spawn_wait(struct mch_spawned *command) {
  int status;
  if (waitpid(command->pid, &status, 0) < 0)
    return errno;
  command->pid = 0;
  command->exitcode = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  command->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return 0;
}

static int file_size(int fd, size_t *size) {
  struct stat about;
  if (fstat(fd, &about) != 0)
    return errno;
  *size = (size_t)about.st_size;
  return 0;
}

static int file_get(int fd, char *to, size_t size) {
  size_t had = 0;
  while (had < size) {
    ssize_t count = pread(fd, to + had, size - had, (off_t)had);
    if (count < 0 && errno != EINTR)
      return errno;
    if (count == 0)
      return EIO;
    had += count > 0 ? (size_t)count : 0;
  }
  return 0;
}

int mch_spawn_size(const struct mch_spawned *command, int which, size_t *size) {
  return file_size(which == 1 ? command->out : command->err, size);
}

int mch_spawn_get(const struct mch_spawned *command, int which, char *to, size_t size) {
  return file_get(which == 1 ? command->out : command->err, to, size);
}

/* --- the worker's own streams ------------------------------------------------------------------
 */

void mch_capture_drop(struct mch_capture *capture) {
  for (int i = 0; i < 2; i++) {
    if (capture->files[i] >= 0)
      close(capture->files[i]);
    if (capture->saved[i] >= 0)
      close(capture->saved[i]);
    capture->files[i] = capture->saved[i] = -1;
  }
}

int mch_capture_begin(struct mch_capture *capture) {
  int problem;
  fflush(stdout);
  fflush(stderr);
  for (int i = 0; i < 2; i++) {
    capture->files[i] = open_nameless();
    capture->saved[i] = fcntl(i + 1, F_DUPFD_CLOEXEC, 3);
  }
  for (int i = 0; i < 2; i++) {
    if (capture->files[i] < 0 || capture->saved[i] < 0 || dup2(capture->files[i], i + 1) < 0) {
      problem = errno;
      if (i == 1)
        dup2(capture->saved[0], STDOUT_FILENO);
      mch_capture_drop(capture);
      return problem;
    }
  }
  return 0;
}

void mch_capture_end(struct mch_capture *capture) {
  fflush(stdout);
  fflush(stderr);
  for (int i = 0; i < 2; i++)
    dup2(capture->saved[i], i + 1);
}

int mch_capture_size(const struct mch_capture *capture, int which, size_t *size) {
  return file_size(capture->files[which - 1], size);
}

int mch_capture_get(const struct mch_capture *capture, int which, char *to, size_t size) {
  return file_get(capture->files[which - 1], to, size);
}

/* --- the end -----------------------------------------------------------------------------------
 */

/* The signal goes to the whole process group, the worker's own, which does not heed it. */
static void ask_to_end(struct mch_spawned *command) {
  struct sigaction ignore = {0}, before;
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGTERM, &ignore, &before);
  kill(0, SIGTERM);
  while (command->pid != 0 && mch_spawn_wait(command) == EINTR) {
  }
  command->pid = 0;
  sigaction(SIGTERM, &before, NULL);
}

void mch_spawn_drop(struct mch_spawned *command) {
  if (command->pid != 0)
    ask_to_end(command);
  if (command->out >= 0)
    close(command->out);
  if (command->err >= 0)
    close(command->err);
  command->out = command->err = -1;
}
