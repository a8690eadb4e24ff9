/* Runs in: both.
 *
 * Where the programs of ours are. */
#ifndef MCH_PROGRAM_H
#define MCH_PROGRAM_H

#include <stddef.h>

/* The path of a program of ours, which stands beside the running program or belongs to the module
 * or library that this code is in; else its bare name, to be found along PATH. Written into `room`.
 */
const char *mch_link_find(const char *program, char *room, size_t size);

/* Become that program, with these words (NULL behind the last), the first of which is replaced.
 * Only returns if that fails, with errno set. */
void mch_link_become(const char *program, char **words);

#endif
