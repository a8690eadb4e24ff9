/* Runs in: both. Purpose: tray.h. */
#include "runtime/commands/tray.h"

#include <string.h>

/* The claim, from its low end: 28 bits done, 28 bits limit, two flags. */
#define COUNT_BITS 28
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
#define RUNS (UINT64_C(1) << 62)
#define STOPPED (UINT64_C(1) << 63)

static uint32_t done_of(uint64_t claim) {
  return (uint32_t)(claim & COUNT_MASK);
}

static uint32_t limit_of(uint64_t claim) {
  return (uint32_t)(claim >> COUNT_BITS & COUNT_MASK);
}

static uint64_t with_limit(uint64_t claim, uint32_t limit) {
  return (claim & ~(COUNT_MASK << COUNT_BITS)) | (uint64_t)limit << COUNT_BITS;
}

static int is_reached(const struct mch_counter *counter) {
  uint64_t failed = atomic_load(&counter->failed);
  if (counter->halt_count > 0)
    return failed >= counter->halt_count;
  return counter->halt_share > 0 && failed >= 3 &&
         (double)failed >= counter->halt_share * (double)atomic_load(&counter->ended);
}

void mch_counter_add(struct mch_counter *counter, uint64_t number, int has_failed) {
  uint64_t from = counter->halts_all ? 1 : number + 1;
  uint64_t halted = 0;
  /* Only a share needs to know how many ended. */
  if (counter->halt_share > 0)
    atomic_fetch_add(&counter->ended, 1);
  if (!has_failed)
    return;
  atomic_fetch_add(&counter->failed, 1);
  if (!is_reached(counter))
    return;
  while ((halted == 0 || halted > from) &&
         !atomic_compare_exchange_weak(&counter->halted, &halted, from)) {
  }
}

int mch_counter_is_halted(const struct mch_counter *counter, uint64_t number) {
  uint64_t halted = atomic_load_explicit(&counter->halted, memory_order_relaxed);
  return halted != 0 && number >= halted;
}

/* --- the parent ------------------------------------------------------------------------------ */

void mch_tray_fill(struct mch_tray *tray, const char *items, size_t length, uint32_t count) {
  if (length > 0)
    memcpy(tray->items, items, length);
  tray->length = (uint32_t)length;
  tray->had = tray->read = tray->written = 0;
  atomic_store(&tray->started, 0);
  atomic_store(&tray->attempt, 0);
  atomic_store(&tray->claim, with_limit(0, count));
}

uint32_t mch_tray_cut(struct mch_tray *tray) {
  uint64_t claim = atomic_load(&tray->claim);
  uint32_t begun;
  do {
    begun = done_of(claim) + ((claim & RUNS) != 0);
  } while (!atomic_compare_exchange_weak(&tray->claim, &claim, with_limit(claim, begun)));
  return begun;
}

int mch_tray_stop(struct mch_tray *tray, uint32_t index) {
  uint64_t claim = atomic_load(&tray->claim);
  do {
    if ((claim & RUNS) == 0 || (index != UINT32_MAX && done_of(claim) != index))
      return 0;
  } while (!atomic_compare_exchange_weak(&tray->claim, &claim,
                                         with_limit(claim, done_of(claim) + 1) | STOPPED));
  return 1;
}

struct mch_tray_state mch_tray_look(const struct mch_tray *tray) {
  uint64_t claim = atomic_load(&tray->claim);
  struct mch_tray_state state = {done_of(claim), limit_of(claim), (claim & RUNS) != 0,
                                 (claim & STOPPED) != 0};
  return state;
}

int mch_tray_next(struct mch_tray *tray, int take, struct mch_record *record,
                  const char **payload) {
  const char *at = tray->records + tray->read;
  if (tray->had >= done_of(atomic_load_explicit(&tray->claim, memory_order_acquire)))
    return 0;
  memcpy(record, at, sizeof *record);
  *payload = at + sizeof *record;
  if (!take)
    return 1;
  tray->had++;
  tray->read += (uint32_t)sizeof *record + (record->is_away ? 0 : record->length);
  return 1;
}

/* --- a worker -------------------------------------------------------------------------------- */

int mch_tray_begin(struct mch_tray *tray, uint64_t now) {
  uint64_t claim = atomic_load_explicit(&tray->claim, memory_order_relaxed);
  atomic_store_explicit(&tray->attempt, 0, memory_order_relaxed);
  atomic_store_explicit(&tray->started, now, memory_order_relaxed);
  do {
    if (done_of(claim) >= limit_of(claim) || (claim & STOPPED) != 0)
      return 0;
  } while (!atomic_compare_exchange_weak(&tray->claim, &claim, claim | RUNS));
  return 1;
}

int mch_tray_retry(struct mch_tray *tray, uint64_t now) {
  /* What was stopped has had its last attempt here: the parent counts on from this one. */
  if ((atomic_load(&tray->claim) & STOPPED) != 0)
    return 0;
  atomic_store(&tray->started, now);
  atomic_fetch_add(&tray->attempt, 1);
  return 1;
}

int mch_tray_has_room(const struct mch_tray *tray, size_t length) {
  size_t room = MCH_TRAY_RECORDS - 2 * sizeof(struct mch_record);
  return tray->written <= room && length <= room - tray->written;
}

/* The record comes first, the count then: what the count speaks of is always there, also when this
 * process is killed in between. */
int mch_tray_finish(struct mch_tray *tray, const struct mch_record *record, const char *payload) {
  uint64_t claim = atomic_load_explicit(&tray->claim, memory_order_relaxed);
  char *to = tray->records + tray->written;
  memcpy(to, record, sizeof *record);
  if (!record->is_away && record->length > 0)
    memcpy(to + sizeof *record, payload, record->length);
  tray->written += (uint32_t)sizeof *record + (record->is_away ? 0 : record->length);
  do {
    if ((claim & STOPPED) != 0)
      return 0;
  } while (!atomic_compare_exchange_weak(&tray->claim, &claim, (claim & ~RUNS) + 1));
  return 1;
}
