/* Runs in: parent.
 *
 * The numbers of slots. Each machine counts its own from 1; in the pool they are all different, as
 * those of one machine are: a slot has the least number that is free when it is first heard of, and
 * keeps it until its machine goes, or has fewer slots and nobody in this one. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdlib.h>

#include "runtime/base/grow.h"

static void release(struct machine *machine, unsigned slot) {
  if (machine->slots[slot] != 0)
    machine->engine->taken[machine->slots[slot]] = 0;
  machine->slots[slot] = 0;
}

/* Without memory it keeps the machine's own number. */
unsigned mch_hslots_number(struct machine *machine, unsigned slot) {
  struct engine_hosts *engine = machine->engine;
  unsigned *slots, number = 1;
  unsigned char *taken;
  if (slot == 0)
    return 0;
  slots = mch_grow(machine->slots, &machine->slot_room, (size_t)slot + 1, sizeof *slots);
  if (slots == NULL)
    return slot;
  machine->slots = slots;
  if (slots[slot] != 0)
    return slots[slot];
  while (number < engine->taken_room && engine->taken[number])
    number++;
  taken = mch_grow(engine->taken, &engine->taken_room, (size_t)number + 1, sizeof *taken);
  if (taken == NULL)
    return slot;
  engine->taken = taken;
  taken[number] = 1;
  return slots[slot] = number;
}

static int is_worked(const struct machine *machine, unsigned number) {
  size_t i;
  for (i = 0; i < machine->worker_count; i++)
    if (machine->workers[i].slot == number)
      return 1;
  return 0;
}

void mch_hslots_trim(struct machine *machine) {
  size_t slot;
  for (slot = (size_t)machine->share + 1; slot < machine->slot_room; slot++)
    if (machine->slots[slot] != 0 && !is_worked(machine, machine->slots[slot]))
      release(machine, (unsigned)slot);
}

void mch_hslots_release(struct machine *machine) {
  size_t slot;
  for (slot = 1; slot < machine->slot_room; slot++)
    release(machine, (unsigned)slot);
}
