/* Runs in: both.
 *
 * All of a read or a write of a file: a signal does not end it, nor does the kernel's taking it in
 * parts. They block. */
#ifndef MCH_FILE_H
#define MCH_FILE_H

#include <stddef.h>
#include <sys/types.h>

/* Where the descriptor stands, which moves on. */
enum { MCH_FILE_HERE = -1 };

/* open(2), closed on exec, and none of the standard descriptors. -1: errno says why. */
int mch_file_open(const char *path, int flags, mode_t mode);

/* Write all of it at this place. 0, or errno: some of it may have been written then. */
int mch_file_write(int fd, const void *bytes, size_t length, off_t at);

/* Read so much, or less if the file ends before: how much. -1: errno says why. */
ssize_t mch_file_read(int fd, void *to, size_t length);

#endif
