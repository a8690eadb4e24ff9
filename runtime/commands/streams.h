/* Runs in: both.
 *
 * Files without a name that stand in the place of a worker's stdout and stderr. The parent makes
 * them before the fork and reads in them at any time: what was said is there even if the worker
 * dies. */
#ifndef MCH_STREAMS_H
#define MCH_STREAMS_H

#include <stddef.h>
#include <sys/types.h>

struct mch_streams {
  int out, err; /* the same file if stdout and stderr are the same here; -1: none */
};

void mch_streams_init(struct mch_streams *streams);

/* Make them. 0, or errno. */
int mch_streams_open(struct mch_streams *streams);

/* From now on this process's stdout and stderr are these files. 0, or errno. */
int mch_streams_take(const struct mch_streams *streams);

/* Whether both are one file. */
int mch_streams_are_one(const struct mch_streams *streams);

/* Bytes of stdout (`which` is 1) or stderr (2) from an offset; 0 bytes at the end. -1: errno. */
ssize_t mch_streams_get(const struct mch_streams *streams, int which, off_t offset, char *to,
                        size_t size);

void mch_streams_close(struct mch_streams *streams);

#endif
