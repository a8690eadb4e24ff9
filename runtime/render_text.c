/* Runs in: parent. Purpose: plain lines, where there is no terminal; render.h. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "width.h"

static void put_name(struct mch_buf *to, const struct mch_report *report) {
  char mark[MCH_MARK_MOST];
  size_t length = mch_render_mark(mark, report, SIZE_MAX);
  mch_width_put(to, report->name, report->name_length, SIZE_MAX);
  mch_buf_append(to, mark, length);
  mch_buf_u8(to, '\n');
}

void mch_render_text(struct mch_buf *to, const struct mch_report *report, const struct tm *when) {
  char text[128];
  double percent = mch_render_percent(report->done, report->total);
  size_t length = strftime(text, sizeof text, "%m/%d %H:%M", when);
  if (percent < 0)
    snprintf(text + length, sizeof text - length, " : %8" PRIu64 " / %8s (%6s%%): ", report->done,
             "?", "?");
  else
    snprintf(text + length, sizeof text - length,
             " : %8" PRIu64 " / %8" PRIu64 " (%6.2f%%): ", report->done, report->total, percent);
  mch_buf_append(to, text, strlen(text));
  put_name(to, report);
}
