/* Runs in: parent. Purpose: one JSON object a line, for programs; render.h.
 *
 *   {"event":"update","time":1700000000.123,"id":1,"name":"func1","done":28094,"total":39421,
 *    "elapsed":1.25,"runid":0,"task":"load"}
 *
 * A bar of the tasks of a pool has "running", "queued", "failed" and "cancelled" as well; one of
 * bytes has "unit", "B" or "iB".
 *
 * `event` is start, update or end; an end adds "state", a word of MCH_BAR_ENDS. `total` is null
 * when it is not known; `runid` and `task` are there for bars of tasks. Names are JSON strings of
 * valid UTF-8: bytes that are not are replaced by U+FFFD. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "jsontext.h"
#include "runtime/base/buf.h"

static void put(struct mch_buf *to, const char *text) {
  mch_jsontext_put(to, text);
}

static void put_count(struct mch_buf *to, const char *key, uint64_t value) {
  char text[64];
  if (value == MCH_BAR_UNKNOWN)
    snprintf(text, sizeof text, ",\"%s\":null", key);
  else
    snprintf(text, sizeof text, ",\"%s\":%" PRIu64, key, value);
  put(to, text);
}

/* Thousandths, put together from whole numbers: a decimal comma of the host's locale is not JSON.
 */
static void put_seconds(struct mch_buf *to, const char *key, uint64_t milliseconds) {
  char text[64];
  snprintf(text, sizeof text, ",\"%s\":%" PRIu64 ".%03u", key, milliseconds / 1000,
           (unsigned)(milliseconds % 1000));
  put(to, text);
}

static const char *event_word(enum mch_report_event event) {
  switch (event) {
  case MCH_REPORT_START:
    return "start";
  case MCH_REPORT_UPDATE:
    return "update";
  default:
    return "end";
  }
}

void mch_render_json(struct mch_buf *to, const struct mch_report *report, double when) {
  put(to, "{\"event\":\"");
  put(to, event_word(report->event));
  put(to, "\"");
  put_seconds(to, "time", (uint64_t)(when * 1000 + 0.5));
  put_count(to, "id", report->key);
  put(to, ",\"name\":");
  mch_jsontext_string(to, report->name, report->name_length);
  put_count(to, "done", report->done);
  put_count(to, "total", report->total);
  put_seconds(to, "elapsed", report->elapsed_ns / 1000000);
  if (report->of_tasks) {
    put_count(to, "running", report->running);
    put_count(to, "queued", mch_render_queued(report));
    put_count(to, "failed", report->failed);
    put_count(to, "cancelled", report->cancelled);
    if (report->found > 0)
      put_count(to, "found", report->found);
  }
  if (report->unit != MCH_UNIT_NONE) {
    put(to, ",\"unit\":\"");
    put(to, mch_bar_unit_word(report->unit));
    put(to, "\"");
  }
  if (report->runid >= 0)
    put_count(to, "runid", (uint64_t)report->runid);
  if (report->task != NULL) {
    put(to, ",\"task\":");
    mch_jsontext_string(to, report->task, report->task_length);
  }
  if (report->event == MCH_REPORT_END) {
    put(to, ",\"state\":\"");
    put(to, mch_bar_end_word(report->how));
    put(to, "\"");
  }
  put(to, "}\n");
}
