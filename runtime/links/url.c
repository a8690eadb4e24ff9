/* Runs in: both. Purpose: url.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "url.h"

#include <stdlib.h>
#include <string.h>

int mch_url_is_broker(const char *text) {
  return strncmp(text, "amqp://", 7) == 0 || strncmp(text, "amqps://", 8) == 0;
}

static int hex(char digit) {
  if (digit >= '0' && digit <= '9')
    return digit - '0';
  digit = (char)(digit | 0x20);
  return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Copy a part without its %XX. 0, or -1: it is wrong or does not fit. */
static int copy_part(char *to, size_t room, const char *from, size_t length) {
  size_t i, n = 0;
  for (i = 0; i < length; i++, n++) {
    char byte = from[i];
    if (byte == '%') {
      if (length - i < 3 || hex(from[i + 1]) < 0 || hex(from[i + 2]) < 0)
        return -1;
      byte = (char)(hex(from[i + 1]) * 16 + hex(from[i + 2]));
      i += 2;
    }
    if (n + 1 >= room || (unsigned char)byte < ' ' || byte == 0x7f)
      return -1;
    to[n] = byte;
  }
  to[n] = '\0';
  return 0;
}

/* Whether this begins like a host and its port, and not like a user and a password with a slash. */
static int has_port(const char *start, const char *end) {
  const char *colon = *start == '[' ? NULL : memchr(start, ':', (size_t)(end - start));
  return colon == NULL || strspn(colon + 1, "0123456789") == (size_t)(end - colon - 1);
}

/* Where the host begins: behind the last @ before the name. */
static const char *host_of(const char *text) {
  const char *start = strstr(text, "://"), *end, *at, *host;
  if (start == NULL)
    return text;
  host = start += 3;
  end = start + strcspn(start, "/");
  if (memchr(start, '@', (size_t)(end - start)) == NULL && !has_port(start, end))
    end = start + strlen(start);
  for (at = start; at < end; at++)
    if (*at == '@')
      host = at + 1;
  return host;
}

char *mch_url_split(char *url) {
  char *host = url + (host_of(url) - url), *start = strstr(url, "://"), *colon, *password;
  size_t length;
  if (start == NULL || host == start + 3)
    return NULL;
  colon = memchr(start + 3, ':', (size_t)(host - start - 3));
  if (colon == NULL)
    return NULL;
  length = (size_t)(host - 1 - (colon + 1));
  password = malloc(length + 1);
  if (password != NULL && copy_part(password, length + 1, colon + 1, length) != 0) {
    memcpy(password, colon + 1, length); /* as it stands */
    password[length] = '\0';
  }
  memmove(colon, host - 1, strlen(host - 1) + 1);
  return password;
}

/* Shows nothing that stands before the host: it may be a password in a wrong place. */
static int wrong(struct mch_error *error, const char *text, const char *why) {
  const char *at = strrchr(text, '@');
  return mch_error_set(error, MCH_LIMIT, "'%s%.100s' is no URL of a broker: %s",
                       at == NULL ? "" : "...", at == NULL ? text : at, why);
}

static int is_host(const char *text) {
  return *text != '\0' && *text != '-' &&
         strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:") ==
             strlen(text);
}

/* host[:port] up to `end`. */
static int parse_host(struct mch_url *url, const char *at, const char *end) {
  const char *close = *at == '[' ? memchr(at, ']', (size_t)(end - at)) : NULL;
  const char *colon =
      memchr(close == NULL ? at : close, ':', (size_t)(end - (close == NULL ? at : close)));
  const char *stop = close != NULL ? close : colon != NULL ? colon : end;
  if (close != NULL)
    at++;
  if (copy_part(url->host, sizeof url->host, at, (size_t)(stop - at)) != 0 || !is_host(url->host))
    return -1;
  if (close != NULL && close + 1 != end && colon != close + 1)
    return -1;
  url->port = url->tls ? 5671 : 5672;
  if (colon == NULL)
    return 0;
  url->port = 0;
  for (at = colon + 1; at < end; at++) {
    if (*at < '0' || *at > '9' || url->port > 65535)
      return -1;
    url->port = url->port * 10 + (*at - '0');
  }
  return url->port > 0 && url->port <= 65535 ? 0 : -1;
}

int mch_url_parse(struct mch_url *url, const char *text, struct mch_error *error) {
  const char *start, *host = host_of(text), *end = host + strcspn(host, "/");
  memset(url, 0, sizeof *url);
  if (!mch_url_is_broker(text))
    return wrong(error, text, "it begins with amqp:// or amqps://");
  url->tls = text[4] == 's';
  start = strstr(text, "://") + 3;
  if (host > start &&
      copy_part(url->user, sizeof url->user, start, (size_t)(host - 1 - start)) != 0)
    return wrong(error, text, "its user is not right");
  if (parse_host(url, host, end) != 0)
    return wrong(error, text, "its host or port is not right");
  if (*end == '/' && copy_part(url->name, sizeof url->name, end + 1, strlen(end + 1)) != 0)
    return wrong(error, text, "its name behind the host is not right");
  if (strpbrk(url->name, "/?#") != NULL && *end == '/' && strpbrk(end + 1, "/?#") != NULL)
    return wrong(error, text, "nothing may stand behind its name");
  return 0;
}

int mch_url_is_loopback(const struct mch_url *url) {
  return strcmp(url->host, "localhost") == 0 || strcmp(url->host, "::1") == 0 ||
         (strncmp(url->host, "127.", 4) == 0 &&
          strspn(url->host, "0123456789.") == strlen(url->host));
}
