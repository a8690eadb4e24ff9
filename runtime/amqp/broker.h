/* Runs in: mantichora-amqp.
 *
 * A connection to a broker, with one channel; what goes wrong with it, in sentences. Blocks, for
 * some seconds at most. Of one thread only. */
#ifndef MCH_BROKER_H
#define MCH_BROKER_H

#include <amqp.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"
#include "runtime/links/url.h"

/* What is needed to log in; filled once, read by all threads. */
struct mch_account {
  struct mch_url url;
  char user[128], password[512];            /* password: empty: by certificate */
  char ca[512], certificate[512], key[512]; /* files; empty: none */
};

/* From a URL (its password, if it had one, beside it) and the user's settings. 0 or an error: what
 * is missing, or must not be. */
int mch_account_find(struct mch_account *account, const char *url, const char *password,
                     struct mch_error *error);

struct mch_broker {
  const struct mch_account *account;
  amqp_connection_state_t state;                       /* NULL: there is no connection */
  char fleet[128];                                     /* its name, on this broker */
  char complaint[sizeof((struct mch_error *)0)->text]; /* the last that was told */
  int hopeless; /* the last failure was none that time mends */
};

/* 0; or an error, see `hopeless`. */
int mch_broker_open(struct mch_broker *broker, struct mch_error *error);
void mch_broker_close(struct mch_broker *broker);

/* Whether the last call of librabbitmq went well: 0, or an error, and then the connection is
 * closed. */
int mch_broker_check(struct mch_broker *broker, amqp_rpc_reply_t reply, const char *what,
                     struct mch_error *error);
int mch_broker_reply(struct mch_broker *broker, const char *what, struct mch_error *error);

/* A method came that closes the channel or connection: an error with what the broker says. Others
 * are no matter: 0. */
int mch_broker_heed(struct mch_broker *broker, const amqp_frame_t *frame, struct mch_error *error);

/* Send bytes, which do not survive the broker. To a queue that is not there they go nowhere, or, if
 * `must_arrive`, they come back as basic.return. 0 or an error. */
int mch_broker_publish(struct mch_broker *broker, const char *exchange, const char *route,
                       const void *bytes, size_t length, int must_arrive, struct mch_error *error);

/* A queue of this connection, that goes with it. 0 or an error. */
int mch_broker_own_queue(struct mch_broker *broker, const char *name, const char *exchange,
                         struct mch_error *error);
/* An exchange that hands everything to all. 0 or an error. */
int mch_broker_hall(struct mch_broker *broker, const char *name, struct mch_error *error);
/* A queue that survives the broker, but not ten minutes without anybody at it. 0 or an error. */
int mch_broker_lasting_queue(struct mch_broker *broker, const char *name, struct mch_error *error);

/* Whether the connection has something to be read already, and the descriptor to wait for else. */
int mch_broker_has_more(const struct mch_broker *broker);
int mch_broker_fd(const struct mch_broker *broker);

#endif
