/* Runs in: parent.
 *
 * The page of `mantichora top --web`: a server on a free port of the loopback interface that hands
 * out a few fixed files to anybody on this machine and one stream of data to those who have its
 * token. It reads requests and changes nothing; it has no thread, and works in mch_web_serve()
 * only.
 *
 *   request                                                     answer
 *   Host is not 127.0.0.1, localhost or [::1] (any port)        421
 *   a method other than GET and HEAD                            405
 *   / and the other fixed files                                 200
 *   anything else without `Authorization: Bearer TOKEN`         403
 *   /stream with it                                             200, lines without an end
 *   anything else with it                                       404
 *
 * The checks are made in this order. No answer may be kept, framed, or read by another origin.
 *
 * Each viewer of the stream gets a snapshot first and then what is published. What one viewer may
 * hold back is bounded: who reads more slowly than that misses messages and gets a new snapshot
 * when it has read what it was sent. */
#ifndef MCH_WEB_SERVER_H
#define MCH_WEB_SERVER_H

#include <stddef.h>

#include "runtime/base/error.h"

struct mch_web;

struct mch_web_file {
  const char *path; /* "/" or "/page.css" */
  const char *type; /* its media type */
  const void *bytes;
  size_t length;
};

enum { MCH_WEB_TOKEN = 32 }; /* hexadecimal digits: 128 bits */

/* Begin to serve `count` files, which outlive the server with all that they point to. 0, or a
 * negative code: there is no libmicrohttpd, in this build or on this machine; no port; no memory.
 */
int mch_web_open(struct mch_web **web, const struct mch_web_file *files, size_t count,
                 struct mch_error *error);

/* Say farewell to all viewers and free everything; what they were sent before still goes out if
 * they read at once. NULL is fine. */
void mch_web_close(struct mch_web *web);

/* The port, and the token, MCH_WEB_TOKEN digits. */
int mch_web_port(const struct mch_web *web);
const char *mch_web_token(const struct mch_web *web);

/* Wait for at most so many seconds until `fd` (-1: none) is readable or a browser wants something,
 * and serve the browsers. Returns whether `fd` is readable. A signal ends the wait. */
int mch_web_serve(struct mch_web *web, int fd, double seconds);

/* The same wait without a server. */
int mch_web_wait(int fd, double seconds);

/* How many viewers there are, and how many of them wait for a snapshot. */
unsigned mch_web_viewers(const struct mch_web *web);
unsigned mch_web_wanting(const struct mch_web *web);

/* Send bytes to each viewer that has all that came before, or, if `is_snapshot`, to each one that
 * waits for a snapshot. 0 or MCH_NOMEM, after which viewers miss it and want a snapshot. */
int mch_web_publish(struct mch_web *web, const void *bytes, size_t length, int is_snapshot);

#endif
