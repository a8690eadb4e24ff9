/* Runs in: parent. Purpose: orders.h. */
#include "orders.h"

#include <string.h>

enum { DEEPEST = 16, LONGEST_ID = 64 };

struct reading {
  const char *at, *end;
};

struct token {
  const char *text; /* as it stands; of a string without its quotes */
  size_t length;
  int is_string, is_number;
};

static int peek(const struct reading *r) {
  return r->at < r->end ? (unsigned char)*r->at : -1;
}

static void skip_space(struct reading *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r' || *r->at == '\n'))
    r->at++;
}

static int take(struct reading *r, int byte) {
  skip_space(r);
  if (peek(r) != byte)
    return 0;
  r->at++;
  return 1;
}

static int read_string(struct reading *r, struct token *token) {
  token->is_string = 1;
  token->text = ++r->at;
  while (r->at < r->end && *r->at != '"' && (unsigned char)*r->at >= ' ')
    r->at += *r->at == '\\' && r->at + 1 < r->end ? 2 : 1;
  if (peek(r) != '"')
    return 0;
  token->length = (size_t)(r->at++ - token->text);
  return 1;
}

/* A number, true, false or null. */
static int read_plain(struct reading *r, struct token *token) {
  token->text = r->at;
  token->is_number = peek(r) == '-' || (peek(r) >= '0' && peek(r) <= '9');
  while (r->at < r->end &&
         (strchr("+-.", *r->at) != NULL || (*r->at >= '0' && *r->at <= '9') ||
          (*r->at >= 'a' && *r->at <= 'z') || *r->at == 'E') &&
         *r->at != '\0')
    r->at++;
  token->length = (size_t)(r->at - token->text);
  return token->length > 0;
}

/* Lists and objects are passed over. */
static int skip_nested(struct reading *r) {
  struct token inner;
  int depth = 0;
  do {
    int byte = peek(r);
    if (byte < 0)
      return 0;
    if (byte == '"') {
      if (!read_string(r, &inner))
        return 0;
      continue;
    }
    depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
    r->at++;
  } while (depth > 0 && depth <= DEEPEST);
  return depth == 0;
}

static int read_value(struct reading *r, struct token *token) {
  memset(token, 0, sizeof *token);
  skip_space(r);
  if (peek(r) == '"')
    return read_string(r, token);
  return peek(r) == '{' || peek(r) == '[' ? skip_nested(r) : read_plain(r, token);
}

static int is(const struct token *token, const char *word) {
  return token->is_string && token->length == strlen(word) &&
         memcmp(token->text, word, token->length) == 0;
}

/* A whole number that is not negative, else UINT64_MAX. */
static uint64_t number_of(const struct token *token) {
  uint64_t number = 0;
  size_t i;
  if (!token->is_number || token->length > 19)
    return UINT64_MAX;
  for (i = 0; i < token->length; i++) {
    if (token->text[i] < '0' || token->text[i] > '9')
      return UINT64_MAX;
    number = number * 10 + (uint64_t)(token->text[i] - '0');
  }
  return number;
}

static enum mch_order order_of(const struct token *token) {
  if (is(token, "pause"))
    return MCH_ORDER_PAUSE;
  if (is(token, "resume"))
    return MCH_ORDER_RESUME;
  if (is(token, "cancel"))
    return MCH_ORDER_CANCEL;
  return is(token, "workers") ? MCH_ORDER_WORKERS : MCH_ORDER_NONE;
}

static void note(struct mch_request *request, const struct token *key, const struct token *value) {
  if (is(key, "command"))
    request->order = order_of(value);
  else if (is(key, "pool"))
    request->pool = number_of(value);
  else if (is(key, "runid"))
    request->runid = number_of(value);
  else if (is(key, "n"))
    request->number = number_of(value);
  else if (is(key, "id") && value->length <= LONGEST_ID && (value->is_string || value->is_number)) {
    request->id = value->text - value->is_string;
    request->id_length = value->length + (value->is_string ? 2 : 0);
  }
}

int mch_orders_read(const char *line, size_t length, struct mch_request *request) {
  struct reading r = {line, line + length};
  struct token key, value;
  memset(request, 0, sizeof *request);
  request->pool = request->runid = request->number = UINT64_MAX;
  if (!take(&r, '{'))
    return 0;
  if (take(&r, '}'))
    return 1;
  do {
    skip_space(&r);
    if (!read_value(&r, &key) || !key.is_string || !take(&r, ':') || !read_value(&r, &value))
      return 0;
    note(request, &key, &value);
  } while (take(&r, ','));
  return take(&r, '}') && (skip_space(&r), r.at == r.end);
}
