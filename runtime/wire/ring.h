/* Runs in: both.
 *
 * A stream of bytes through memory that two processes share: one writes, one reads, without system
 * calls while both are awake. Each side may sleep on a descriptor of its own; the other then wakes
 * it by a byte on that descriptor, the bell. A side announces that it sleeps before it looks for
 * the last time, so that no bell is missed. A process that dies in the middle leaves bytes that
 * were never published. */
#ifndef MCH_RING_H
#define MCH_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MCH_RING_SIZE (256u * 1024u) /* a power of two */
#define MCH_PAGE_MAX 65536u          /* no machine protects memory in larger pieces */

struct mch_ring {
  _Atomic uint32_t written; /* bytes that were ever written, modulo 2^32 */
  _Atomic uint32_t reader_sleeps;
  char pad1[56]; /* what each side writes stays on lines of its own */
  _Atomic uint32_t read;
  _Atomic uint32_t writer_sleeps;
  char pad2[MCH_PAGE_MAX - 72];       /* never touched, so it takes no memory */
  unsigned char bytes[MCH_RING_SIZE]; /* on pages of their own: the reader may be kept off */
};

/* Write at most `count` bytes; returns how many fitted. */
size_t mch_ring_write(struct mch_ring *ring, const void *bytes, size_t count);

/* Write a byte that says `length`, at most 255, and so many bytes, if all of it fits: 1; else 0. */
int mch_ring_write_record(struct mch_ring *ring, const void *bytes, size_t length);

/* Bytes to be read now. More than MCH_RING_SIZE: the other side broke it. */
size_t mch_ring_waiting(const struct mch_ring *ring);

/* Read at most `count` bytes; returns how many there were. */
size_t mch_ring_read(struct mch_ring *ring, void *bytes, size_t count);

/* Whether so much of it is free that it is worth waking a writer that sleeps. */
int mch_ring_has_room(const struct mch_ring *ring);

/* Before a side falls asleep: say so, then look once more. Nonzero: stay awake. The writer sleeps
 * until the ring has room, the reader until there are bytes. */
int mch_ring_reader_stays(struct mch_ring *ring);
int mch_ring_writer_stays(struct mch_ring *ring);

/* Chaos: the writer falls asleep although there is room. Nonzero if bytes wait to be read, so that
 * a bell will come; else it stays awake. */
int mch_ring_writer_naps(struct mch_ring *ring);

/* After writing (reading): whether the other side sleeps and wants a bell. Says so once. */
int mch_ring_wants_bell(_Atomic uint32_t *sleeps);

#endif
