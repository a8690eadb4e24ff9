/* Runs in: both, then hands over to relay.c in a process of its own.
 *
 * Makes the helper processes on both sides of a carrier, and the carrier. Forks: on the owner's
 * thread only.
 *
 *     script ==socket== helper (a session of its own) --pipes-- carrier          lives as long as
 *     carrier ---stdin, stdout--- helper ==socket== supervisor -- workers        what it hangs on
 *
 * Whoever of them is killed takes along what hangs on it: the carrier dies with its helper, the
 * supervisor with its own (by the kernel), workers with the supervisor (by their lifelines); the
 * rest see the ends of their streams. A helper or supervisor that is stopped is killed by a timer
 * of the kernel's when its lease is over. */
#ifndef MCH_HELPER_H
#define MCH_HELPER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/error.h"

struct mch_relay_board;

struct mch_helper {
  int fd; /* to the helper; does not block */
  pid_t pid;
  int watch; /* see mch_platform_watch_process() */
  struct mch_relay_board *board;
};

struct mch_link_config {
  char *const *command;     /* words, NULL behind the last; found along PATH, without a shell */
  char *const *environment; /* more of it, "NAME=value", for the carrier only; or NULL */
  uint64_t lease, connect_timeout; /* nanoseconds */
};

struct mch_link_serve_config {
  int slots_fd; /* where the share of this machine's slots is said, u32 each; or -1 */
};

/* The script's side. 0, or an error and no process was made. */
int mch_helper_start(struct mch_helper *helper, const struct mch_link_config *config,
                     struct mch_error *error);

/* The machine's side: this process becomes the helper and never returns; its child, the supervisor,
 * does. 0, or an error in a process that is neither. */
int mch_helper_serve(struct mch_helper *helper, const struct mch_link_serve_config *config,
                     struct mch_error *error);

/* The end of the helper; a helper that still lives is killed. Its carrier and what that started go
 * with it. `fd` stays open, since somebody may watch it. */
void mch_helper_bury(struct mch_helper *helper);

#endif
