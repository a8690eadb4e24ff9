/* Many bytes through a broker and back, in messages of 64 KiB: what an echo by way of it costs at
 * least. One process sends, one sends back what comes, and this one waits for all of it.
 *
 *     broker PORT BYTES [persistent]
 *
 * Messages that the broker need not write to its disk, in lasting queues, acknowledged in groups,
 * as mantichora-amqp has them; without authentication or anything else that it does. `persistent`:
 * those that it writes, and of which it confirms each, which is what a program needs that leaves it
 * to the broker to lose none. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "serve.h"

enum { CHANNEL = 1, PIECE = 64 * 1024, PREFETCH = 256, ACK_EVERY = 32 };

struct echo {
  amqp_connection_state_t state; /* the queue that comes back */
  size_t count;
  int go;
};

static amqp_connection_state_t connect_to(int port) {
  amqp_connection_state_t state = amqp_new_connection();

  must(amqp_socket_open(amqp_tcp_socket_new(state), "127.0.0.1", port) == AMQP_STATUS_OK,
       "the broker");
  must(amqp_login(state, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type ==
           AMQP_RESPONSE_NORMAL,
       "login");
  amqp_channel_open(state, CHANNEL);
  must(amqp_get_rpc_reply(state).reply_type == AMQP_RESPONSE_NORMAL, "channel");
  return state;
}

static void read_from(amqp_connection_state_t state, const char *queue) {
  amqp_queue_declare(state, CHANNEL, amqp_cstring_bytes(queue), 0, 1, 0, 0, amqp_empty_table);
  must(amqp_get_rpc_reply(state).reply_type == AMQP_RESPONSE_NORMAL, "queue");
  amqp_basic_qos(state, CHANNEL, 0, PREFETCH, 0);
  amqp_basic_consume(state, CHANNEL, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0,
                     amqp_empty_table);
  must(amqp_get_rpc_reply(state).reply_type == AMQP_RESPONSE_NORMAL, "consume");
}

struct sender {
  amqp_connection_state_t state;
  int persistent;
  uint64_t sent, confirmed;
};

static void open_sender(struct sender *sender, int port, int persistent) {
  memset(sender, 0, sizeof *sender);
  sender->state = connect_to(port);
  sender->persistent = persistent;
  if (!persistent)
    return;
  amqp_confirm_select(sender->state, CHANNEL);
  must(amqp_get_rpc_reply(sender->state).reply_type == AMQP_RESPONSE_NORMAL, "confirms");
}

/* Read what the broker has confirmed; wait for it while too much is not. */
static void take_confirms(struct sender *sender) {
  static const struct timeval at_once = {0, 0};
  amqp_frame_t frame;

  for (;;) {
    int full = sender->sent - sender->confirmed >= PREFETCH;
    struct timeval limit = at_once;

    amqp_maybe_release_buffers(sender->state);
    if (amqp_simple_wait_frame_noblock(sender->state, &frame, full ? NULL : &limit) !=
        AMQP_STATUS_OK)
      return;
    if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
      sender->confirmed = ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
  }
}

static void send_to(struct sender *sender, const char *queue, amqp_bytes_t body) {
  amqp_basic_properties_t properties;

  if (sender->persistent)
    take_confirms(sender);
  sender->sent++;
  memset(&properties, 0, sizeof properties);
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = sender->persistent ? 2 : 1;
  must(amqp_basic_publish(sender->state, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(queue), 0, 0,
                          &properties, body) == AMQP_STATUS_OK,
       "publish");
}

/* The next message; into `to`, unless that is NULL. */
static void receive(amqp_connection_state_t state, amqp_envelope_t *to) {
  amqp_envelope_t envelope;

  amqp_maybe_release_buffers(state);
  must(amqp_consume_message(state, &envelope, NULL, 0).reply_type == AMQP_RESPONSE_NORMAL,
       "a message");
  if (envelope.delivery_tag % ACK_EVERY == 0)
    amqp_basic_ack(state, CHANNEL, envelope.delivery_tag, 1);
  if (to != NULL)
    *to = envelope;
  else
    amqp_destroy_envelope(&envelope);
}

/* The queues of this run. */
struct names {
  char there[32], back[32];
};

static void child_echo(int port, int persistent, const struct names *names) {
  amqp_connection_state_t from = connect_to(port);
  struct sender to;
  amqp_envelope_t envelope;

  open_sender(&to, port, persistent);
  read_from(from, names->there);
  for (;;) {
    receive(from, &envelope);
    send_to(&to, names->back, envelope.message.body);
    amqp_destroy_envelope(&envelope);
  }
}

static void child_send(int port, int persistent, const struct names *names, int go, size_t count) {
  static char piece[PIECE];
  struct sender to;
  char one;

  open_sender(&to, port, persistent);
  while (read(go, &one, 1) == 1)
    for (size_t i = 0; i < count; i++)
      send_to(&to, names->there, (amqp_bytes_t){PIECE, piece});
  kill(0, SIGTERM); /* the echo, which waits */
}

static double measure(void *with) {
  struct echo *echo = with;
  double start = now();

  must(write(echo->go, "", 1) == 1, "write");
  for (size_t i = 0; i < echo->count; i++)
    receive(echo->state, NULL);
  return now() - start;
}

int main(int argc, char **argv) {
  struct echo echo = {0};
  struct names names;
  int port, persistent, go[2];

  must(argc > 2, "usage: broker PORT BYTES [persistent]");
  port = atoi(argv[1]);
  persistent = argc > 3;
  snprintf(names.there, sizeof names.there, "bench.%d.there", (int)getpid());
  snprintf(names.back, sizeof names.back, "bench.%d.back", (int)getpid());
  echo.count = (strtoul(argv[2], NULL, 10) + PIECE - 1) / PIECE;
  setpgid(0, 0);
  echo.state = connect_to(port);
  read_from(echo.state, names.back);
  must(pipe(go) == 0, "pipe");
  if (fork() == 0) {
    close(go[1]);
    child_echo(port, persistent, &names);
  }
  if (fork() == 0) {
    close(go[1]);
    child_send(port, persistent, &names, go[0], echo.count);
  }
  echo.go = go[1];
  serve(measure, &echo);
  return 0;
}
