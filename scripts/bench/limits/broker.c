/* Many bytes through a broker and back, in messages of 64 KiB: what an echo by way of it costs at
 * least. One process sends, one sends back what comes, and this one waits for all of it.
 *
 *     broker PORT BYTES
 *
 * Persistent messages in lasting queues, acknowledged in groups, as mantichora-amqp has them;
 * without confirms, authentication or anything else that it does. */
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

static void send_to(amqp_connection_state_t state, const char *queue, amqp_bytes_t body) {
  amqp_basic_properties_t properties;

  memset(&properties, 0, sizeof properties);
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = 2;
  must(amqp_basic_publish(state, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(queue), 0, 0,
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

static void child_echo(int port) {
  amqp_connection_state_t from = connect_to(port), to = connect_to(port);
  amqp_envelope_t envelope;

  read_from(from, "bench.there");
  for (;;) {
    receive(from, &envelope);
    send_to(to, "bench.back", envelope.message.body);
    amqp_destroy_envelope(&envelope);
  }
}

static void child_send(int port, int go, size_t count) {
  static char piece[PIECE];
  amqp_connection_state_t state = connect_to(port);
  char one;

  while (read(go, &one, 1) == 1)
    for (size_t i = 0; i < count; i++)
      send_to(state, "bench.there", (amqp_bytes_t){PIECE, piece});
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
  int port, go[2];

  must(argc > 2, "usage: broker PORT BYTES");
  port = atoi(argv[1]);
  echo.count = (strtoul(argv[2], NULL, 10) + PIECE - 1) / PIECE;
  setpgid(0, 0);
  echo.state = connect_to(port);
  read_from(echo.state, "bench.back");
  must(pipe(go) == 0, "pipe");
  if (fork() == 0) {
    close(go[1]);
    child_echo(port);
  }
  if (fork() == 0) {
    close(go[1]);
    child_send(port, go[0], echo.count);
  }
  echo.go = go[1];
  serve(measure, &echo);
  return 0;
}
