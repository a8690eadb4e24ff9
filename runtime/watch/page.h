/* Runs in: parent.
 *
 * What a report's file is made of: its page, put together by runtime/report.cmake, with what was
 * gathered as JSON in it. */
#ifndef MCH_PAGE_H
#define MCH_PAGE_H

#include "gathering.h"

/* The page before and behind the data; made at build time. */
extern const unsigned char mch_page_head[], mch_page_tail[];
extern const size_t mch_page_head_length, mch_page_tail_length;

/* What the run is called. */
struct mch_page_run {
  const char *script, *version;
  int pid;
  int over;              /* the script has ended */
  uint64_t started, now; /* mch_now() */
  double begin, written; /* seconds since 1970 */
};

/* Append the data; see scripts/web/report/report.js for what it looks like. */
void mch_page_data(struct mch_buf *to, const struct mch_gathering *all,
                   const struct mch_page_run *run);

#endif
