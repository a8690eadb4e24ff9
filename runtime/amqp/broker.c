/* Runs in: mantichora-amqp. Purpose: broker.h. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* struct timeval in amqp.h */
#endif
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "broker.h"

#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "key.h"

enum { CHANNEL = 1, FRAME_MOST = 131072, HEARTBEAT = 10, EXPIRES = 600000 };

/* -- the account -------------------------------------------------------------------------- */

static int copy_setting(char *to, size_t room, const char *name, struct mch_error *error) {
  const char *value = getenv(name);
  if (value == NULL)
    value = "";
  if (strlen(value) >= room)
    return mch_error_set(error, MCH_LIMIT, "%s is too long", name);
  strcpy(to, value);
  return 0;
}

static int find_password(struct mch_account *account, const char *password,
                         struct mch_error *error) {
  char path[4096];
  int code;
  if (password == NULL)
    password = getenv("MANTICHORA_AMQP_PASSWORD");
  if (password != NULL) {
    if (strlen(password) >= sizeof account->password)
      return mch_error_set(error, MCH_LIMIT, "the password of the broker is too long");
    strcpy(account->password, password);
    return 0;
  }
  if ((code = mch_key_settings("amqp", path, sizeof path, error)) != 0)
    return code;
  code = mch_key_read_private(path, account->password, sizeof account->password, error);
  if (code != 0)
    return code < 0 ? code : 0;
  if (account->certificate[0] != '\0')
    return 0;
  if (strcmp(account->user, "guest") == 0 && mch_url_is_loopback(&account->url)) {
    strcpy(account->password, "guest");
    return 0;
  }
  return mch_error_set(
      error, MCH_SYSTEM,
      "there is no password for %.60s at the broker: set MANTICHORA_AMQP_PASSWORD, or "
      "write it into ~/.config/mantichora/amqp (chmod 600), or name a client "
      "certificate by MANTICHORA_AMQP_CERTFILE",
      account->user);
}

/* The certificates of authorities that the system trusts. */
static void find_authorities(struct mch_account *account) {
  static const char *const places[] = {"/etc/ssl/certs/ca-certificates.crt",
                                       "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"};
  size_t i;
  for (i = 0; account->ca[0] == '\0' && i < sizeof places / sizeof *places; i++)
    if (access(places[i], R_OK) == 0)
      strcpy(account->ca, places[i]);
}

int mch_account_find(struct mch_account *account, const char *url, const char *password,
                     struct mch_error *error) {
  int code;
  memset(account, 0, sizeof *account);
  if ((code = mch_url_parse(&account->url, url, error)) != 0)
    return code;
  strcpy(account->user, account->url.user[0] == '\0' ? "guest" : account->url.user);
  if (!account->url.tls && !mch_url_is_loopback(&account->url))
    return mch_error_set(
        error, MCH_LIMIT,
        "amqp:// to %.100s would send password and tasks unencrypted: use amqps:// "
        "(amqp:// is for a broker on this machine)",
        account->url.host);
  if ((code = copy_setting(account->ca, sizeof account->ca, "MANTICHORA_AMQP_CAFILE", error)) !=
          0 ||
      (code = copy_setting(account->certificate, sizeof account->certificate,
                           "MANTICHORA_AMQP_CERTFILE", error)) != 0 ||
      (code = copy_setting(account->key, sizeof account->key, "MANTICHORA_AMQP_KEYFILE", error)) !=
          0)
    return code;
  if (account->certificate[0] != '\0' && account->key[0] == '\0')
    strcpy(account->key, account->certificate);
  find_authorities(account);
  return find_password(account, password, error);
}

/* -- what goes wrong ---------------------------------------------------------------------- */

/* The hint is what helps: of the rest is said what there is room for. */
static int say(struct mch_broker *broker, struct mch_error *error, const char *what,
               const char *why, const char *hint) {
  char head[128];
  int length = snprintf(head, sizeof head, "%s (broker %.60s:%d): ", what,
                        broker->account->url.host, broker->account->url.port);
  int room = (int)(sizeof error->text - 1 - strlen(hint)) - length;
  return mch_error_set(error, MCH_SYSTEM, "%s%.*s%s", head, room < 0 ? 0 : room, why, hint);
}

/* What can be done about it, where that is known. */
static const char *hint_for(const char *text) {
  if (strstr(text, "timeout value used") != NULL || strstr(text, "Timeout value used") != NULL ||
      strstr(text, "delivery acknowledgement") != NULL)
    return ": what ran here was stopped for longer than the broker's consumer_timeout; set a "
           "larger "
           "one in its rabbitmq.conf (consumer_timeout = 86400000)";
  if (strstr(text, "ACCESS_REFUSED") != NULL)
    return ": a right password, or `rabbitmqctl set_permissions -p VHOST USER '^mantichora' "
           "'^(mantichora|amq\\.default)' '^mantichora'`";
  if (strstr(text, "not found") != NULL && strstr(text, "vhost") != NULL)
    return ": make it by `rabbitmqctl add_vhost`";
  if (strstr(text, "max-length") != NULL || strstr(text, "max_length") != NULL)
    return ": queues named mantichora.* must not be limited by a policy";
  return "";
}

static int server_said(struct mch_broker *broker, const amqp_method_t *method, const char *what,
                       struct mch_error *error) {
  char text[320] = "the broker closed it";
  amqp_bytes_t bytes = amqp_empty_bytes;
  int code = 0;
  if (method->id == AMQP_CONNECTION_CLOSE_METHOD) {
    const amqp_connection_close_t *closing = method->decoded;
    bytes = closing->reply_text;
    code = closing->reply_code;
  } else if (method->id == AMQP_CHANNEL_CLOSE_METHOD) {
    const amqp_channel_close_t *closing = method->decoded;
    bytes = closing->reply_text;
    code = closing->reply_code;
  }
  if (bytes.len > 0) {
    size_t length = bytes.len < sizeof text - 1 ? bytes.len : sizeof text - 1;
    memcpy(text, bytes.bytes, length);
    text[length] = '\0';
  }
  /* 320: the broker goes down; 541: it has an error inside. Both pass. */
  broker->hopeless = code == 403 || code == 530 || code == 402;
  return say(broker, error, what, text, hint_for(text));
}

static int library_said(struct mch_broker *broker, int status, const char *what,
                        struct mch_error *error) {
  const char *hint = "";
  broker->hopeless = 0;
  if (status == AMQP_STATUS_SSL_PEER_VERIFY_FAILED ||
      status == AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED ||
      status == AMQP_STATUS_SSL_CONNECTION_FAILED || status == AMQP_STATUS_SSL_ERROR) {
    broker->hopeless = status != AMQP_STATUS_SSL_ERROR;
    hint = ": its certificate must verify and name this host (MANTICHORA_AMQP_CAFILE names the "
           "authority's certificate)";
  }
  if (status == AMQP_STATUS_BROKER_UNSUPPORTED_SASL_METHOD)
    broker->hopeless = 1;
  return say(broker, error, what, amqp_error_string2(status), hint);
}

int mch_broker_check(struct mch_broker *broker, amqp_rpc_reply_t reply, const char *what,
                     struct mch_error *error) {
  int code;
  if (reply.reply_type == AMQP_RESPONSE_NORMAL)
    return 0;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION)
    code = server_said(broker, &reply.reply, what, error);
  else
    code = library_said(broker,
                        reply.reply_type == AMQP_RESPONSE_NONE ? AMQP_STATUS_SOCKET_ERROR
                                                               : reply.library_error,
                        what, error);
  mch_broker_close(broker);
  return code;
}

int mch_broker_reply(struct mch_broker *broker, const char *what, struct mch_error *error) {
  return mch_broker_check(broker, amqp_get_rpc_reply(broker->state), what, error);
}

int mch_broker_heed(struct mch_broker *broker, const amqp_frame_t *frame, struct mch_error *error) {
  int code;
  if (frame->frame_type != AMQP_FRAME_METHOD ||
      (frame->payload.method.id != AMQP_CONNECTION_CLOSE_METHOD &&
       frame->payload.method.id != AMQP_CHANNEL_CLOSE_METHOD))
    return 0;
  code = server_said(broker, &frame->payload.method, "the connection ended", error);
  mch_broker_close(broker);
  return code;
}

/* -- opening ------------------------------------------------------------------------------ */

static amqp_socket_t *make_socket(struct mch_broker *broker, struct mch_error *error) {
  const struct mch_account *account = broker->account;
  amqp_socket_t *socket;
  int status;
  if (!account->url.tls)
    return amqp_tcp_socket_new(broker->state);
  socket = amqp_ssl_socket_new(broker->state);
  if (socket == NULL)
    return NULL;
  amqp_ssl_socket_set_verify_peer(socket, 1);
  amqp_ssl_socket_set_verify_hostname(socket, 1);
  amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST);
  status =
      account->ca[0] == '\0' ? AMQP_STATUS_OK : amqp_ssl_socket_set_cacert(socket, account->ca);
  if (status != AMQP_STATUS_OK) {
    mch_error_set(error, MCH_SYSTEM, "cannot read the certificates in %s", account->ca);
    broker->hopeless = 1;
    return NULL;
  }
  if (account->certificate[0] != '\0' &&
      amqp_ssl_socket_set_key(socket, account->certificate, account->key) != AMQP_STATUS_OK) {
    mch_error_set(error, MCH_SYSTEM, "cannot read the certificate in %s, or its key in %s",
                  account->certificate, account->key);
    broker->hopeless = 1;
    return NULL;
  }
  return socket;
}

static int open_as(struct mch_broker *broker, const char *vhost, struct mch_error *error) {
  const struct mch_account *account = broker->account;
  struct timeval limit = {5, 0};
  amqp_socket_t *socket;
  amqp_rpc_reply_t reply;
  int status;
  broker->hopeless = 0;
  broker->state = amqp_new_connection();
  if (broker->state == NULL)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a connection");
  mch_error_set(error, MCH_NOMEM, "not enough memory for a connection");
  socket = make_socket(broker, error);
  if (socket == NULL) {
    mch_broker_close(broker);
    return MCH_SYSTEM;
  }
  amqp_set_handshake_timeout(broker->state, &limit);
  amqp_set_rpc_timeout(broker->state, &limit);
  status = amqp_socket_open_noblock(socket, account->url.host, account->url.port, &limit);
  if (status != AMQP_STATUS_OK) {
    library_said(broker, status, "cannot connect", error);
    mch_broker_close(broker);
    return MCH_SYSTEM;
  }
  if (account->password[0] == '\0')
    reply = amqp_login(broker->state, vhost, 0, FRAME_MOST, HEARTBEAT, AMQP_SASL_METHOD_EXTERNAL,
                       account->user);
  else
    reply = amqp_login(broker->state, vhost, 0, FRAME_MOST, HEARTBEAT, AMQP_SASL_METHOD_PLAIN,
                       account->user, account->password);
  if ((status = mch_broker_check(broker, reply, "cannot log in", error)) != 0)
    return status;
  amqp_channel_open(broker->state, CHANNEL);
  return mch_broker_reply(broker, "cannot open a channel", error);
}

/* The name in the URL is the virtual host's, if there is such a one, else a fleet's. */
int mch_broker_open(struct mch_broker *broker, struct mch_error *error) {
  const char *name = broker->account->url.name;
  struct mch_error first;
  int code;
  strcpy(broker->fleet, "fleet");
  if (name[0] == '\0')
    return open_as(broker, "/", error);
  code = open_as(broker, name, &first);
  if (code != 0 && strstr(first.text, "not found") != NULL && strcmp(name, "/") != 0) {
    strcpy(broker->fleet, name);
    if (open_as(broker, "/", error) == 0)
      return 0;
  }
  if (code != 0 && error != NULL)
    *error = first;
  return code;
}

/* Without a word to the broker where that could take time: it sees the end of the stream. */
void mch_broker_close(struct mch_broker *broker) {
  if (broker->state != NULL)
    amqp_destroy_connection(broker->state);
  broker->state = NULL;
}

/* -- using it ----------------------------------------------------------------------------- */

int mch_broker_publish(struct mch_broker *broker, const char *exchange, const char *route,
                       const void *bytes, size_t length, int must_arrive, struct mch_error *error) {
  amqp_basic_properties_t properties;
  amqp_bytes_t body;
  int status;
  memset(&properties, 0, sizeof properties);
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_NONPERSISTENT;
  body.len = length;
  body.bytes = (void *)(uintptr_t)bytes;
  status = amqp_basic_publish(broker->state, CHANNEL, amqp_cstring_bytes(exchange),
                              amqp_cstring_bytes(route), must_arrive, 0, &properties, body);
  if (status == AMQP_STATUS_OK)
    return 0;
  status = library_said(broker, status, "cannot send", error);
  mch_broker_close(broker);
  return status;
}

int mch_broker_own_queue(struct mch_broker *broker, const char *name, const char *exchange,
                         struct mch_error *error) {
  amqp_bytes_t queue = amqp_cstring_bytes(name);
  int code;
  amqp_queue_declare(broker->state, CHANNEL, queue, 0, 0, 1, 1, amqp_empty_table);
  if ((code = mch_broker_reply(broker, "cannot make a queue", error)) != 0)
    return code;
  amqp_queue_bind(broker->state, CHANNEL, queue, amqp_cstring_bytes(exchange), amqp_empty_bytes,
                  amqp_empty_table);
  if ((code = mch_broker_reply(broker, "cannot bind a queue", error)) != 0)
    return code;
  amqp_basic_consume(broker->state, CHANNEL, queue, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);
  return mch_broker_reply(broker, "cannot read a queue", error);
}

int mch_broker_hall(struct mch_broker *broker, const char *name, struct mch_error *error) {
  amqp_exchange_declare(broker->state, CHANNEL, amqp_cstring_bytes(name),
                        amqp_cstring_bytes("fanout"), 0, 1, 0, 0, amqp_empty_table);
  return mch_broker_reply(broker, "cannot make an exchange", error);
}

int mch_broker_lasting_queue(struct mch_broker *broker, const char *name, struct mch_error *error) {
  amqp_table_entry_t entries[2];
  amqp_table_t arguments = {2, entries};
  memset(entries, 0, sizeof entries);
  entries[0].key = amqp_cstring_bytes("x-expires");
  entries[0].value.kind = AMQP_FIELD_KIND_I32;
  entries[0].value.value.i32 = EXPIRES;
  /* A connection that is dead and not yet known to be must not take turns with its successor. */
  entries[1].key = amqp_cstring_bytes("x-single-active-consumer");
  entries[1].value.kind = AMQP_FIELD_KIND_BOOLEAN;
  entries[1].value.value.boolean = 1;
  amqp_queue_declare(broker->state, CHANNEL, amqp_cstring_bytes(name), 0, 1, 0, 0, arguments);
  return mch_broker_reply(broker, "cannot make a queue", error);
}

int mch_broker_has_more(const struct mch_broker *broker) {
  return amqp_frames_enqueued(broker->state) || amqp_data_in_buffer(broker->state);
}

int mch_broker_fd(const struct mch_broker *broker) {
  return amqp_get_sockfd(broker->state);
}
