/* Runs in: mantichora-amqp.
 *
 * Who is in a fleet. Machines say so to all (OFFER: when they join, when somebody asks, and at
 * times), and when they leave (GONE). A script's list asks (CALL) and listens. All of it is sealed
 * by the site key. A machine that is asked (CONNECT) starts a process for that session, which
 * carries (carrier.h) between its two queues and a supervisor; the agent gives each session its
 * share of the slots. */
#ifndef MCH_FLEET_H
#define MCH_FLEET_H

#include "broker.h"
#include "seal.h"

struct mch_agent_config {
  const struct mch_account *account;
  const unsigned char *site_key;
  const char *self;    /* the path of this program */
  const char *program; /* that of mantichora */
  const char *url;     /* without its password */
  unsigned slots;
};

/* Be a machine of the fleet, until SIGTERM or SIGINT. The status to exit with. */
int mch_fleet_work(const struct mch_agent_config *config);

/* Tell which machines there are, over a link on stdin and stdout: messages of type 1, "ID SLOTS
 * HOST", for one that joins, and of type 2, "ID", for one that leaves. */
enum { MCH_FLEET_JOIN = 1, MCH_FLEET_LEFT = 2 };
int mch_fleet_list(const struct mch_account *account, const unsigned char *site_key);

#endif
