/* Runs in: parent.
 *
 * Whether a journal may stand where it is to stand: it holds bytecode that found results run, so
 * nobody else may be able to write it. */
#ifndef MCH_PLACE_H
#define MCH_PLACE_H

#include "runtime/base/error.h"

/* Look at the file, what stands beside it and the folder that these are in. 0; or a code, with a
 * sentence that says who could write what. `folder`: where its large values are. */
int mch_place_check(const char *path, const char *folder, struct mch_error *error);

/* A file of large values, about to be read: 1 if it may be trusted. */
int mch_place_is_own(int fd);

/* Make the file if it is not there, so that nobody but its owner can read or write it. 0 or a code.
 */
int mch_place_make(const char *path, struct mch_error *error);

/* Whether the file is on a network's file system, where processes cannot share memory. */
int mch_place_is_remote(const char *path);

#endif
