/* Runs in: both.
 *
 * Who may count on whom, and how long. Both sides send beats. Each says when it was made (a stamp
 * of its maker's clock), and gives back the last stamp of the other side. A machine may work until
 * one lease after the stamp of its own that was given back last; the script's side counts it as
 * lost no sooner than a lease after it heard a beat. The first is never later than the second,
 * whichever way the link is cut and whatever was under way: a stamp is made before it is heard, and
 * it is given back after that.
 *
 * No clock in here: times are nanoseconds of mch_process_clock(), given by the caller. */
#ifndef MCH_LEASE_H
#define MCH_LEASE_H

#include <stdint.h>

enum { MCH_BEAT_SIZE = 24 };

struct mch_lease {
  uint64_t length;    /* 0: not known yet */
  uint64_t heard;     /* when the last beat came, or the first greeting */
  uint64_t until;     /* the machine's: it may work so long */
  uint64_t theirs;    /* the last stamp of the other side; 0: none */
  uint64_t theirs_at; /* when it came */
  uint64_t made;      /* when the last beat was made */
  uint64_t rtt;       /* smoothed; 0: not known */
  int answer;         /* a beat came that wants one at once: the first */
};

/* How often beats are made. */
uint64_t mch_lease_interval(const struct mch_lease *lease);

void mch_lease_make_beat(struct mch_lease *lease, uint64_t now, unsigned char beat[MCH_BEAT_SIZE]);
void mch_lease_take_beat(struct mch_lease *lease, uint64_t now,
                         const unsigned char beat[MCH_BEAT_SIZE]);

/* When the next beat is due. */
uint64_t mch_lease_due(const struct mch_lease *lease);

/* The script's side: whether the other is silent for half the lease; for all of it. */
int mch_lease_is_suspect(const struct mch_lease *lease, uint64_t now);
int mch_lease_is_over(const struct mch_lease *lease, uint64_t now);

/* Beyond the lease, until the script's side is sure. */
#define MCH_LEASE_MARGIN UINT64_C(5000000000)

#endif
