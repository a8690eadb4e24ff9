/* Runs in: parent.
 *
 * Which file a function in C comes from, where the system can say so. */
#ifndef MCH_KEY_LIBRARY_H
#define MCH_KEY_LIBRARY_H

/* The path of the library or program that has this function, or NULL. The loader's memory. */
const char *mch_key_library(void (*function)(void));

#endif
