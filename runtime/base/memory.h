/* Runs in: both.
 *
 * How much memory a worker has of its own, and how much the machine has left. The system's own
 * words are read where it says them (/proc, control groups); that is found out at run time. */
#ifndef MCH_MEMORY_H
#define MCH_MEMORY_H

#include <stdint.h>

/* What a process looks at its memory with; zeroed, then begun at its fork. */
struct mch_own_memory {
  uint64_t inherited; /* bytes that it may share with the process that it is a fork of */
  uint64_t next;      /* when to look again: so that looking takes little of its time */
  uint64_t next_exact;
};
void mch_own_memory_begin(struct mch_own_memory *own);

/* Whether it has more than `most` bytes of its own, as far as it is time to look: what it has in
 * memory and shares with nobody. Where the system does not tell, what it had at its largest, less
 * what it began with. */
int mch_own_memory_exceeds(struct mch_own_memory *own, uint64_t most);

/* Bytes that can be had without swapping: of the machine, and of the control groups that this
 * process is in (limit minus use, in which reclaimable file cache does not count).
 * UINT64_MAX: unknown. `root`: where /proc and /sys are, "" but for tests. */
uint64_t mch_memory_available(const char *root);

#endif
