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
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "runtime/base/platform.h"

enum {
  CHANNEL = 1,
  PREFETCH = 256,
  KEPT = 256, /* messages that the broker has not confirmed yet */
  ACK_EVERY = 32,
  PIECE = MCH_SEAL_MOST - MCH_SEAL_ROOM
};
static const uint64_t presence_every = 400000000u, absent_for = 700000000u;
static const uint64_t absence_counts_after = 10000000000u; /* a new connection: both are late */
static const uint64_t longest_pause = 2000000000u, end_within = 1000000000u;

struct kept {
  unsigned char *bytes;
  size_t length;
  const char *route;
  int persistent, confirmed;
};

struct carrier {
  struct mch_carrier_config is;
  char to[256], from[256], ask[256]; /* queues */
  struct mch_seal out, in, call, welcome;
  _Atomic int met; /* the session's keys are there */
  /* The sender's. */
  struct mch_broker up;
  struct kept kept[KEPT];
  size_t first, count;
  uint64_t tag; /* the broker's number for the first of them */
  uint64_t opened, looked, absent_since, ended;
  int seen, eof;
  /* The receiver's. */
  struct mch_broker down;
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
  randombytes_buf(bytes, digits / 2);
  sodium_bin2hex(hex, digits + 1, bytes, digits / 2);
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
  char context[512];
  int length = snprintf(context, sizeof context, "%s %s %s", carrier->is.session, carrier->is.nonce,
                        machine_nonce);
  const char *labels[2] = {"mantichora 1 to the machine", "mantichora 1 to the script"};
  int machine = carrier->is.machine == NULL;
  mch_seal_derive(&carrier->out, carrier->is.site_key, labels[machine], context, (size_t)length, 1);
  mch_seal_derive(&carrier->in, carrier->is.site_key, labels[!machine], context, (size_t)length, 1);
  atomic_store(&carrier->met, 1);
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
  if (!atomic_load(&carrier->met))
    meet(carrier, nonce);
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

static int publish(struct carrier *carrier, const struct kept *kept) {
  struct mch_error error;
  if (mch_broker_publish(&carrier->up, "", kept->route, kept->bytes, kept->length, kept->persistent,
                         &error) == 0)
    return 0;
  note_failure(&carrier->up, &error);
  return -1;
}

/* Keep a sealed message until it is confirmed, and send it if there is a connection. */
static void send_sealed(struct carrier *carrier, struct mch_seal *seal, uint8_t kind,
                        const char *route, const void *bytes, size_t length, int persistent) {
  struct kept *kept = kept_at(carrier, carrier->count);
  kept->bytes = malloc(MCH_SEAL_ROOM + length);
  if (kept->bytes == NULL)
    leave(255, "not enough memory");
  kept->length = mch_seal_close(seal, kind, bytes, length, kept->bytes);
  kept->route = route;
  kept->persistent = persistent;
  kept->confirmed = 0;
  carrier->count++;
  if (carrier->up.state != NULL)
    publish(carrier, kept);
}

/* All that the broker has not confirmed goes again, in order; what came twice is seen by its
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
  amqp_confirm_select(carrier->up.state, CHANNEL);
  if (mch_broker_reply(&carrier->up, "cannot ask for confirms", &error) != 0) {
    note_failure(&carrier->up, &error);
    return -1;
  }
  carrier->tag = 1;
  carrier->opened = carrier->looked = mch_now();
  carrier->absent_since = 0;
  carrier->seen = 0;
  for (i = 0; i < carrier->count; i++) {
    struct kept *kept = kept_at(carrier, i);
    kept->confirmed = 0;
    if (publish(carrier, kept) != 0)
      return -1;
  }
  return 0;
}

static void take_confirm(struct carrier *carrier, uint64_t tag, int multiple) {
  uint64_t i, from = multiple ? carrier->tag : tag;
  for (i = from; i >= carrier->tag && i <= tag && i - carrier->tag < carrier->count; i++)
    kept_at(carrier, (size_t)(i - carrier->tag))->confirmed = 1;
  while (carrier->count > 0 && carrier->kept[carrier->first].confirmed) {
    free(carrier->kept[carrier->first].bytes);
    carrier->kept[carrier->first].bytes = NULL;
    carrier->first = (carrier->first + 1) % KEPT;
    carrier->count--;
    carrier->tag++;
  }
}

static void take_method(struct carrier *carrier, const amqp_frame_t *frame) {
  struct mch_error error;
  if (frame->frame_type != AMQP_FRAME_METHOD)
    return;
  if (frame->payload.method.id == AMQP_BASIC_ACK_METHOD) {
    const amqp_basic_ack_t *ack = frame->payload.method.decoded;
    take_confirm(carrier, ack->delivery_tag, ack->multiple);
  } else if (frame->payload.method.id == AMQP_BASIC_NACK_METHOD) {
    mch_error_set(&error, MCH_SYSTEM, "the broker could not keep a message (is its disk full?)");
    mch_broker_close(&carrier->up);
    note_failure(&carrier->up, &error);
  } else if (frame->payload.method.id == AMQP_BASIC_RETURN_METHOD)
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

/* The other side reads the queue that this one fills, or it has gone. */
static void look_for_other(struct carrier *carrier) {
  uint64_t now = mch_now();
  amqp_queue_declare_ok_t *answer;
  struct mch_error error;
  if (carrier->up.state == NULL || !atomic_load(&carrier->met) ||
      now - carrier->looked < presence_every)
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
      (!carrier->seen && now - carrier->opened < absence_counts_after))
    carrier->absent_since = 0;
  else if (carrier->absent_since == 0)
    carrier->absent_since = now;
  else if (now - carrier->absent_since > absent_for)
    leave(255, "the other side's connection to the broker ended");
}

/* Gather what there is, up to a message. */
static void send_stream(struct carrier *carrier) {
  static unsigned char bytes[PIECE]; /* of this thread alone */
  size_t length = 0;
  ssize_t got = 1;
  while (length < PIECE && (got > 0 || (got < 0 && errno == EINTR))) {
    got = read(carrier->is.in, bytes + length, PIECE - length);
    if (got > 0)
      length += (size_t)got;
  }
  if (length > 0)
    send_sealed(carrier, &carrier->out, MCH_CARRY_STREAM, carrier->to, bytes, length, 1);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)))
    return;
  carrier->eof = 1;
  carrier->ended = mch_now();
}

/* This side's stream has ended: say so, and clear away. */
static void end_stream(struct carrier *carrier) {
  if (carrier->eof == 1 && carrier->count < KEPT) {
    carrier->eof = 2;
    send_sealed(carrier, &carrier->out, MCH_CARRY_END, carrier->to, NULL, 0, 1);
  }
  if (carrier->count > 0 && mch_now() - carrier->ended < end_within)
    return;
  if (carrier->up.state != NULL)
    amqp_queue_delete(carrier->up.state, CHANNEL, amqp_cstring_bytes(carrier->from), 0, 0);
  leave(0, NULL);
}

static void wait_to_send(struct carrier *carrier) {
  int reads = atomic_load(&carrier->met) && !carrier->eof && carrier->count < KEPT - 1;
  struct pollfd fds[2] = {{reads ? carrier->is.in : -1, POLLIN, 0},
                          {mch_broker_fd(&carrier->up), POLLIN, 0}};
  if (!mch_broker_has_more(&carrier->up))
    poll(fds, 2, atomic_load(&carrier->met) ? 200 : 20);
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
    look_for_other(carrier);
    if (carrier->eof)
      end_stream(carrier);
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

static void take_message(struct carrier *carrier, amqp_bytes_t body) {
  struct mch_sealed sealed;
  enum mch_seal_answer answer;
  if (!atomic_load(&carrier->met)) {
    if (mch_seal_open(&carrier->welcome, body.bytes, body.len, &sealed) != MCH_SEAL_FINE ||
        !take_welcome(carrier, &sealed))
      leave(1,
            "an answer was made by another site key, or changed on its way: the connection ends");
    return;
  }
  answer = mch_seal_open(&carrier->in, body.bytes, body.len, &sealed);
  if (answer == MCH_SEAL_FORGED &&
      mch_seal_open(&carrier->welcome, body.bytes, body.len, &sealed) == MCH_SEAL_FINE &&
      take_welcome(carrier, &sealed))
    return; /* it came twice */
  if (answer == MCH_SEAL_SEEN)
    return;
  if (answer == MCH_SEAL_GAP)
    leave(255,
          "a message is missing on the way from the other side: the connection ends (no policy "
          "of the broker may limit queues named mantichora.*, by length or by time)");
  if (answer == MCH_SEAL_FORGED)
    leave(255, "a message was made by another key, or changed on its way: the connection ends");
  if (sealed.kind == MCH_CARRY_STREAM)
    write_out(carrier, sealed.bytes, sealed.length);
  else if (sealed.kind == MCH_CARRY_END) {
    close(carrier->is.out);
    if (carrier->is.machine != NULL)
      leave(0, NULL);
    carrier->is.out = -1; /* the supervisor goes now, and its stream's end ends this process */
    pause_for(4 * end_within);
    leave(0, NULL);
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
      if (mch_broker_reply(broker, "cannot read a queue", &error) == 0)
        return 0;
    }
  }
  note_failure(broker, &error);
  return -1;
}

/* Messages of one connection, until it fails. */
static void receive(struct carrier *carrier) {
  struct mch_broker *broker = &carrier->down;
  struct timeval limit = {1, 0};
  unsigned unacked = 0;
  struct mch_error error;
  while (broker->state != NULL) {
    amqp_envelope_t envelope;
    amqp_rpc_reply_t reply;
    amqp_frame_t frame;
    uint64_t tag;
    amqp_maybe_release_buffers(broker->state);
    reply = amqp_consume_message(broker->state, &envelope, &limit, 0);
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
      tag = envelope.delivery_tag;
      take_message(carrier, envelope.message.body);
      amqp_destroy_envelope(&envelope);
      if (++unacked < ACK_EVERY && mch_broker_has_more(broker))
        continue;
      unacked = 0;
      if (amqp_basic_ack(broker->state, CHANNEL, tag, 1) == AMQP_STATUS_OK)
        continue;
      reply.reply_type = AMQP_RESPONSE_LIBRARY_EXCEPTION;
      reply.library_error = AMQP_STATUS_SOCKET_ERROR;
    }
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
        reply.library_error == AMQP_STATUS_TIMEOUT)
      continue;
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
        reply.library_error == AMQP_STATUS_UNEXPECTED_STATE &&
        amqp_simple_wait_frame(broker->state, &frame) == AMQP_STATUS_OK) {
      if (mch_broker_heed(broker, &frame, &error) != 0)
        note_failure(broker, &error);
      continue;
    }
    if (mch_broker_check(broker, reply, "the connection was lost", &error) != 0)
      note_failure(broker, &error);
  }
}

/* -- all of it ---------------------------------------------------------------------------- */

static void greet(struct carrier *carrier) {
  char text[512];
  if (carrier->is.machine != NULL) {
    snprintf(text, sizeof text, "%s %s", carrier->is.session, carrier->is.nonce);
    send_sealed(carrier, &carrier->call, MCH_CARRY_CONNECT, carrier->ask, text, strlen(text), 0);
  } else {
    char nonce[MCH_HEX_NONCE + 1];
    mch_carrier_draw(nonce, MCH_HEX_NONCE);
    snprintf(text, sizeof text, "%s %s %s", carrier->is.session, carrier->is.nonce, nonce);
    send_sealed(carrier, &carrier->welcome, MCH_CARRY_WELCOME, carrier->to, text, strlen(text), 1);
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
  mch_seal_derive(&carrier->call, config->site_key, "mantichora 1 call", "", 0, 0);
  mch_seal_derive(&carrier->welcome, config->site_key, "mantichora 1 welcome", "", 0, 0);
  mch_platform_nonblocking(config->in);
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
