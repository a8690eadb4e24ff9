/* Runs in: parent. Purpose: plain lines, where there is no terminal; render.h. */
#include "render.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/base/decimal.h"
#include "width.h"

static void put_name(struct mch_buf *to, const struct mch_report *report) {
  char mark[MCH_MARK_MOST];
  size_t length = mch_render_mark(mark, report, SIZE_MAX);
  mch_width_put(to, report->name, report->name_length, SIZE_MAX);
  mch_buf_append(to, mark, length);
  mch_buf_u8(to, '\n');
}

/* Without a total: count and rate. */
void mch_render_text(struct mch_buf *to, const struct mch_report *report, const struct tm *when) {
  char text[160], rate[32], percent[MCH_DECIMAL_ROOM], done[MCH_COUNT_MOST], total[MCH_COUNT_MOST];
  size_t length = strftime(text, sizeof text, "%m/%d %H:%M", when);
  mch_render_count(done, report->unit, report->done);
  if (mch_render_is_open(report)) {
    mch_render_rate(rate, sizeof rate, report);
    snprintf(text + length, sizeof text - length, " : %8s (%s): ", done, rate);
  } else {
    mch_render_count(total, report->unit, report->total);
    mch_decimal_fixed(percent, mch_render_percent(report->done, report->total), 2);
    snprintf(text + length, sizeof text - length, " : %8s / %8s (%6.6s%%): ", done, total, percent);
  }
  mch_buf_append(to, text, strlen(text));
  put_name(to, report);
}
