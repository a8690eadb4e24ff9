/* Runs in: both. Purpose: lease.h. */
#include "lease.h"

#include "runtime/base/buf.h"

static const uint64_t longest_interval = 2000000000u, shortest_interval = 20000000u;

uint64_t mch_lease_interval(const struct mch_lease *lease) {
  uint64_t interval = lease->length / 8;
  if (interval > longest_interval)
    return longest_interval;
  return interval < shortest_interval ? shortest_interval : interval;
}

uint64_t mch_lease_due(const struct mch_lease *lease) {
  return lease->answer ? 0 : lease->made + mch_lease_interval(lease);
}

void mch_lease_make_beat(struct mch_lease *lease, uint64_t now, unsigned char beat[MCH_BEAT_SIZE]) {
  mch_store_u64(beat, now);
  mch_store_u64(beat + 8, lease->theirs);
  mch_store_u64(beat + 16, lease->theirs == 0 ? 0 : now - lease->theirs_at);
  lease->made = now;
  lease->answer = 0;
}

void mch_lease_take_beat(struct mch_lease *lease, uint64_t now,
                         const unsigned char beat[MCH_BEAT_SIZE]) {
  uint64_t stamp = mch_load_u64(beat), ours = mch_load_u64(beat + 8),
           held = mch_load_u64(beat + 16);
  lease->answer |= lease->theirs == 0;
  lease->heard = now;
  lease->theirs = stamp;
  lease->theirs_at = now;
  if (ours == 0 || ours > now || held > now - ours) /* none, or none of ours */
    return;
  if (ours + lease->length > lease->until)
    lease->until = ours + lease->length;
  lease->rtt = lease->rtt == 0 ? now - ours - held + 1 : (7 * lease->rtt + (now - ours - held)) / 8;
}

int mch_lease_is_suspect(const struct mch_lease *lease, uint64_t now) {
  return now > lease->heard && now - lease->heard > lease->length / 2;
}

int mch_lease_is_over(const struct mch_lease *lease, uint64_t now) {
  return now > lease->heard && now - lease->heard > lease->length;
}
