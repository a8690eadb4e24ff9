/* Runs in: both. Purpose: link.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "link.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frame.h"
#include "lease.h"
#include "relay.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"

enum {
  CHUNK = 256 * 1024,       /* received at once */
  COPIED = 16 * 1024,       /* bodies up to here are copied */
  WRITE_FROM = 64 * 1024,   /* so much is written without a flush */
  AHEAD = 64 * 1024 * 1024, /* memory for a message before so much of it is there */
  STRETCH = 4               /* frames of a large message that are written or read at once */
};
static const uint64_t broken_within = 2000000000u; /* the other side knows by then */
static const uint64_t close_within = 2500000000u;
static const uint64_t helper_slack = 1000000000u;
static const uint64_t serve_within = 120000000000u;

/* What waits to be written: frames that are put together, or one message with a body. */
struct parcel {
  struct parcel *next;
  struct mch_buf frames; /* a message with a body: its head */
  struct mch_link_body body;
  unsigned char type;
  size_t done; /* bytes of the message that were written */
  size_t head; /* bytes of the present frame's head that were written */
};

struct mch_link {
  struct mch_helper helper;
  int script;
  uint64_t lease;
  struct mch_deadman deadman;
  struct mch_buf in, message; /* what came; the message that comes in several frames */
  struct mch_frame_order order;
  size_t given;              /* bytes of `in` that the last message stands in */
  int given_large;           /* the last message stands in `message` */
  const unsigned char *last; /* the message given last, for keep */
  size_t last_length;
  struct parcel *first, **tail;
  size_t queued;
  struct mch_buf text, said;
  int up, refused, closing;
  int ending;     /* no more comes: LOST is told at `clear_at` */
  int ended_told; /* SUSPECT with `ended` was */
  int silent;
  int lost;          /* was told */
  uint64_t clear_at; /* of mch_process_clock() */
  uint64_t until;    /* likewise: a supervisor's lease, as its helper has it */
};

/* -- making ------------------------------------------------------------------------------- */

static struct mch_link *make(void) {
  struct mch_link *link = calloc(1, sizeof *link);
  if (link == NULL)
    return NULL;
  link->tail = &link->first;
  link->clear_at = link->until = MCH_NEVER;
  link->deadman.timer = -1;
  link->said.maximum = 64 * 1024;
  return link;
}

struct mch_link *mch_link_start(const struct mch_link_config *config, struct mch_error *error) {
  struct mch_link *link = make();
  if (link == NULL) {
    mch_error_set(error, MCH_NOMEM, "cannot start a link: not enough memory");
    return NULL;
  }
  link->script = 1;
  link->lease = config->lease;
  if (mch_helper_start(&link->helper, config, error) == 0)
    return link;
  free(link);
  return NULL;
}

struct mch_link *mch_link_serve(const struct mch_link_serve_config *config,
                                struct mch_error *error) {
  struct mch_link *link = make();
  if (link == NULL) {
    mch_error_set(error, MCH_NOMEM, "cannot start a link: not enough memory");
    return NULL;
  }
  if (mch_helper_serve(&link->helper, config, error) != 0) {
    free(link);
    return NULL;
  }
  mch_deadman_make(&link->deadman);
  mch_deadman_arm(&link->deadman, mch_process_clock() + serve_within);
  return link;
}

/* -- asking ------------------------------------------------------------------------------- */

int mch_link_fd(const struct mch_link *link) {
  return link->helper.fd;
}

size_t mch_link_queued(const struct mch_link *link) {
  return link->queued;
}

uint64_t mch_link_rtt(const struct mch_link *link) {
  return link->helper.board == NULL ? 0 : atomic_load(&link->helper.board->rtt);
}

const char *mch_link_said(const struct mch_link *link) {
  return link->said.length == 0 ? "" : (const char *)link->said.data;
}

/* -- sending ------------------------------------------------------------------------------ */

static void drop_parcel(struct mch_link *link) {
  struct parcel *parcel = link->first;
  link->first = parcel->next;
  if (link->first == NULL)
    link->tail = &link->first;
  if (parcel->body.release != NULL)
    parcel->body.release(parcel->body.ud);
  mch_buf_free(&parcel->frames);
  free(parcel);
}

static void drop_all(struct mch_link *link) {
  while (link->first != NULL)
    drop_parcel(link);
  link->queued = 0;
}

/* The parcel of frames at the end of the queue, or a new one. */
static struct parcel *open_parcel(struct mch_link *link, int large) {
  struct parcel *parcel;
  if (!large && link->first != NULL) {
    parcel = (struct parcel *)(void *)((char *)link->tail - offsetof(struct parcel, next));
    if (parcel->body.bytes == NULL && parcel->frames.length < 4 * WRITE_FROM)
      return parcel;
  }
  parcel = calloc(1, sizeof *parcel);
  if (parcel == NULL)
    return NULL;
  *link->tail = parcel;
  link->tail = &parcel->next;
  return parcel;
}

/* The frame of a message that begins at `done`. */
static struct mch_frame frame_at(unsigned char type, size_t done, size_t total) {
  struct mch_frame frame = {MCH_FRAME_DATA, type, 0, 0, 0};
  size_t left = total - done;
  frame.length = (uint32_t)(left < MCH_FRAME_MOST ? left : MCH_FRAME_MOST);
  if (done == 0) {
    frame.flags |= MCH_FRAME_FIRST;
    frame.total = total;
  }
  if (frame.length == left)
    frame.flags |= MCH_FRAME_LAST;
  return frame;
}

/* A message whose bytes are copied into its frames. 0 or MCH_NOMEM. */
static int send_copied(struct mch_link *link, unsigned char type, const unsigned char *head,
                       size_t head_length, const unsigned char *body, size_t length) {
  struct parcel *parcel = open_parcel(link, 0);
  size_t total = head_length + length, done = 0, before;
  unsigned char bytes[MCH_FRAME_HEAD];
  if (parcel == NULL)
    return MCH_NOMEM;
  before = mch_buf_unread(&parcel->frames); /* to make room may move them */
  if (mch_buf_reserve(&parcel->frames, total + (total / MCH_FRAME_MOST + 1) * MCH_FRAME_HEAD) !=
      0) {
    parcel->frames.failed = 0;
    return MCH_NOMEM;
  }
  do {
    struct mch_frame frame = frame_at(type, done, total);
    size_t from_head = done < head_length ? head_length - done : 0;
    if (from_head > frame.length)
      from_head = frame.length;
    mch_frame_write(bytes, &frame);
    mch_buf_append(&parcel->frames, bytes, sizeof bytes);
    if (from_head > 0)
      mch_buf_append(&parcel->frames, head + done, from_head);
    if (frame.length > from_head)
      mch_buf_append(&parcel->frames, body + (done + from_head - head_length),
                     frame.length - from_head);
    done += frame.length;
  } while (done < total);
  link->queued += mch_buf_unread(&parcel->frames) - before;
  return 0;
}

static int send_large(struct mch_link *link, unsigned char type, const void *head,
                      size_t head_length, const struct mch_link_body *body) {
  struct parcel *parcel = open_parcel(link, 1);
  if (parcel == NULL)
    return MCH_NOMEM;
  mch_buf_append(&parcel->frames, head, head_length);
  if (parcel->frames.failed) {
    struct parcel **at = &link->first; /* it is the last one */
    while (*at != parcel)
      at = &(*at)->next;
    *at = NULL;
    link->tail = at;
    mch_buf_free(&parcel->frames);
    free(parcel);
    return MCH_NOMEM;
  }
  parcel->type = type;
  parcel->body = *body;
  link->queued += head_length + body->length;
  return 0;
}

int mch_link_send(struct mch_link *link, unsigned char type, const void *head, size_t head_length,
                  const struct mch_link_body *body) {
  size_t length = body == NULL ? 0 : body->length;
  int code;
  if (link->ending || link->closing) {
    if (body != NULL && body->release != NULL)
      body->release(body->ud);
    return 0;
  }
  if (length > COPIED)
    code = send_large(link, type, head, head_length, body);
  else {
    code = send_copied(link, type, head, head_length, body == NULL ? NULL : body->bytes, length);
    if (code == 0 && body != NULL && body->release != NULL)
      body->release(body->ud);
  }
  if (code == 0 && link->queued >= WRITE_FROM)
    mch_link_flush(link);
  return code;
}

static int is_full(int problem) {
  return problem == EAGAIN || problem == EWOULDBLOCK || problem == ENOBUFS;
}

/* Frames that were put together. 1: all of them; 0: the socket is full; -1: nobody reads. */
static int write_frames(struct mch_link *link, struct parcel *parcel) {
  size_t count = mch_buf_unread(&parcel->frames);
  ssize_t wrote;
  do
    wrote = mch_platform_send(link->helper.fd, parcel->frames.data + parcel->frames.read, count, 0);
  while (wrote < 0 && errno == EINTR);
  if (wrote < 0)
    return is_full(errno) ? 0 : -1;
  mch_buf_consume(&parcel->frames, (size_t)wrote);
  link->queued -= (size_t)wrote;
  return (size_t)wrote == count;
}

/* The frames of a message with a body that are written, or read, by one call. */
struct stretch {
  unsigned char heads[STRETCH][MCH_FRAME_HEAD];
  struct iovec parts[3 * STRETCH];
  size_t count, length;
};

static void add_part(struct stretch *stretch, const void *bytes, size_t length) {
  struct iovec *part = &stretch->parts[stretch->count];
  if (length == 0)
    return;
  part->iov_base = (void *)(uintptr_t)bytes;
  part->iov_len = length;
  stretch->count++;
  stretch->length += length;
}

/* What comes next of it: for each frame its head, bytes of the message's own head, and of its body.
 */
static void gather(struct stretch *stretch, const struct parcel *parcel) {
  size_t own = parcel->frames.length, total = own + parcel->body.length;
  size_t done = parcel->done, head = parcel->head, i;
  const unsigned char *body = parcel->body.bytes;
  stretch->count = stretch->length = 0;
  for (i = 0; i < STRETCH && done < total; i++) {
    size_t start = done / MCH_FRAME_MOST * MCH_FRAME_MOST, from_own;
    struct mch_frame frame = frame_at(parcel->type, start, total);
    size_t end = start + frame.length;
    mch_frame_write(stretch->heads[i], &frame);
    add_part(stretch, stretch->heads[i] + head, MCH_FRAME_HEAD - head);
    from_own = done >= own ? 0 : (end < own ? end : own) - done;
    add_part(stretch, parcel->frames.data + done, from_own);
    done += from_own;
    if (done < end)
      add_part(stretch, body + (done - own), end - done);
    done = end;
    head = 0;
  }
}

/* So many bytes of what was gathered are written. */
static void advance(struct mch_link *link, struct parcel *parcel, size_t count) {
  size_t total = parcel->frames.length + parcel->body.length;
  while (count > 0) {
    size_t start = parcel->done / MCH_FRAME_MOST * MCH_FRAME_MOST;
    size_t end = start + frame_at(parcel->type, start, total).length;
    size_t head = MCH_FRAME_HEAD - parcel->head, rest;
    if (head > count)
      head = count;
    parcel->head += head;
    count -= head;
    rest = end - parcel->done < count ? end - parcel->done : count;
    parcel->done += rest;
    link->queued -= rest;
    count -= rest;
    if (parcel->done == end)
      parcel->head = 0;
  }
}

/* Some of a message with a body. 1: all that was tried; 0: the socket is full; -1: nobody reads. */
static int write_stretch(struct mch_link *link, struct parcel *parcel) {
  struct stretch stretch;
  ssize_t wrote;
  gather(&stretch, parcel);
  do
    wrote = mch_platform_send_parts(link->helper.fd, stretch.parts, stretch.count);
  while (wrote < 0 && errno == EINTR);
  if (wrote < 0)
    return is_full(errno) ? 0 : -1;
  advance(link, parcel, (size_t)wrote);
  return (size_t)wrote == stretch.length;
}

/* 1: all is written; 0: the socket is full; -1: nobody reads. */
static int write_all(struct mch_link *link) {
  while (link->first != NULL) {
    struct parcel *parcel = link->first;
    int large = parcel->body.bytes != NULL;
    int all = large ? write_stretch(link, parcel) : write_frames(link, parcel);
    if (all <= 0)
      return all;
    if (!large || parcel->done == parcel->frames.length + parcel->body.length)
      drop_parcel(link);
  }
  return 1;
}

void mch_link_flush(struct mch_link *link) {
  int all;
  if (link->ending || link->first == NULL)
    return;
  all = write_all(link);
  if (all == 0) {
    /* The helper says when there is room; there may be by now, before it was asked to. */
    atomic_store(&link->helper.board->waits, 1);
    all = write_all(link);
  }
  if (all < 0) /* the end of the stream is read soon */
    drop_all(link);
}

/* -- the end ------------------------------------------------------------------------------ */

/* Text of the event; what a helper says is not terminated. */
static void set_text(struct mch_link *link, const void *bytes, size_t length) {
  mch_buf_clear(&link->text);
  mch_buf_append(&link->text, bytes, length);
  mch_buf_append(&link->text, "", 1);
}

static void end_begins(struct mch_link *link, enum mch_lost_how how, uint64_t heard) {
  uint64_t now = mch_process_clock(), sure = heard + link->lease + MCH_LEASE_MARGIN;
  link->ending = 1;
  link->clear_at = how == MCH_LOST_UNKNOWN ? sure : now + broken_within;
  if (link->clear_at > sure)
    link->clear_at = sure;
  if (how == MCH_LOST_REFUSED || how == MCH_LOST_PROVEN || link->closing || !link->script)
    link->clear_at = now;
  link->refused = how == MCH_LOST_REFUSED;
  drop_all(link);
}

/* The helper has gone; mostly it has said why before. */
static void helper_ended(struct mch_link *link) {
  static const char killed[] = "its helper process ended", left[] = "the connection ended";
  if (!link->ending) {
    uint64_t heard = atomic_load(&link->helper.board->heard);
    if (link->script)
      set_text(link, killed, sizeof killed - 1);
    else
      set_text(link, left, sizeof left - 1);
    end_begins(link, link->up ? MCH_LOST_BROKEN : MCH_LOST_REFUSED, heard);
  }
  mch_helper_bury(&link->helper);
}

/* -- receiving ---------------------------------------------------------------------------- */

static void remember_said(struct mch_link *link, const unsigned char *bytes, size_t length) {
  if (length == 0)
    return;
  if (link->said.length > 16 * 1024) { /* the last of it will do */
    memmove(link->said.data, link->said.data + link->said.length - 4096, 4096);
    link->said.length = 4096;
  }
  if (link->said.length > 0)
    link->said.length--; /* its end */
  mch_buf_append(&link->said, bytes, length);
  mch_buf_append(&link->said, "", 1);
  link->said.failed = 0;
}

static void take_lost(struct mch_link *link, const unsigned char *bytes, size_t length) {
  if (length < 9 || link->ending)
    return;
  set_text(link, bytes + 9, length - 9);
  end_begins(link, (enum mch_lost_how)bytes[0], mch_load_u64(bytes + 1));
}

/* A word of the helper. What event it is. */
static enum mch_link_what take_note(struct mch_link *link, const struct mch_frame *frame,
                                    const unsigned char *bytes, struct mch_link_event *event) {
  switch (frame->type) {
  case MCH_NOTE_UP:
    link->up = 1;
    remember_said(link, bytes, frame->length);
    event->text = mch_link_said(link);
    return MCH_LINK_UP;
  case MCH_NOTE_SILENT:
    return MCH_LINK_SUSPECT;
  case MCH_NOTE_AGAIN:
    return MCH_LINK_AGAIN;
  case MCH_NOTE_SAID:
    remember_said(link, bytes, frame->length);
    break;
  case MCH_NOTE_LEASE:
    if (frame->length == 8)
      mch_deadman_arm(&link->deadman, link->until = mch_load_u64(bytes));
    break;
  case MCH_NOTE_SLOTS:
    if (frame->length != 4)
      break;
    event->number = mch_load_u32(bytes);
    return MCH_LINK_SLOTS;
  case MCH_NOTE_ROOM:
    mch_link_flush(link);
    break;
  case MCH_NOTE_LEAVE:
    return MCH_LINK_LEAVE;
  case MCH_NOTE_LOST:
    take_lost(link, bytes, frame->length);
    break;
  }
  return MCH_LINK_NOTHING;
}

/* Room for the next piece of a message, of which `rest` bytes are to come: not more than that may
 * need, so that a large message takes its own size. */
static void make_room(struct mch_link *link, size_t piece, uint64_t rest) {
  struct mch_buf *message = &link->message;
  if (message->capacity - message->length < piece)
    mch_buf_reserve(message, rest < message->length ? (size_t)rest : message->length);
}

/* A piece of a message. Whether the message is whole. */
static int take_data(struct mch_link *link, const struct mch_frame *frame,
                     const unsigned char *bytes) {
  if ((frame->flags & MCH_FRAME_FIRST) && (frame->flags & MCH_FRAME_LAST)) {
    link->last = bytes;
    link->last_length = frame->length;
    return 1;
  }
  if (frame->flags & MCH_FRAME_FIRST) {
    mch_buf_clear(&link->message);
    mch_buf_reserve(&link->message, frame->total < AHEAD ? (size_t)frame->total : AHEAD);
  } else
    make_room(link, frame->length, link->order.left + frame->length);
  mch_buf_append(&link->message, bytes, frame->length);
  if ((frame->flags & MCH_FRAME_LAST) == 0)
    return 0;
  link->given_large = 1;
  link->last = link->message.data;
  link->last_length = link->message.length;
  return 1;
}

/* Lets go of what the last event showed. */
static void let_go(struct mch_link *link) {
  mch_buf_consume(&link->in, link->given);
  link->given = 0;
  link->last = NULL;
  if (link->given_large)
    mch_buf_shrink(&link->message, CHUNK);
  link->given_large = 0;
}

/* Nothing that comes behind this could be trusted. */
static void break_off(struct mch_link *link, const char *why) {
  set_text(link, why, strlen(why));
  end_begins(link, MCH_LOST_BROKEN, atomic_load(&link->helper.board->heard));
}

/* One frame. -1: there is no whole one; else what event it is. */
static int take_frame(struct mch_link *link, struct mch_link_event *event) {
  const unsigned char *bytes = link->in.data + link->in.read;
  size_t unread = mch_buf_unread(&link->in);
  struct mch_frame frame;
  int what = MCH_LINK_NOTHING, whole = mch_frame_next(&link->order, bytes, unread, &frame);
  if (whole < 0 || (whole > 0 && frame.kind != MCH_FRAME_DATA && frame.kind != MCH_FRAME_NOTE))
    break_off(link, "its helper process sent what is no frame");
  if (whole <= 0 || link->ending)
    return -1;
  if (frame.kind == MCH_FRAME_NOTE)
    what = (int)take_note(link, &frame, bytes + MCH_FRAME_HEAD, event);
  else if (take_data(link, &frame, bytes + MCH_FRAME_HEAD)) {
    what = MCH_LINK_MESSAGE;
    event->type = frame.type;
    event->bytes = link->last;
    event->length = link->last_length;
    if (link->message.failed) { /* no memory for it: nothing after it can be trusted */
      link->message.failed = 0;
      break_off(link, "there was not enough memory for what it sent");
      what = MCH_LINK_NOTHING;
    }
  }
  if (what == MCH_LINK_MESSAGE && !link->given_large)
    link->given = MCH_FRAME_HEAD + frame.length;
  else
    mch_buf_consume(&link->in, MCH_FRAME_HEAD + frame.length);
  return what;
}

/* Where to read frames in the middle of a large message to, so that they need no copy: their bytes
 * behind each other, if they are as long as they can be. Whether that is to be tried. */
static int foresee(struct mch_link *link, struct stretch *stretch) {
  uint64_t left = link->order.left;
  size_t i, at = link->message.length;
  stretch->count = stretch->length = 0;
  if (!link->order.open || mch_buf_unread(&link->in) > 0 || left <= MCH_FRAME_MOST)
    return 0;
  make_room(link, MCH_FRAME_MOST, left);
  for (i = 0; i < STRETCH && left > MCH_FRAME_MOST && /* the last one is an event */
              link->message.capacity - at >= MCH_FRAME_MOST;
       i++) {
    add_part(stretch, stretch->heads[i], MCH_FRAME_HEAD);
    add_part(stretch, link->message.data + at, MCH_FRAME_MOST);
    at += MCH_FRAME_MOST;
    left -= MCH_FRAME_MOST;
  }
  return i > 0;
}

/* Whether this frame came as it was foreseen. */
static int is_foreseen(struct mch_link *link, const unsigned char *head) {
  struct mch_frame frame = {0, 0, 0, 0, 0};
  return mch_frame_read(head, MCH_FRAME_HEAD, &frame) == 1 && frame.kind == MCH_FRAME_DATA &&
         frame.length == MCH_FRAME_MOST && mch_frame_follow(&link->order, &frame) == 0;
}

/* `count` bytes were read to where they were foreseen. What is something else goes to `in`, where
 * it is looked at as all others are. */
static void take_foreseen(struct mch_link *link, const struct stretch *stretch, size_t count) {
  size_t i;
  for (i = 0; count >= MCH_FRAME_ROOM && is_foreseen(link, stretch->heads[i / 2]); i += 2) {
    link->message.length += MCH_FRAME_MOST;
    count -= MCH_FRAME_ROOM;
  }
  for (; count > 0; i++) {
    size_t here = count < stretch->parts[i].iov_len ? count : stretch->parts[i].iov_len;
    mch_buf_append(&link->in, stretch->parts[i].iov_base, here);
    count -= here;
  }
}

/* 1: something came; 0: nothing is there; -1: the end of the stream. */
static int fill(struct mch_link *link) {
  struct mch_buf *in = &link->in;
  struct stretch stretch;
  ssize_t got;
  int foreseen;
  if (mch_buf_reserve(in, STRETCH * MCH_FRAME_ROOM) != 0) {
    in->failed = 0;
    return 0;
  }
  foreseen = foresee(link, &stretch);
  do
    got = foreseen ? readv(link->helper.fd, stretch.parts, (int)stretch.count)
                   : read(link->helper.fd, in->data + in->length, in->capacity - in->length);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
  if (foreseen)
    take_foreseen(link, &stretch, (size_t)got);
  else
    in->length += (size_t)got;
  return got > 0 ? 1 : -1;
}

/* When a link that is up ends though its helper has not said so: it is stopped, and there is no
 * timer that kills it then. */
static uint64_t patience(const struct mch_link *link) {
  if (link->ending || !link->up)
    return MCH_NEVER;
  return link->script ? atomic_load(&link->helper.board->heard) + link->lease + MCH_LEASE_MARGIN +
                            helper_slack
                      : link->until;
}

/* What there is to tell about the end. */
static enum mch_link_what tell_end(struct mch_link *link, struct mch_link_event *event) {
  if (mch_process_clock() >= link->clear_at) {
    link->lost = 1;
    mch_helper_bury(&link->helper);
    drop_all(link);
    event->text = link->text.length > 0 ? (const char *)link->text.data : "it ended";
    event->refused = link->refused;
    return MCH_LINK_LOST;
  }
  if (!link->ending || link->ended_told)
    return MCH_LINK_NOTHING;
  link->ended_told = 1;
  event->ended = 1;
  return MCH_LINK_SUSPECT;
}

enum mch_link_what mch_link_next(struct mch_link *link, struct mch_link_event *event) {
  int what = -1, came = 1;
  memset(event, 0, sizeof *event);
  let_go(link);
  while (!link->lost && !link->ending) {
    while ((what = take_frame(link, event)) == MCH_LINK_NOTHING && !link->ending)
      ;
    if (what > 0)
      return event->what = (enum mch_link_what)what;
    if (link->ending)
      break;
    came = fill(link);
    if (came < 0)
      helper_ended(link);
    if (came <= 0)
      break;
  }
  if (link->lost)
    return event->what = MCH_LINK_NOTHING;
  if (came == 0 && mch_process_clock() >= patience(link))
    break_off(link, "its helper process is stopped");
  if (link->ending)
    mch_helper_bury(&link->helper); /* it has said its last word */
  return event->what = tell_end(link, event);
}

uint64_t mch_link_deadline(const struct mch_link *link) {
  uint64_t now, when;
  if (link->lost)
    return MCH_NEVER;
  if (!link->ended_told && link->ending)
    return 0;
  when = mch_sooner(link->clear_at, patience(link));
  if (when == MCH_NEVER)
    return MCH_NEVER;
  now = mch_process_clock();
  return when <= now ? 0 : mch_now() + (when - now) + 1000000u;
}

int mch_link_keep(struct mch_link *link, struct mch_buf *to) {
  if (link->last == NULL)
    return 0;
  if (link->given_large && to->maximum == 0) {
    struct mch_buf empty = {0};
    mch_buf_free(to);
    *to = link->message;
    link->message = empty;
    link->given_large = 0;
    return 0;
  }
  mch_buf_append(to, link->last, link->last_length);
  return to->failed;
}

/* -- leaving ------------------------------------------------------------------------------ */

void mch_link_close(struct mch_link *link) {
  struct mch_frame bye = {MCH_FRAME_BYE, 0, 0, 0, 0};
  unsigned char head[MCH_FRAME_HEAD];
  struct parcel *parcel;
  if (link->closing || link->ending)
    return;
  link->closing = 1;
  link->clear_at = mch_process_clock() + close_within;
  mch_frame_write(head, &bye);
  parcel = open_parcel(link, 0);
  if (parcel == NULL)
    return;
  mch_buf_append(&parcel->frames, head, sizeof head);
  link->queued += parcel->frames.failed ? 0 : sizeof head;
  parcel->frames.failed = 0;
  mch_link_flush(link);
}

void mch_link_free(struct mch_link *link) {
  if (link == NULL)
    return;
  drop_all(link);
  mch_helper_bury(&link->helper);
  close(link->helper.fd);
  mch_buf_free(&link->in);
  mch_buf_free(&link->message);
  mch_buf_free(&link->text);
  mch_buf_free(&link->said);
  free(link);
}
