/* Runs in: a helper process, on either side of a carrier.
 *
 * Moves frames between a carrier and its end (the script, or the supervisor) without reading them,
 * and keeps the lease while the end is stopped or busy. It never waits for one of them while the
 * other could go on, holds at most a window of each direction, and ends by itself:
 *
 *     the script's side:  once the script has gone, or the machine is lost and the script was told;
 *     the machine's side: once the supervisor has gone, the carrier has, or the lease is over; then
 *                         the supervisor is killed first, and its workers with it by their
 * lifelines.
 *
 * It runs in a fork that has given back its memory: nothing here calls malloc(), stdio, or
 * strerror(). */
#ifndef MCH_RELAY_H
#define MCH_RELAY_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

/* Shared by an end and its helper. */
struct mch_relay_board {
  _Atomic uint32_t waits; /* the end has more to send than the socket took */
  _Atomic uint64_t heard; /* when the other side was heard last, of mch_process_clock() */
  _Atomic uint64_t rtt;
};

struct mch_relay_config {
  int script;       /* this is the script's side */
  int end;          /* socket to the script or supervisor */
  int in, out, err; /* the carrier's; err: -1 on the machine's side */
  int slots;        /* the machine's side: where its share of slots is said, u32 each; or -1 */
  pid_t child;      /* the carrier; the supervisor */
  const char *name; /* the carrier's, for sentences; copied */
  uint64_t lease, connect_timeout; /* the script's side; nanoseconds */
  struct mch_relay_board *board;
};

/* All memory that a relay needs; NULL: there is none. */
struct mch_relay *mch_relay_make(const struct mch_relay_config *config);

/* The carrier's `program` could not be started, for this reason (errno): tell the script so. Then
 * run it. */
void mch_relay_refuse(struct mch_relay *relay, const char *program, int problem);

void mch_relay_run(struct mch_relay *relay) __attribute__((noreturn));

#endif
