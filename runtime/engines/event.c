/* Runs in: parent. Purpose: event.h. */
#include "event.h"

#include <stdlib.h>

#include "task.h"

void mch_event_clear(struct mch_event *event) {
  mch_task_free(event->about);
  free(event->values);
  event->about = NULL;
  event->values = NULL;
}

const char *mch_event_word(enum mch_event_type type) {
  static const char *const words[] = {
#define MCH_EVENT_WORD(name, word, fields) word,
      MCH_EVENTS(MCH_EVENT_WORD)
#undef MCH_EVENT_WORD
  };
  return words[type];
}

const char *mch_kind_word(enum mch_kind kind) {
  static const char *const words[] = {
#define MCH_KIND_WORD(name, word) word,
      MCH_KINDS(MCH_KIND_WORD)
#undef MCH_KIND_WORD
  };
  return words[kind];
}
