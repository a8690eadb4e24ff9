/* Runs in: both.
 *
 * The URL of a broker: amqp[s]://[user[:password]@]host[:port][/name], in which user, password and
 * name may have %XX. IPv6 addresses stand in brackets. */
#ifndef MCH_URL_H
#define MCH_URL_H

#include <stddef.h>

#include "runtime/base/error.h"

/* Whether `text` is the URL of a broker. */
int mch_url_is_broker(const char *text);

/* Take the password out of a URL, in place, so that it can be shown: a copy of it without %XX, to
 * be freed, or NULL: there was none. `password` is left out also where the URL is wrong otherwise.
 */
char *mch_url_split(char *url);

struct mch_url {
  int tls, port;
  char user[128], host[256];
  char name[128]; /* of the virtual host, or fleet; empty: none was given */
};

/* Read one without a password. 0 or an error, which names what is wrong. */
int mch_url_parse(struct mch_url *url, const char *text, struct mch_error *error);

/* Whether the host is this machine, by its own name or number. */
int mch_url_is_loopback(const struct mch_url *url);

#endif
