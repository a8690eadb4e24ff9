/* Runs in: both.
 *
 * A file of JSON that is one whole list at any moment: "[", an item a line, "]". What is appended
 * takes the place of spaces before the closing bracket; when they are used up, a copy with more of
 * them takes the place of the file. Processes that were forked from the one that opened it append
 * to it, too; if one of them is killed in the middle of a write, the next writer sees to what it
 * left. Knows nothing of what the items mean. */
#ifndef MCH_TRACEFILE_H
#define MCH_TRACEFILE_H

#include <pthread.h>
#include <stddef.h>

#include "runtime/base/error.h"

struct mch_tracefile;

/* The name with the process's number in the place of each "%p"; malloc()ed. NULL: no memory. */
char *mch_tracefile_name(const char *pattern);

/* Begin the file anew, with this as its first item, which no other run's file begins with. It is in
 * use until it is closed or the process ends. NULL: `error` says why: it is in use, or no file that
 * can be written. */
struct mch_tracefile *mch_tracefile_open(const char *path, const char *first,
                                         struct mch_error *error);

/* Append items, objects of JSON: each is preceded by ",\n", and a zero follows the last. 0;
 * MCH_FULL: another process writes, nothing was written, try again; or a code with `error`: it is
 * whole, and nothing will be written any more. `patience`: nanoseconds to wait for others. One
 * thread at a time. */
int mch_tracefile_append(struct mch_tracefile *file, const void *items, size_t length,
                         size_t patience, struct mch_error *error);

/* Let no spaces stay behind the last item. In the process that opened it. */
void mch_tracefile_trim(struct mch_tracefile *file);

/* In a fork: append to what the parent has opened; what is closed here stays open there. */
void mch_tracefile_inherit(struct mch_tracefile *file);

/* Free it. NULL: nothing. */
void mch_tracefile_close(struct mch_tracefile *file);

#endif
