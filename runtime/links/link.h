/* Runs in: both.
 *
 * An end of a link to another machine: the script's, or the supervisor's there. Messages (a type,
 * of the two ends' own, and bytes) go each once, in order, and whole; and each end learns what
 * becomes of the other one. The link itself lives in helper processes (helper.h), so that a script
 * that is stopped by Ctrl-Z loses nothing, and a machine that nobody is heard from any more stops
 * its work.
 *
 * Nothing here waits. Whoever has a link watches mch_link_fd() for being readable and keeps
 * mch_link_deadline(); then it calls mch_link_next() until that gives MCH_LINK_NOTHING. */
#ifndef MCH_LINK_H
#define MCH_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "helper.h"
#include "runtime/base/buf.h"
#include "runtime/base/error.h"

struct mch_link;

/* The script's end: starts a helper, which starts the carrier. NULL and `error` if there could be
 * no helper; all else that goes wrong is an event. Forks: on the owner's thread only. */
struct mch_link *mch_link_start(const struct mch_link_config *config, struct mch_error *error);

/* The machine's end, in a process that a carrier has started and that has no threads yet. The
 * process becomes the helper; the call returns in its child, the supervisor, whose stdin is empty
 * then and whose stdout is its stderr. The supervisor does not outlive the helper, nor the lease.
 */
struct mch_link *mch_link_serve(const struct mch_link_serve_config *config,
                                struct mch_error *error);

/* Readable when there is something to do, also when what was sent can go on. Not to be watched any
 * more after MCH_LINK_LOST or a MCH_LINK_SUSPECT with `ended`: then it is readable for ever. */
int mch_link_fd(const struct mch_link *link);
/* When there is something to do without that, as mch_now() has it. */
uint64_t mch_link_deadline(const struct mch_link *link);

enum mch_link_what {
  MCH_LINK_NOTHING,
  MCH_LINK_UP, /* the other side answers. What is sent before waits for that */
  MCH_LINK_MESSAGE,
  MCH_LINK_SUSPECT, /* nothing was heard for half the lease, or (`ended`) the connection ended and
                       MCH_LINK_LOST will follow: nothing more shall be begun there */
  MCH_LINK_AGAIN,   /* it is heard again */
  MCH_LINK_SLOTS,   /* a supervisor's: `number` slots are its share of this machine from now on */
  MCH_LINK_LEAVE,   /* a supervisor's: the script has done with it; it is killed 1.5 s later */
  MCH_LINK_LOST     /* the last event, once. Nothing of the other side runs any more */
};
struct mch_link_event {
  enum mch_link_what what;
  unsigned char type; /* MESSAGE */
  const unsigned char *bytes;
  size_t length;
  const char *text; /* LOST: why, to be read by people; UP: what was said before. Until next call */
  int refused;      /* LOST: it never was up */
  int ended;        /* SUSPECT */
  uint32_t number;  /* SLOTS */
};

/* What has happened. The bytes of a message are valid until the next call. */
enum mch_link_what mch_link_next(struct mch_link *link, struct mch_link_event *event);

/* Take the bytes of the message that mch_link_next() has just given, into an empty buffer; large
 * ones are not copied. 0 or MCH_NOMEM. */
int mch_link_keep(struct mch_link *link, struct mch_buf *to);

/* A part of a message that stays where it is until release(ud), which is called once it was
 * written, or will not be. */
struct mch_link_body {
  const void *bytes;
  size_t length;
  void (*release)(void *ud); /* may be NULL */
  void *ud;
};

/* Send a message: a copy of `head`, and behind it the bytes of `body` (may be NULL). It goes with
 * the next mch_link_flush(), or earlier. 0; or MCH_NOMEM, and nothing was sent or released. What is
 * sent to a link that is lost or closed is released at once. */
int mch_link_send(struct mch_link *link, unsigned char type, const void *head, size_t head_length,
                  const struct mch_link_body *body);
void mch_link_flush(struct mch_link *link);

/* Bytes that wait in this process. Who sends without a bound holds back above some MiB. */
size_t mch_link_queued(const struct mch_link *link);

/* The smoothed time that a word and its answer take, in nanoseconds; 0: not known yet. */
uint64_t mch_link_rtt(const struct mch_link *link);

/* What the carrier has said so far (a greeting, its stderr), the last of it; never NULL. */
const char *mch_link_said(const struct mch_link *link);

/* End in an orderly way: what was sent before still goes. MCH_LINK_LOST comes within 2 s. */
void mch_link_close(struct mch_link *link);

/* At any time; before MCH_LINK_LOST it cuts the connection. May be NULL. */
void mch_link_free(struct mch_link *link);

#endif
