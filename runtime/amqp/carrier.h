/* Runs in: mantichora-amqp.
 *
 * A stream of bytes each way through two queues of a broker, which are this pair's alone. One
 * thread sends and one receives, each by a connection of its own, so that a broker that takes
 * nothing now does not keep back what it has. Messages gather what is there, up to 64 KiB. They are
 * acknowledged to the broker once they were handed on, and confirmed to the other side by their
 * counters; the sender keeps each until then, and sends again what is left after it lost its
 * connection. So the broker need not write them to its disk, and may lose them all. The other
 * side's process is looked after: when it no longer reads its queue, this one ends.
 *
 *     script side                                     machine side
 *       CONNECT, sealed by the site key  ------------>  (to the machine's own queue)
 *       <------------------------------------  WELCOME, likewise
 *       STREAM <-------- sealed by the session's keys --------> STREAM
 *       TAKEN <------- what was handed on, by its counter -------> TAKEN
 *       END, when one side's stream ends */
#ifndef MCH_CARRIER_H
#define MCH_CARRIER_H

#include "broker.h"
#include "seal.h"

enum mch_carried {
  MCH_CARRY_STREAM = 1, /* bytes */
  MCH_CARRY_END,
  MCH_CARRY_WELCOME, /* "SESSION NONCE NONCE": the script's, the machine's */
  MCH_CARRY_CONNECT, /* "SESSION NONCE" */
  MCH_CARRY_CALL,    /* who is there? */
  MCH_CARRY_OFFER,   /* "ID SLOTS HOST" */
  MCH_CARRY_GONE,    /* "ID" */
  MCH_CARRY_TAKEN    /* u64: the last counter that was handed on */
};

enum { MCH_SESSION_SIZE = 32, MCH_HEX_NONCE = 2 * MCH_NONCE_SIZE };

struct mch_carrier_config {
  const struct mch_account *account;
  const unsigned char *site_key;
  const char *machine; /* the script's side: whom to ask; NULL: the machine's side */
  char session[MCH_SESSION_SIZE + 1];
  char nonce[MCH_HEX_NONCE + 1]; /* the script's */
  int in, out;                   /* the stream of this side */
};

/* Throw the dice for a session. */
void mch_carrier_draw(char *hex, size_t digits);

/* Carry until the end; the process ends in there. */
void mch_carrier_run(const struct mch_carrier_config *config) __attribute__((noreturn));

/* The queue on which a machine is asked. */
void mch_carrier_machine_queue(char *name, size_t room, const char *fleet, const char *machine);

#endif
