/* Runs in: parent. Purpose: server.h. */
#include "runtime/web/server.h"

#include <poll.h>

int mch_web_wait(int fd, double seconds) {
  return poll(&(struct pollfd){fd, POLLIN, 0}, 1, (int)(1000 * seconds)) > 0;
}

#ifdef MANTICHORA_MICROHTTPD

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/web/microhttpd.h"

enum {
  MOST_CONNECTIONS = 64,
  PATIENCE = 120,          /* seconds in which a connection must move on */
  MOST_HELD_BACK = 1 << 18 /* bytes that wait for a viewer before it misses what is published */
};

/* What is sent to several viewers. */
struct message {
  unsigned users;
  size_t length;
  unsigned char bytes[];
};

struct line { /* of messages that wait for one viewer */
  struct line *next;
  struct message *message;
};

struct viewer {
  struct viewer *next;
  struct mch_web *web;
  struct MHD_Connection *connection;
  struct line *first, **last;
  size_t sent; /* bytes of the first message */
  size_t held; /* bytes that wait */
  int sleeps;  /* suspended, as it has all there is */
  int wants;   /* a snapshot */
};

struct mch_web {
  struct mch_microhttpd mhd;
  struct MHD_Daemon *daemon;
  const struct mch_web_file *files;
  size_t file_count;
  struct viewer *viewers;
  int port;
  int closing;
  char token[MCH_WEB_TOKEN + 1];
};

/* --- answers -----------------------------------------------------------------------------------
 */

static const char *const headers[][2] = {
    {"Cache-Control", "no-store"},
    {"Referrer-Policy", "no-referrer"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
     "require-trusted-types-for 'script'; trusted-types 'none'"},
};

static enum MHD_Result answer(struct mch_web *web, struct MHD_Connection *connection,
                              unsigned status, const char *type, struct MHD_Response *response) {
  enum MHD_Result result = MHD_NO;
  if (response == NULL)
    return MHD_NO;
  result = web->mhd.add_response_header(response, "Content-Type", type);
  for (size_t i = 0; i < sizeof headers / sizeof *headers && result == MHD_YES; i++)
    result = web->mhd.add_response_header(response, headers[i][0], headers[i][1]);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED && result == MHD_YES)
    result = web->mhd.add_response_header(response, "Allow", "GET, HEAD");
  if (result == MHD_YES)
    result = web->mhd.queue_response(connection, status, response);
  web->mhd.destroy_response(response);
  return result;
}

static enum MHD_Result answer_bytes(struct mch_web *web, struct MHD_Connection *connection,
                                    unsigned status, const char *type, const void *bytes,
                                    size_t length) {
  /* It is not written to, whatever its type says. */
  struct MHD_Response *response =
      web->mhd.create_response_from_buffer(length, (void *)(size_t)bytes, MHD_RESPMEM_PERSISTENT);
  return answer(web, connection, status, type, response);
}

static enum MHD_Result refuse(struct mch_web *web, struct MHD_Connection *connection,
                              unsigned status, const char *why) {
  return answer_bytes(web, connection, status, "text/plain; charset=utf-8", why, strlen(why));
}

/* --- checks ------------------------------------------------------------------------------------
 */

struct hosts {
  int count;
  const char *value;
};

static enum MHD_Result see_header(void *data, enum MHD_ValueKind kind, const char *key,
                                  const char *value) {
  struct hosts *hosts = data;
  (void)kind;
  if (strcasecmp(key, "Host") == 0) {
    hosts->count++;
    hosts->value = value;
  }
  return MHD_YES;
}

/* "" or a colon and a port. */
static int is_port(const char *text) {
  size_t digits = *text == ':' ? strspn(text + 1, "0123456789") : 0;
  return *text == '\0' || (digits > 0 && digits <= 5 && text[1 + digits] == '\0');
}

static int is_host(const char *host) {
  static const char *const ours[] = {"127.0.0.1", "localhost", "[::1]"};
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
    size_t length = strlen(ours[i]);
    if (strncasecmp(host, ours[i], length) == 0 && is_port(host + length))
      return 1;
  }
  return 0;
}

/* A name that leads here by another's DNS is not ours: the page would belong to that other. */
static int has_our_host(struct mch_web *web, struct MHD_Connection *connection) {
  struct hosts hosts = {0, NULL};
  web->mhd.get_connection_values(connection, MHD_HEADER_KIND, see_header, &hosts);
  return hosts.count == 1 && hosts.value != NULL && is_host(hosts.value);
}

/* The time it takes tells nothing of where the first difference is. */
static int is_token(const struct mch_web *web, const char *text) {
  volatile unsigned char difference = 0;
  if (strlen(text) != MCH_WEB_TOKEN)
    return 0;
  for (size_t i = 0; i < MCH_WEB_TOKEN; i++)
    difference = (unsigned char)(difference | (text[i] ^ web->token[i]));
  return difference == 0;
}

static int has_token(struct mch_web *web, struct MHD_Connection *connection) {
  static const char scheme[] = "Bearer ";
  const char *value =
      web->mhd.lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
  return value != NULL && strncasecmp(value, scheme, sizeof scheme - 1) == 0 &&
         is_token(web, value + sizeof scheme - 1);
}

/* --- viewers -----------------------------------------------------------------------------------
 */

static void release(struct message *message) {
  if (--message->users == 0)
    free(message);
}

static void drop_first(struct viewer *viewer) {
  struct line *line = viewer->first;
  viewer->first = line->next;
  if (viewer->first == NULL)
    viewer->last = &viewer->first;
  viewer->sent = 0;
  release(line->message);
  free(line);
}

/* 0, or MCH_NOMEM: the viewer has missed it. */
static int append(struct viewer *viewer, struct message *message) {
  struct line *line = malloc(sizeof *line);
  if (line == NULL)
    return MCH_NOMEM;
  line->next = NULL;
  line->message = message;
  message->users++;
  *viewer->last = line;
  viewer->last = &line->next;
  viewer->held += message->length;
  if (viewer->sleeps) {
    viewer->sleeps = 0;
    viewer->web->mhd.resume_connection(viewer->connection);
  }
  return 0;
}

/* libmicrohttpd asks for up to `most` bytes. */
static ssize_t read_stream(void *data, uint64_t position, char *bytes, size_t most) {
  struct viewer *viewer = data;
  size_t count;
  (void)position;
  if (viewer->first == NULL) {
    if (viewer->web->closing)
      return MHD_CONTENT_READER_END_OF_STREAM;
    viewer->sleeps = 1;
    viewer->web->mhd.suspend_connection(viewer->connection);
    return 0;
  }
  count = viewer->first->message->length - viewer->sent;
  if (count > most)
    count = most;
  memcpy(bytes, viewer->first->message->bytes + viewer->sent, count);
  viewer->sent += count;
  viewer->held -= count;
  if (viewer->sent == viewer->first->message->length)
    drop_first(viewer);
  return (ssize_t)count;
}

static void free_viewer(void *data) {
  struct viewer *viewer = data;
  struct viewer **at = &viewer->web->viewers;
  while (*at != viewer)
    at = &(*at)->next;
  *at = viewer->next;
  while (viewer->first != NULL)
    drop_first(viewer);
  free(viewer);
}

static enum MHD_Result open_stream(struct mch_web *web, struct MHD_Connection *connection) {
  struct viewer *viewer = calloc(1, sizeof *viewer);
  struct MHD_Response *response;
  if (viewer == NULL)
    return MHD_NO;
  viewer->web = web;
  viewer->connection = connection;
  viewer->last = &viewer->first;
  viewer->wants = 1;
  response = web->mhd.create_response_from_callback(MHD_SIZE_UNKNOWN, 1 << 15, read_stream, viewer,
                                                    free_viewer);
  if (response == NULL) {
    free(viewer);
    return MHD_NO;
  }
  viewer->next = web->viewers;
  web->viewers = viewer;
  return answer(web, connection, MHD_HTTP_OK, "application/x-ndjson; charset=utf-8", response);
}

/* --- requests ----------------------------------------------------------------------------------
 */

static const struct mch_web_file *find_file(const struct mch_web *web, const char *path) {
  for (size_t i = 0; i < web->file_count; i++) {
    if (strcmp(web->files[i].path, path) == 0)
      return &web->files[i];
  }
  return NULL;
}

static enum MHD_Result handle(void *data, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_length, void **state) {
  static const char type[] = "application/x-ndjson; charset=utf-8";
  struct mch_web *web = data;
  const struct mch_web_file *file = find_file(web, path);
  int has_body = strcmp(method, "GET") == 0;
  (void)version, (void)upload, (void)upload_length, (void)state;
  if (!has_our_host(web, connection))
    return refuse(web, connection, MHD_HTTP_MISDIRECTED_REQUEST,
                  "This server answers to 127.0.0.1, localhost and [::1] only.\n");
  if (!has_body && strcmp(method, "HEAD") != 0)
    return refuse(web, connection, MHD_HTTP_METHOD_NOT_ALLOWED, "This page can only be read.\n");
  if (file != NULL)
    return answer_bytes(web, connection, MHD_HTTP_OK, file->type, file->bytes, file->length);
  if (!has_token(web, connection))
    return refuse(
        web, connection, MHD_HTTP_FORBIDDEN,
        "The data of this page needs the token in the address that `mantichora top --web` "
        "printed.\n");
  if (strcmp(path, "/stream") != 0)
    return refuse(web, connection, MHD_HTTP_NOT_FOUND, "There is no such page.\n");
  return has_body ? open_stream(web, connection)
                  : answer_bytes(web, connection, MHD_HTTP_OK, type, "", 0);
}

/* --- the server --------------------------------------------------------------------------------
 */

static int make_token(char *token, struct mch_error *error) {
  unsigned char bytes[MCH_WEB_TOKEN / 2];
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  ssize_t count = fd >= 0 ? read(fd, bytes, sizeof bytes) : -1;
  if (count != (ssize_t)sizeof bytes)
    mch_error_system(error, "no token can be made for the page: /dev/urandom");
  if (fd >= 0)
    close(fd);
  if (count != (ssize_t)sizeof bytes)
    return MCH_SYSTEM;
  for (size_t i = 0; i < sizeof bytes; i++)
    snprintf(token + 2 * i, 3, "%02x", bytes[i]);
  return 0;
}

static int start(struct mch_web *web, struct mch_error *error) {
  struct sockaddr_in address;
  const union MHD_DaemonInfo *info;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  errno = 0;
  web->daemon = web->mhd.start_daemon(MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, web,
                                      MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT,
                                      (unsigned)MOST_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
                                      (unsigned)PATIENCE, MHD_OPTION_END);
  if (web->daemon == NULL)
    return errno != 0 ? mch_error_system(error, "no port of 127.0.0.1 can be listened on")
                      : mch_error_set(error, MCH_SYSTEM, "no port of 127.0.0.1 can be listened on");
  info = web->mhd.get_daemon_info(web->daemon, MHD_DAEMON_INFO_BIND_PORT);
  web->port = info != NULL ? info->port : 0;
  return 0;
}

int mch_web_open(struct mch_web **out, const struct mch_web_file *files, size_t count,
                 struct mch_error *error) {
  struct mch_web *web = calloc(1, sizeof *web);
  int code;
  if (web == NULL)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for the page");
  web->files = files;
  web->file_count = count;
  code = mch_microhttpd_load(&web->mhd, error);
  if (code == 0)
    code = make_token(web->token, error);
  if (code == 0)
    code = start(web, error);
  if (code != 0) {
    free(web);
    return code;
  }
  *out = web;
  return 0;
}

int mch_web_port(const struct mch_web *web) {
  return web->port;
}

const char *mch_web_token(const struct mch_web *web) {
  return web->token;
}

static struct timeval time_to_wait(struct mch_web *web, double seconds) {
  MHD_UNSIGNED_LONG_LONG milliseconds;
  struct timeval wait;
  if (seconds < 0)
    seconds = 0;
  if (web->mhd.get_timeout(web->daemon, &milliseconds) == MHD_YES &&
      (double)milliseconds < 1000 * seconds)
    seconds = (double)milliseconds / 1000;
  wait.tv_sec = (time_t)seconds;
  wait.tv_usec = (suseconds_t)((seconds - (double)wait.tv_sec) * 1e6);
  return wait;
}

int mch_web_serve(struct mch_web *web, int fd, double seconds) {
  fd_set in, out, other;
  MHD_socket last = -1;
  struct timeval wait = time_to_wait(web, seconds);
  int count;
  FD_ZERO(&in);
  FD_ZERO(&out);
  FD_ZERO(&other);
  web->mhd.get_fdset2(web->daemon, &in, &out, &other, &last, FD_SETSIZE);
  if (fd >= 0 && fd < FD_SETSIZE) {
    FD_SET((unsigned)fd, &in); /* musl divides it by a size */
    last = fd > last ? fd : last;
  }
  count = select(last + 1, &in, &out, &other, &wait);
  if (count < 0)
    return 0;
  web->mhd.run_from_select(web->daemon, &in, &out, &other);
  return fd >= 0 && fd < FD_SETSIZE && FD_ISSET((unsigned)fd, &in);
}

unsigned mch_web_viewers(const struct mch_web *web) {
  unsigned count = 0;
  for (const struct viewer *viewer = web->viewers; viewer != NULL; viewer = viewer->next)
    count++;
  return count;
}

unsigned mch_web_wanting(const struct mch_web *web) {
  unsigned count = 0;
  for (const struct viewer *viewer = web->viewers; viewer != NULL; viewer = viewer->next)
    count += viewer->wants && viewer->first == NULL;
  return count;
}

int mch_web_publish(struct mch_web *web, const void *bytes, size_t length, int is_snapshot) {
  struct message *message = malloc(sizeof *message + length);
  if (message != NULL) {
    message->users = 1;
    message->length = length;
    memcpy(message->bytes, bytes, length);
  }
  for (struct viewer *viewer = web->viewers; viewer != NULL; viewer = viewer->next) {
    if (is_snapshot ? !viewer->wants || viewer->first != NULL : viewer->wants)
      continue;
    viewer->wants = message == NULL || (!is_snapshot && viewer->held > MOST_HELD_BACK) ||
                    append(viewer, message) != 0;
  }
  if (message == NULL)
    return MCH_NOMEM;
  release(message);
  return 0;
}

void mch_web_close(struct mch_web *web) {
  if (web == NULL)
    return;
  web->closing = 1;
  for (struct viewer *viewer = web->viewers; viewer != NULL; viewer = viewer->next) {
    if (viewer->sleeps)
      web->mhd.resume_connection(viewer->connection);
    viewer->sleeps = 0;
  }
  /* A stream ends when its viewer has all of it; who does not read now is cut off. */
  for (int turns = 0; turns < 20 && web->viewers != NULL; turns++)
    mch_web_serve(web, -1, 0.01);
  web->mhd.stop_daemon(web->daemon);
  free(web);
}

#else /* without libmicrohttpd */

int mch_web_open(struct mch_web **web, const struct mch_web_file *files, size_t count,
                 struct mch_error *error) {
  (void)web, (void)files, (void)count;
  return mch_error_set(error, MCH_SYSTEM,
                       "this program was built without libmicrohttpd, which serves the page; the "
                       "package libmicrohttpd-dev of Debian has what building it needs");
}

void mch_web_close(struct mch_web *web) {
  (void)web;
}

int mch_web_port(const struct mch_web *web) {
  (void)web;
  return 0;
}

const char *mch_web_token(const struct mch_web *web) {
  (void)web;
  return "";
}

int mch_web_serve(struct mch_web *web, int fd, double seconds) {
  (void)web, (void)fd, (void)seconds;
  return 0;
}

unsigned mch_web_viewers(const struct mch_web *web) {
  (void)web;
  return 0;
}

unsigned mch_web_wanting(const struct mch_web *web) {
  (void)web;
  return 0;
}

int mch_web_publish(struct mch_web *web, const void *bytes, size_t length, int is_snapshot) {
  (void)web, (void)bytes, (void)length, (void)is_snapshot;
  return 0;
}

#endif
