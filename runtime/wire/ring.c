/* Runs in: both. Purpose: ring.h. */
#include "ring.h"

#include <string.h>

size_t mch_ring_waiting(const struct mch_ring *ring) {
  return atomic_load_explicit(&ring->written, memory_order_acquire) -
         atomic_load_explicit(&ring->read, memory_order_relaxed);
}

static size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

size_t mch_ring_write(struct mch_ring *ring, const void *bytes, size_t count) {
  uint32_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
  uint32_t used = written - atomic_load_explicit(&ring->read, memory_order_acquire);
  size_t at = written & (MCH_RING_SIZE - 1), first;
  if (used > MCH_RING_SIZE)
    return 0;
  count = smaller(count, MCH_RING_SIZE - used);
  first = smaller(count, MCH_RING_SIZE - at);
  memcpy(ring->bytes + at, bytes, first);
  memcpy(ring->bytes, (const unsigned char *)bytes + first, count - first);
  atomic_store_explicit(&ring->written, written + (uint32_t)count, memory_order_release);
  return count;
}

int mch_ring_write_record(struct mch_ring *ring, const void *bytes, size_t length) {
  uint32_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
  uint32_t used = written - atomic_load_explicit(&ring->read, memory_order_acquire);
  size_t at = (written + 1) & (MCH_RING_SIZE - 1), first;
  if (used > MCH_RING_SIZE || MCH_RING_SIZE - used < length + 1)
    return 0;
  first = smaller(length, MCH_RING_SIZE - at);
  ring->bytes[written & (MCH_RING_SIZE - 1)] = (unsigned char)length;
  memcpy(ring->bytes + at, bytes, first);
  if (first < length)
    memcpy(ring->bytes, (const unsigned char *)bytes + first, length - first);
  atomic_store_explicit(&ring->written, written + (uint32_t)length + 1, memory_order_release);
  return 1;
}

size_t mch_ring_read(struct mch_ring *ring, void *bytes, size_t count) {
  uint32_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
  size_t at = read & (MCH_RING_SIZE - 1), waiting = mch_ring_waiting(ring), first;
  if (waiting > MCH_RING_SIZE)
    return 0;
  count = smaller(count, waiting);
  first = smaller(count, MCH_RING_SIZE - at);
  memcpy(bytes, ring->bytes + at, first);
  memcpy((unsigned char *)bytes + first, ring->bytes, count - first);
  atomic_store_explicit(&ring->read, read + (uint32_t)count, memory_order_release);
  return count;
}

int mch_ring_has_room(const struct mch_ring *ring) {
  return atomic_load(&ring->written) - atomic_load(&ring->read) <= MCH_RING_SIZE / 2;
}

int mch_ring_reader_stays(struct mch_ring *ring) {
  atomic_store(&ring->reader_sleeps, 1);
  atomic_thread_fence(memory_order_seq_cst);
  if (mch_ring_waiting(ring) == 0)
    return 0;
  atomic_store(&ring->reader_sleeps, 0);
  return 1;
}

int mch_ring_writer_stays(struct mch_ring *ring) {
  atomic_store(&ring->writer_sleeps, 1);
  atomic_thread_fence(memory_order_seq_cst);
  if (!mch_ring_has_room(ring))
    return 0;
  atomic_store(&ring->writer_sleeps, 0);
  return 1;
}

int mch_ring_writer_naps(struct mch_ring *ring) {
  atomic_store(&ring->writer_sleeps, 1);
  atomic_thread_fence(memory_order_seq_cst);
  if (mch_ring_waiting(ring) > 0)
    return 1;
  atomic_store(&ring->writer_sleeps, 0);
  return 0;
}

int mch_ring_wants_bell(_Atomic uint32_t *sleeps) {
  atomic_thread_fence(memory_order_seq_cst);
  return atomic_load_explicit(sleeps, memory_order_relaxed) != 0 && atomic_exchange(sleeps, 0) != 0;
}
