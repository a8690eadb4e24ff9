/* Runs in: parent.
 *
 * What a viewer asks for: one line of JSON, an object whose field `command` is a word. Lines come
 * from somebody else, and anything may stand in them. */
#ifndef MCH_ORDERS_H
#define MCH_ORDERS_H

#include <stddef.h>
#include <stdint.h>

enum mch_order {
  MCH_ORDER_NONE,
  MCH_ORDER_PAUSE,
  MCH_ORDER_RESUME,
  MCH_ORDER_CANCEL,
  MCH_ORDER_WORKERS
};

struct mch_request {
  enum mch_order order;         /* NONE: not one that is known */
  uint64_t pool, runid, number; /* UINT64_MAX: not given */
  const char *id;               /* JSON inside of the line: a number or string; NULL: none */
  size_t id_length;
};

/* 0: it is no JSON object. */
int mch_orders_read(const char *line, size_t length, struct mch_request *request);

#endif
