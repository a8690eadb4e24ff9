/* Runs in: mantichora-amqp. Purpose: carrier.h. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "carrier.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "crypt.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"

enum {
  CHANNEL = 1,
  PREFETCH = 256,
  KEPT = 256,  /* messages that the other side has not confirmed yet */
  SPARES = 64, /* buffers that are kept for more of them */
  EVERY = 32,  /* messages that are acknowledged, and confirmed, together */
  PIECE = MCH_SEAL_MOST - MCH_SEAL_ROOM,
  SMALL = PIECE / 4 /* what gets memory of its own size */
};
static const uint64_t presence_every = 300000000u, absent_for = 500000000u;
static const uint64_t absence_counts_after = 10000000000u; /* a new connection: both are late */
static const uint64_t longest_pause = 2000000000u, end_within = 1000000000u;
static const uint64_t tell_within = 100000000u;

struct kept {
  unsigned char *bytes;
  size_t length, room;
  uint64_t counter; /* 0: of no session yet */
};

struct carrier {
  struct mch_carrier_config is;
  char to[256], from[256], ask[256]; /* queues */
  struct mch_seal welcome;
  int wake[2];             /* to the sender: look what is new of these: */
  _Atomic int met;         /* the session's keys are there */
  _Atomic int reads;       /* this side reads its queue */
  _Atomic int answered;    /* the other side has said that it does */
  _Atomic uint64_t ours;   /* the counter of what was handed on here last */
  _Atomic uint64_t theirs; /* the other side has all whose counter is below */
  _Atomic int waits;       /* the sender does, for that one */
  _Atomic int finished;    /* the other side's stream has ended */
  /* The sender's. */
  struct mch_broker up;
  struct mch_seal out, call, say_taken;
  struct kept kept[KEPT];
  size_t first, count;
  unsigned char *spares[SPARES];
  size_t spare_count;
  uint64_t told, told_at; /* what the other side knows of `ours`, and 1; 0: nothing */
  uint64_t opened, looked, absent_since, ended;
  int seen, eof;
  unsigned opens; /* connections so far */
  /* The receiver's. */
  struct mch_broker down;
  struct mch_seal in, hear_taken;
  uint64_t woken; /* what `ours` was when the sender was woken for it */
};

/* -- leaving ------------------------------------------------------------------------------ */

/* 255: as ssh does, the other side may not know. */
static void leave(int status, const char *why) __attribute__((noreturn));
static void leave(int status, const char *why) {
  if (why != NULL)
    fprintf(stderr, "mantichora-amqp: %s\n", why);
  _exit(status);
}

void mch_carrier_draw(char *hex, size_t digits) {
  unsigned char bytes[64];
  mch_crypt_random(bytes, digits / 2);
  mch_crypt_to_hex(hex, bytes, digits / 2);
}

void mch_carrier_machine_queue(char *name, size_t room, const char *fleet, const char *machine) {
  snprintf(name, room, "mantichora.%s.machine.%s", fleet, machine);
}

static void pause_for(uint64_t nanoseconds) {
  struct pollfd none = {-1, 0, 0};
  poll(&none, 1, (int)(nanoseconds / 1000000u));
}

/* -- keys --------------------------------------------------------------------------------- */

/* Both know the machine's nonce: the keys of each direction. */
static void meet(struct carrier *carrier, const char *machine_nonce) {
  static const char *const labels[2][2] = {
      {"mantichora 1 to the machine", "mantichora 1 taken by the script"},
      {"mantichora 1 to the script", "mantichora 1 taken by the machine"}};
  const unsigned char *key = carrier->is.site_key;
  int machine = carrier->is.machine == NULL;
  char context[512];
  snprintf(context, sizeof context, "%s %s %s", carrier->is.session, carrier->is.nonce,
           machine_nonce);
  mch_seal_derive(&carrier->out, key, labels[machine][0], context, 1);
  mch_seal_derive(&carrier->in, key, labels[!machine][0], context, 1);
  mch_seal_derive(&carrier->say_taken, key, labels[machine][1], context, 0);
  mch_seal_derive(&carrier->hear_taken, key, labels[!machine][1], context, 0);
  atomic_store(&carrier->met, 1);
}

/* -- what the threads tell each other ----------------------------------------------------- */

static void wake_sender(struct carrier *carrier) {
  if (write(carrier->wake[1], "", 1) < 0) /* it is full: there is enough in it to wake somebody */
    return;
}

/* In the receiver: the other side has all up to this counter. */
static void hear_taken(struct carrier *carrier, uint64_t counter) {
  if (counter < atomic_load(&carrier->theirs))
    return;
  atomic_store(&carrier->theirs, counter + 1);
  if (atomic_exchange(&carrier->waits, 0))
    wake_sender(carrier);
}

/* In the receiver: this was handed on. */
static void note_taken(struct carrier *carrier, uint64_t counter) {
  atomic_store(&carrier->ours, counter);
  if (counter - carrier->woken < EVERY)
    return; /* the sender looks at times */
  carrier->woken = counter;
  wake_sender(carrier);
}

/* "SESSION NONCE NONCE", of this session. */
static int take_welcome(struct carrier *carrier, const struct mch_sealed *sealed) {
  char expected[256];
  size_t length =
      (size_t)snprintf(expected, sizeof expected, "%s %s ", carrier->is.session, carrier->is.nonce);
  char nonce[MCH_HEX_NONCE + 1];
  if (sealed->kind != MCH_CARRY_WELCOME || sealed->length != length + MCH_HEX_NONCE ||
      memcmp(sealed->bytes, expected, length) != 0)
    return 0;
  memcpy(nonce, sealed->bytes + length, MCH_HEX_NONCE);
  nonce[MCH_HEX_NONCE] = '\0';
  if (!atomic_load(&carrier->met)) {
    meet(carrier, nonce);
    hear_taken(carrier, 0);
  }
  return 1;
}

/* -- sending ------------------------------------------------------------------------------ */

static struct kept *kept_at(struct carrier *carrier, size_t index) {
  return &carrier->kept[(carrier->first + index) % KEPT];
}

/* A connection failed; the loop makes it anew, for as long as whoever started this waits. Says the
 * same only once. */
static void note_failure(struct mch_broker *broker, const struct mch_error *error) {
  if (strcmp(broker->complaint, error->text) == 0)
    return;
  strcpy(broker->complaint, error->text);
  fprintf(stderr, "mantichora-amqp: %s\n", error->text);
}

static int publish(struct carrier *carrier, const void *bytes, size_t length, const char *route) {
  struct mch_error error;
  if (mch_broker_publish(&carrier->up, "", route, bytes, length, route == carrier->ask, &error) ==
      0)
    return 0;
  note_failure(&carrier->up, &error);
  return -1;
}

/* A message without a counter of its session can only be a greeting; the script's goes to the
 * machine's own queue. */
static int publish_kept(struct carrier *carrier, const struct kept *kept) {
  int greeting = kept->counter == 0 && carrier->is.machine != NULL;
  return publish(carrier, kept->bytes, kept->length, greeting ? carrier->ask : carrier->to);
}

static unsigned char *take_buffer(struct carrier *carrier, size_t room) {
  unsigned char *bytes = room == MCH_SEAL_MOST && carrier->spare_count > 0
                             ? carrier->spares[--carrier->spare_count]
                             : malloc(room);
  if (bytes == NULL)
    leave(255, "not enough memory");
  return bytes;
}

static void give_buffer(struct carrier *carrier, unsigned char *bytes, size_t room) {
  if (room == MCH_SEAL_MOST && carrier->spare_count < SPARES)
    carrier->spares[carrier->spare_count++] = bytes;
  else
    free(bytes);
}

/* Seal a message, keep it until it is confirmed, and send it if there is a connection. `bytes` may
 * stand in `buffer` already, which has room for a whole message and is taken over; or it is NULL.
 */
static void send_sealed(struct carrier *carrier, struct mch_seal *seal, uint8_t kind,
                        const void *bytes, size_t length, unsigned char *buffer) {
  struct kept *kept = kept_at(carrier, carrier->count);
  kept->room = buffer != NULL && length >= SMALL ? MCH_SEAL_MOST : MCH_SEAL_ROOM + length;
  kept->bytes = kept->room == MCH_SEAL_MOST ? buffer : take_buffer(carrier, kept->room);
  kept->length = mch_seal_close(seal, kind, bytes, length, kept->bytes);
  kept->counter = seal->counter;
  if (buffer != NULL && kept->bytes != buffer)
    give_buffer(carrier, buffer, MCH_SEAL_MOST);
  carrier->count++;
  if (carrier->up.state != NULL)
    publish_kept(carrier, kept);
}

/* All that the other side has not confirmed goes again, in order; what comes twice is seen by its
 * counter. */
static int open_sender(struct carrier *carrier) {
  struct mch_error error;
  size_t i;
  if (mch_broker_open(&carrier->up, &error) != 0 ||
      mch_broker_lasting_queue(&carrier->up, carrier->to, &error) != 0 ||
      mch_broker_lasting_queue(&carrier->up, carrier->from, &error) != 0) {
    note_failure(&carrier->up, &error);
    return -1;
  }
  carrier->opened = carrier->looked = mch_now();
  carrier->absent_since = 0;
  carrier->seen = 0;
  carrier->opens++;
  carrier->told = 0; /* it may have been lost */
  for (i = 0; i < carrier->count; i++)
    if (publish_kept(carrier, kept_at(carrier, i)) != 0)
      return -1;
  return 0;
}

static void drop_confirmed(struct carrier *carrier) {
  uint64_t theirs = atomic_load(&carrier->theirs);
  while (carrier->count > 0 && carrier->kept[carrier->first].counter < theirs) {
    struct kept *kept = &carrier->kept[carrier->first];
    give_buffer(carrier, kept->bytes, kept->room);
    carrier->first = (carrier->first + 1) % KEPT;
    carrier->count--;
  }
}

/* Say what was handed on here: of many messages at once, or after a while. The first time, that
 * this side reads. */
static void tell_taken(struct carrier *carrier) {
  unsigned char number[8], bytes[MCH_SEAL_ROOM + sizeof number];
  uint64_t ours = atomic_load(&carrier->ours), now = mch_now();
  if (!atomic_load(&carrier->met) || !atomic_load(&carrier->reads) || carrier->up.state == NULL ||
      carrier->told == ours + 1 ||
      (carrier->told > 0 && ours + 1 - carrier->told < EVERY &&
       now - carrier->told_at < tell_within && !atomic_load(&carrier->finished)))
    return;
  mch_store_u64(number, ours);
  if (publish(carrier, bytes,
              mch_seal_close(&carrier->say_taken, MCH_CARRY_TAKEN, number, sizeof number, bytes),
              carrier->to) != 0)
    return;
  carrier->told = ours + 1;
  carrier->told_at = now;
}

static void take_method(struct carrier *carrier, const amqp_frame_t *frame) {
  struct mch_error error;
  if (frame->frame_type != AMQP_FRAME_METHOD)
    return;
  if (frame->payload.method.id == AMQP_BASIC_RETURN_METHOD)
    leave(1, "the machine has left the fleet");
  else if (mch_broker_heed(&carrier->up, frame, &error) != 0) {
    /* The queue is gone: the other side took it along. */
    if (strstr(error.text, "NOT_FOUND") != NULL)
      leave(255, "the other side has gone");
    note_failure(&carrier->up, &error);
  }
}

static void take_frames(struct carrier *carrier) {
  struct timeval at_once = {0, 0};
  amqp_frame_t frame;
  int status = AMQP_STATUS_OK;
  while (carrier->up.state != NULL && status == AMQP_STATUS_OK) {
    amqp_maybe_release_buffers(carrier->up.state);
    status = amqp_simple_wait_frame_noblock(carrier->up.state, &frame, &at_once);
    if (status == AMQP_STATUS_OK)
      take_method(carrier, &frame);
  }
  if (carrier->up.state != NULL && status != AMQP_STATUS_TIMEOUT) {
    struct mch_error error;
    amqp_rpc_reply_t reply;
    memset(&reply, 0, sizeof reply);
    reply.reply_type = AMQP_RESPONSE_LIBRARY_EXCEPTION;
    reply.library_error = status;
    mch_broker_check(&carrier->up, reply, "the connection was lost", &error);
    note_failure(&carrier->up, &error);
  }
}

/* Whether the other side has read its queue since this connection was made: it was seen there, or,
 * at the first one, it has said so. */
static int was_there(const struct carrier *carrier) {
  return carrier->seen || (carrier->opens == 1 && atomic_load(&carrier->answered));
}

/* The other side reads the queue that this one fills, or it has gone. */
static void look_for_other(struct carrier *carrier) {
  uint64_t now = mch_now();
  amqp_queue_declare_ok_t *answer;
  struct mch_error error;
  if (carrier->up.state == NULL || !atomic_load(&carrier->met) || carrier->eof ||
      atomic_load(&carrier->finished) || now - carrier->looked < presence_every)
    return;
  carrier->looked = now;
  answer = amqp_queue_declare(carrier->up.state, CHANNEL, amqp_cstring_bytes(carrier->to), 1, 0, 0,
                              0, amqp_empty_table);
  if (answer == NULL) {
    if (mch_broker_reply(&carrier->up, "cannot look for the other side", &error) != 0) {
      if (strstr(error.text, "NOT_FOUND") != NULL)
        leave(255, "the other side has gone");
      note_failure(&carrier->up, &error);
    }
    return;
  }
  carrier->seen |= answer->consumer_count > 0;
  if (answer->consumer_count > 0 ||
      (!was_there(carrier) && now - carrier->opened < absence_counts_after))
    carrier->absent_since = 0;
  else if (carrier->absent_since == 0)
    carrier->absent_since = now;
  else if (now - carrier->absent_since > absent_for)
    leave(255, "the other side's connection to the broker ended");
}

/* Gather what there is, up to a message. */
static void send_stream(struct carrier *carrier) {
  unsigned char *buffer = take_buffer(carrier, MCH_SEAL_MOST), *bytes = buffer + MCH_SEAL_HEAD;
  size_t length = 0;
  ssize_t got = 1;
  while (length < PIECE && (got > 0 || (got < 0 && errno == EINTR))) {
    got = read(carrier->is.in, bytes + length, PIECE - length);
    if (got > 0)
      length += (size_t)got;
  }
  if (length > 0)
    send_sealed(carrier, &carrier->out, MCH_CARRY_STREAM, bytes, length, buffer);
  else
    give_buffer(carrier, buffer, MCH_SEAL_MOST);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)))
    return;
  carrier->eof = 1;
  carrier->ended = mch_now();
}

/* The broker answers that after it has got all that was sent before. */
static void leave_in_order(struct carrier *carrier) __attribute__((noreturn));
static void leave_in_order(struct carrier *carrier) {
  if (carrier->up.state != NULL)
    amqp_queue_delete(carrier->up.state, CHANNEL, amqp_cstring_bytes(carrier->from), 0, 0);
  leave(0, NULL);
}

/* This side's stream has ended: say so, and clear away. */
static void end_stream(struct carrier *carrier) {
  if (carrier->eof == 1 && carrier->count < KEPT) {
    carrier->eof = 2;
    send_sealed(carrier, &carrier->out, MCH_CARRY_END, NULL, 0, NULL);
  }
  if (carrier->count == 0 || mch_now() - carrier->ended >= end_within)
    leave_in_order(carrier);
}

/* Whether more may be read: there is room for it, and for the word of the end. */
static int has_room(struct carrier *carrier) {
  drop_confirmed(carrier);
  if (carrier->count < KEPT - 1)
    return 1;
  atomic_store(&carrier->waits, 1);
  drop_confirmed(carrier); /* it may have come before that */
  return carrier->count < KEPT - 1;
}

static void wait_to_send(struct carrier *carrier) {
  int reads = atomic_load(&carrier->met) && !carrier->eof && has_room(carrier);
  struct pollfd fds[3] = {{reads ? carrier->is.in : -1, POLLIN, 0},
                          {mch_broker_fd(&carrier->up), POLLIN, 0},
                          {carrier->wake[0], POLLIN, 0}};
  char many[64];
  if (!mch_broker_has_more(&carrier->up))
    poll(fds, 3, 200);
  while (fds[2].revents != 0 && read(carrier->wake[0], many, sizeof many) > 0)
    ;
  if (reads && fds[0].revents != 0)
    send_stream(carrier);
}

static void *send_all(void *ud) {
  struct carrier *carrier = ud;
  uint64_t pause = 50000000u;
  for (;;) {
    if (carrier->up.state == NULL && open_sender(carrier) != 0) {
      if (carrier->eof && mch_now() - carrier->ended > end_within)
        leave(0, NULL);
      pause_for(pause);
      pause = mch_sooner(2 * pause, longest_pause);
      continue;
    }
    pause = 50000000u;
    wait_to_send(carrier);
    take_frames(carrier);
    tell_taken(carrier);
    look_for_other(carrier);
    drop_confirmed(carrier);
    if (carrier->eof)
      end_stream(carrier);
    else if (atomic_load(&carrier->finished) && carrier->told == atomic_load(&carrier->ours) + 1 &&
             carrier->is.machine != NULL)
      leave_in_order(carrier);
  }
  return NULL;
}

/* -- receiving ---------------------------------------------------------------------------- */

static void write_out(struct carrier *carrier, const unsigned char *bytes, size_t length) {
  while (length > 0) {
    ssize_t wrote = write(carrier->is.out, bytes, length);
    if (wrote < 0 && errno == EINTR)
      continue;
    if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      struct pollfd room = {carrier->is.out, POLLOUT, 0};
      poll(&room, 1, -1);
      continue;
    }
    if (wrote < 0) { /* nobody reads: this side's stream ends as well, which is sent */
      pause_for(2 * end_within);
      leave(0, NULL);
    }
    bytes += wrote;
    length -= (size_t)wrote;
  }
}

/* The other side's stream has ended. A supervisor that sees that goes, and the end of its stream
 * ends this process; a script's carrier goes once the sender has told that all was taken. */
static void take_end(struct carrier *carrier, uint64_t counter) __attribute__((noreturn));
static void take_end(struct carrier *carrier, uint64_t counter) {
  close(carrier->is.out);
  carrier->is.out = -1;
  atomic_store(&carrier->ours, counter);
  atomic_store(&carrier->finished, 1);
  wake_sender(carrier);
  pause_for(4 * end_within);
  leave(0, NULL);
}

static void take_stream(struct carrier *carrier, const struct mch_sealed *sealed) {
  hear_taken(carrier, 0); /* whoever sends that has been greeted */
  if (sealed->kind == MCH_CARRY_STREAM)
    write_out(carrier, sealed->bytes, sealed->length);
  else if (sealed->kind == MCH_CARRY_END)
    take_end(carrier, sealed->counter);
  note_taken(carrier, sealed->counter);
}

/* Until the session's keys are there nothing but the greeting is right; later it may come again. */
static int take_greeting(struct carrier *carrier, amqp_bytes_t body) {
  struct mch_sealed sealed;
  return mch_seal_open(&carrier->welcome, body.bytes, body.len, &sealed) == MCH_SEAL_FINE &&
         take_welcome(carrier, &sealed);
}

/* What kind it is of, says which key it must be made by. */
static void take_message(struct carrier *carrier, amqp_bytes_t body) {
  struct mch_sealed sealed;
  int kind = body.len == 0 ? 0 : *(const unsigned char *)body.bytes;
  enum mch_seal_answer answer;
  if (!atomic_load(&carrier->met) || kind == MCH_CARRY_WELCOME) {
    if (!take_greeting(carrier, body))
      leave(1,
            "an answer was made by another site key, or changed on its way: the connection ends");
    return;
  }
  answer = mch_seal_open(kind == MCH_CARRY_TAKEN ? &carrier->hear_taken : &carrier->in, body.bytes,
                         body.len, &sealed);
  if (answer == MCH_SEAL_SEEN)
    return;
  if (answer == MCH_SEAL_GAP)
    leave(255,
          "a message is missing on the way from the other side: the connection ends (no policy "
          "of the broker may limit queues named mantichora.*, by length or by time)");
  if (answer == MCH_SEAL_FORGED)
    leave(255, "a message was made by another key, or changed on its way: the connection ends");
  if (kind != MCH_CARRY_TAKEN)
    take_stream(carrier, &sealed);
  else if (sealed.length == 8) {
    atomic_store(&carrier->answered, 1);
    hear_taken(carrier, mch_load_u64(sealed.bytes));
  }
}

static int open_receiver(struct carrier *carrier) {
  struct mch_error error;
  struct mch_broker *broker = &carrier->down;
  if (mch_broker_open(broker, &error) == 0 &&
      mch_broker_lasting_queue(broker, carrier->from, &error) == 0) {
    amqp_basic_qos(broker->state, CHANNEL, 0, PREFETCH, 0);
    if (mch_broker_reply(broker, "cannot set a limit", &error) == 0) {
      amqp_basic_consume(broker->state, CHANNEL, amqp_cstring_bytes(carrier->from),
                         amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
      if (mch_broker_reply(broker, "cannot read a queue", &error) == 0) {
        atomic_store(&carrier->reads, 1);
        wake_sender(carrier);
        return 0;
      }
    }
  }
  note_failure(broker, &error);
  return -1;
}

/* Tell the broker what was handed on: many messages at once, or after a while. */
static int acknowledge(struct carrier *carrier, uint64_t tag, unsigned *unacked) {
  int status = AMQP_STATUS_OK;
  if (*unacked > 0)
    status = amqp_basic_ack(carrier->down.state, CHANNEL, tag, 1);
  *unacked = 0;
  return status;
}

/* Something else than a message came, or the connection failed. */
static void heed_failure(struct carrier *carrier, amqp_rpc_reply_t reply) {
  struct mch_broker *broker = &carrier->down;
  struct mch_error error;
  amqp_frame_t frame;
  int failed;
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
      reply.library_error == AMQP_STATUS_UNEXPECTED_STATE &&
      amqp_simple_wait_frame(broker->state, &frame) == AMQP_STATUS_OK)
    failed = mch_broker_heed(broker, &frame, &error);
  else
    failed = mch_broker_check(broker, reply, "the connection was lost", &error);
  if (failed != 0)
    note_failure(broker, &error);
}

/* Messages of one connection, until it fails. */
static void receive(struct carrier *carrier) {
  static const struct timeval while_unacked = {0, 50000}, else_until = {1, 0};
  struct mch_broker *broker = &carrier->down;
  unsigned unacked = 0;
  uint64_t tag = 0;
  while (broker->state != NULL) {
    struct timeval limit = unacked > 0 ? while_unacked : else_until;
    amqp_envelope_t envelope;
    amqp_rpc_reply_t reply;
    int status = AMQP_STATUS_OK;
    amqp_maybe_release_buffers(broker->state);
    reply = amqp_consume_message(broker->state, &envelope, &limit, 0);
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
      tag = envelope.delivery_tag;
      take_message(carrier, envelope.message.body);
      amqp_destroy_envelope(&envelope);
      if (++unacked == EVERY)
        status = acknowledge(carrier, tag, &unacked);
    } else if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
               reply.library_error == AMQP_STATUS_TIMEOUT)
      status = acknowledge(carrier, tag, &unacked);
    else
      heed_failure(carrier, reply);
    if (status == AMQP_STATUS_OK)
      continue;
    reply.reply_type = AMQP_RESPONSE_LIBRARY_EXCEPTION;
    reply.library_error = status;
    heed_failure(carrier, reply);
  }
}

/* -- all of it ---------------------------------------------------------------------------- */

static void greet(struct carrier *carrier) {
  char text[512];
  if (carrier->is.machine != NULL) {
    snprintf(text, sizeof text, "%s %s", carrier->is.session, carrier->is.nonce);
    send_sealed(carrier, &carrier->call, MCH_CARRY_CONNECT, text, strlen(text), NULL);
  } else {
    char nonce[MCH_HEX_NONCE + 1];
    mch_carrier_draw(nonce, MCH_HEX_NONCE);
    snprintf(text, sizeof text, "%s %s %s", carrier->is.session, carrier->is.nonce, nonce);
    send_sealed(carrier, &carrier->welcome, MCH_CARRY_WELCOME, text, strlen(text), NULL);
    meet(carrier, nonce);
  }
}

static void name_queues(struct carrier *carrier, const char *fleet) {
  char *down = carrier->is.machine != NULL ? carrier->to : carrier->from;
  char *up = carrier->is.machine != NULL ? carrier->from : carrier->to;
  snprintf(down, sizeof carrier->to, "mantichora.%s.%s.down", fleet, carrier->is.session);
  snprintf(up, sizeof carrier->to, "mantichora.%s.%s.up", fleet, carrier->is.session);
  if (carrier->is.machine != NULL)
    mch_carrier_machine_queue(carrier->ask, sizeof carrier->ask, fleet, carrier->is.machine);
}

void mch_carrier_run(const struct mch_carrier_config *config) {
  struct carrier *carrier = calloc(1, sizeof *carrier);
  uint64_t pause = 50000000u;
  struct mch_error error;
  pthread_t thread;
  if (carrier == NULL)
    leave(1, "not enough memory");
  signal(SIGPIPE, SIG_IGN);
  carrier->is = *config;
  carrier->up.account = carrier->down.account = config->account;
  mch_seal_derive(&carrier->call, config->site_key, "mantichora 1 call", "", 0);
  mch_seal_derive(&carrier->welcome, config->site_key, "mantichora 1 welcome", "", 0);
  mch_platform_nonblocking(config->in);
  if (mch_platform_pipe(carrier->wake, &error) != 0)
    leave(1, error.text);
  mch_platform_nonblocking(carrier->wake[0]);
  mch_platform_nonblocking(carrier->wake[1]);
  /* The first connection must come about; later ones are made again and again. */
  if (mch_broker_open(&carrier->down, &error) != 0)
    leave(1, error.text);
  name_queues(carrier, carrier->down.fleet);
  mch_broker_close(&carrier->down);
  greet(carrier);
  if (pthread_create(&thread, NULL, send_all, carrier) != 0)
    leave(1, "not enough memory for a thread");
  for (;;) {
    if (open_receiver(carrier) != 0) {
      pause_for(pause);
      pause = mch_sooner(2 * pause, longest_pause);
      continue;
    }
    pause = 50000000u;
    receive(carrier);
  }
}
