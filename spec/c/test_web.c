/* runtime/web: what the server of the page answers to whom, and that no viewer holds it up.
 * Requests are bytes over sockets, served by this same thread. */
#include "runtime/web/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

#ifdef MANTICHORA_MICROHTTPD

static const char page[] = "<!doctype html>";
static const char style[] = "body {}";
static const struct mch_web_file files[] = {
    {"/", "text/html; charset=utf-8", page, sizeof page - 1},
    {"/page.css", "text/css; charset=utf-8", style, sizeof style - 1},
};

static char answer[1 << 16];

static struct mch_web *open_web(void) {
  struct mch_web *web = NULL;
  struct mch_error error;
  if (mch_web_open(&web, files, 2, &error) != 0) {
    fprintf(stderr, "%s\n", error.text);
    exit(1);
  }
  return web;
}

static int connect_to(const struct mch_web *web) {
  struct sockaddr_in address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons((uint16_t)mch_web_port(web));
  CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
  CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
  return fd;
}

static void say(int fd, const char *text) {
  CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* Serve until the other side has closed, or `end` has come (NULL: nothing is waited for). */
static void hear(struct mch_web *web, int fd, const char *end) {
  size_t length = 0;
  answer[0] = '\0';
  for (int turns = 0; turns < 2000; turns++) {
    ssize_t count = read(fd, answer + length, sizeof answer - 1 - length);
    if (count == 0)
      return;
    if (count > 0)
      length += (size_t)count;
    answer[length] = '\0';
    if (end != NULL && strstr(answer, end) != NULL)
      return;
    if (count < 0)
      mch_web_serve(web, fd, 0.01);
  }
  CHECK(0 && "the answer has come");
}

/* The status of the answer to these bytes; `answer` has all of it. */
static int ask(struct mch_web *web, const char *request) {
  int fd = connect_to(web), status = 0;
  say(fd, request);
  hear(web, fd, NULL);
  sscanf(answer, "HTTP/1.1 %d", &status);
  close(fd);
  return status;
}

static int ask_for(struct mch_web *web, const char *method, const char *path, const char *host,
                   const char *more) {
  char request[1024];
  snprintf(request, sizeof request, "%s %s HTTP/1.1\r\n%s%s%sConnection: close\r\n%s\r\n", method,
           path, host != NULL ? "Host: " : "", host != NULL ? host : "", host != NULL ? "\r\n" : "",
           more);
  return ask(web, request);
}

static const char *authorization(const struct mch_web *web) {
  static char line[128];
  snprintf(line, sizeof line, "Authorization: Bearer %s\r\n", mch_web_token(web));
  return line;
}

static int has(const char *text) {
  return strstr(answer, text) != NULL;
}

static void check_headers(void) {
  CHECK(has("\r\nCache-Control: no-store\r\n"));
  CHECK(has("\r\nReferrer-Policy: no-referrer\r\n"));
  CHECK(has("\r\nX-Content-Type-Options: nosniff\r\n"));
  CHECK(has("\r\nContent-Security-Policy: default-src 'none'; "));
  CHECK(!has("unsafe-inline"));
  CHECK(!has("Access-Control-"));
  CHECK(!has("Set-Cookie"));
}

static void test_files(void) {
  struct mch_web *web = open_web();
  CHECK(ask_for(web, "GET", "/", "127.0.0.1", "") == 200);
  CHECK(has("\r\n\r\n<!doctype html>"));
  CHECK(has("Content-Type: text/html; charset=utf-8\r\n"));
  check_headers();
  CHECK(ask_for(web, "GET", "/page.css", "127.0.0.1", "") == 200);
  CHECK(has("\r\n\r\nbody {}"));
  CHECK(ask_for(web, "GET", "/?x=1", "127.0.0.1", "") == 200);
  CHECK(ask_for(web, "HEAD", "/", "127.0.0.1", "") == 200);
  CHECK(has("Content-Length: 15\r\n") && !has("doctype"));
  mch_web_close(web);
}

static void test_hosts(void) {
  static const char *const fine[] = {"127.0.0.1", "127.0.0.1:1",     "localhost", "localhost:65535",
                                     "LocalHost", "127.0.0.1:08080", "[::1]",     "[::1]:4000"};
  static const char *const foreign[] = {"example.org",
                                        "127.0.0.1.example.org",
                                        "localhost.example.org",
                                        "localhost.",
                                        "127.0.0.1:",
                                        "127.0.0.1:80x",
                                        "127.0.0.1:123456",
                                        "::1",
                                        "[::1",
                                        "[::1]x",
                                        "[::2]",
                                        "0.0.0.0",
                                        "127.0.0.2",
                                        "127.1",
                                        "localhost:80:80",
                                        "evil@127.0.0.1",
                                        "127.0.0.1:80/..",
                                        "127.0.0.1, localhost",
                                        "169.254.169.254"};
  struct mch_web *web = open_web();
  for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
    CHECK(ask_for(web, "GET", "/", fine[i], "") == 200);
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    CHECK(ask_for(web, "GET", "/", foreign[i], "") == 421);
    check_headers();
    CHECK(ask_for(web, "GET", "/stream", foreign[i], authorization(web)) == 421);
  }
  CHECK(ask_for(web, "GET", "/", "127.0.0.1", "Host: localhost\r\n") == 421);
  CHECK(ask(web, "GET / HTTP/1.0\r\n\r\n") == 421);
  CHECK(ask_for(web, "GET", "/", NULL, "") >= 400);
  CHECK(ask_for(web, "GET", "/", "", "") == 421);
  mch_web_close(web);
}

static void test_methods(void) {
  static const char *const methods[] = {"POST",  "PUT",   "DELETE", "OPTIONS",
                                        "PATCH", "TRACE", "get",    "X"};
  struct mch_web *web = open_web();
  char more[256];
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    CHECK(ask_for(web, methods[i], "/", "localhost", "") == 405);
    CHECK(has("\r\nAllow: GET, HEAD\r\n"));
    check_headers();
    CHECK(ask_for(web, methods[i], "/stream", "localhost", authorization(web)) == 405);
  }
  snprintf(more, sizeof more, "%sContent-Length: 4\r\n", authorization(web));
  CHECK(ask_for(web, "POST", "/stream", "localhost", more) == 405);
  CHECK(ask_for(web, "OPTIONS", "/stream", "localhost",
                "Origin: http://evil.example\r\nAccess-Control-Request-Method: GET\r\n"
                "Access-Control-Request-Headers: authorization\r\n") == 405);
  mch_web_close(web);
}

static void test_token(void) {
  struct mch_web *web = open_web();
  const char *token = mch_web_token(web);
  char more[256];
  CHECK(strlen(token) == MCH_WEB_TOKEN && strspn(token, "0123456789abcdef") == MCH_WEB_TOKEN);
  CHECK(ask_for(web, "GET", "/stream", "localhost", "") == 403);
  check_headers();
  CHECK(ask_for(web, "GET", "/nothing", "localhost", "") == 403);
  CHECK(ask_for(web, "GET", "/../../etc/passwd", "localhost", "") == 403);
  CHECK(ask_for(web, "GET", "/nothing", "localhost", authorization(web)) == 404);
  CHECK(ask_for(web, "HEAD", "/stream", "localhost", authorization(web)) == 200);
  check_headers();
  CHECK(mch_web_viewers(web) == 0);
  snprintf(more, sizeof more, "Authorization: Bearer %.31s\r\n", token);
  CHECK(ask_for(web, "GET", "/stream", "localhost", more) == 403);
  snprintf(more, sizeof more, "Authorization: Bearer %s0\r\n", token);
  CHECK(ask_for(web, "GET", "/stream", "localhost", more) == 403);
  snprintf(more, sizeof more, "Authorization: Bearer %.31s%c\r\n", token,
           token[31] == '0' ? '1' : '0');
  CHECK(ask_for(web, "GET", "/stream", "localhost", more) == 403);
  snprintf(more, sizeof more, "Authorization: Basic %s\r\n", token);
  CHECK(ask_for(web, "GET", "/stream", "localhost", more) == 403);
  snprintf(more, sizeof more, "Cookie: t=%s\r\n", token);
  CHECK(ask_for(web, "GET", "/stream", "localhost", more) == 403);
  snprintf(more, sizeof more, "/stream?t=%s", token);
  CHECK(ask_for(web, "GET", more, "localhost", "") == 403);
  mch_web_close(web);
}

static void test_two_servers(void) {
  struct mch_web *one = open_web(), *other = open_web();
  CHECK(strcmp(mch_web_token(one), mch_web_token(other)) != 0);
  CHECK(mch_web_port(one) != mch_web_port(other));
  CHECK(ask_for(one, "GET", "/stream", "localhost", authorization(other)) == 403);
  mch_web_close(one);
  mch_web_close(other);
}

static int open_stream(struct mch_web *web) {
  char request[256];
  int fd = connect_to(web);
  unsigned before = mch_web_viewers(web);
  snprintf(request, sizeof request, "GET /stream HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
           authorization(web));
  say(fd, request);
  for (int turns = 0; turns < 1000 && mch_web_viewers(web) == before; turns++)
    mch_web_serve(web, -1, 0.01);
  CHECK(mch_web_viewers(web) == before + 1);
  return fd;
}

static void test_streams(void) {
  struct mch_web *web = open_web();
  int first = open_stream(web), second;
  CHECK(mch_web_wanting(web) == 1);
  mch_web_publish(web, "early\n", 6, 0);
  CHECK(mch_web_wanting(web) == 1);
  mch_web_publish(web, "picture one\n", 12, 1);
  CHECK(mch_web_wanting(web) == 0);
  hear(web, first, "picture one\n");
  CHECK(!has("early"));
  CHECK(has("Content-Type: application/x-ndjson"));
  check_headers();
  second = open_stream(web);
  mch_web_publish(web, "news\n", 5, 0);
  mch_web_publish(web, "picture two\n", 12, 1);
  hear(web, first, "news\n");
  CHECK(!has("picture"));
  hear(web, second, "picture two\n");
  CHECK(!has("news"));
  mch_web_publish(web, "last\n", 5, 0);
  hear(web, first, "last\n");
  hear(web, second, "last\n");
  close(second);
  for (int turns = 0; turns < 1000 && mch_web_viewers(web) > 1; turns++) {
    mch_web_publish(web, "x\n", 2, 0);
    mch_web_serve(web, -1, 0.01);
  }
  CHECK(mch_web_viewers(web) == 1);
  mch_web_close(web);
  close(first);
}

/* A viewer that reads nothing gets no more than its share, and later a new snapshot; others do not
 * wait. */
static void test_slow_viewer(void) {
  static char bulk[1 << 14];
  struct mch_web *web = open_web();
  int slow = open_stream(web), fast;
  unsigned long taken = 0;
  int wanted = 0;
  memset(bulk, 'x', sizeof bulk - 1);
  bulk[sizeof bulk - 1] = '\n';
  mch_web_publish(web, "picture\n", 8, 1);
  fast = open_stream(web);
  mch_web_publish(web, "picture\n", 8, 1);
  hear(web, fast, "picture\n");
  for (int i = 0; i < 4000; i++) { /* 64 MiB */
    ssize_t count;
    mch_web_publish(web, bulk, sizeof bulk, 0);
    for (int turns = 0; turns < 2; turns++) {
      mch_web_serve(web, -1, 0);
      while ((count = read(fast, answer, sizeof answer)) > 0)
        taken += (unsigned long)count;
    }
    wanted += mch_web_wanting(web) > 0;
  }
  CHECK(wanted == 0); /* it has not read what it was sent */
  CHECK(taken > 4000ul * sizeof bulk - (1 << 20));
  for (int turns = 0; turns < 20000 && mch_web_wanting(web) == 0; turns++) {
    while (read(slow, answer, sizeof answer) > 0)
      ;
    mch_web_serve(web, slow, 0.001);
  }
  CHECK(mch_web_wanting(web) == 1);
  mch_web_publish(web, "new picture\n", 12, 1);
  hear(web, slow, "new picture\n");
  mch_web_close(web);
  close(slow);
  close(fast);
}

/* Ends of the other side at any moment, half requests and too many connections leave it well. */
static void test_rude_clients(void) {
  struct mch_web *web = open_web();
  int fds[200];
  static const char *const pieces[] = {"",
                                       "G",
                                       "GET / HTTP/1.1\r\n",
                                       "\r\n\r\n",
                                       "GET  \r\n\r\n",
                                       "\x16\x03\x01\x02",
                                       "GET / HTTP/9.9\r\nHost: x\r\n\r\n"};
  for (int i = 0; i < 200; i++) {
    fds[i] = connect_to(web);
    say(fds[i], pieces[(size_t)i % (sizeof pieces / sizeof *pieces)]);
    mch_web_serve(web, -1, 0);
  }
  for (int i = 0; i < 200; i++)
    close(fds[i]);
  for (int i = 0; i < 400; i++)
    mch_web_serve(web, -1, 0);
  CHECK(ask_for(web, "GET", "/", "localhost", "") == 200);
  close(open_stream(web));
  fds[0] = open_stream(web);
  mch_web_publish(web, "to be sent while it closes\n", 27, 1);
  mch_web_close(web);
  close(fds[0]);
}

static void test_farewell(void) {
  struct mch_web *web = open_web();
  int fd = open_stream(web), asleep = open_stream(web);
  mch_web_publish(web, "picture\n", 8, 1);
  hear(web, fd, "picture\n");
  mch_web_publish(web, "bye\n", 4, 0);
  mch_web_close(web);
  CHECK(fcntl(fd, F_SETFL, 0) == 0);
  CHECK(read(fd, answer, sizeof answer) > 4);
  CHECK(memcmp(answer, "4\r\nbye\n\r\n", 9) == 0);
  close(fd);
  close(asleep);
  mch_web_close(NULL);
}

int main(void) {
  test_files();
  test_hosts();
  test_methods();
  test_token();
  test_two_servers();
  test_streams();
  test_slow_viewer();
  test_rude_clients();
  test_farewell();
  return check_report();
}

#else

int main(void) {
  struct mch_web *web = NULL;
  struct mch_error error = {0};
  CHECK(mch_web_open(&web, NULL, 0, &error) < 0);
  CHECK(web == NULL && strstr(error.text, "libmicrohttpd-dev") != NULL);
  return check_report();
}

#endif
