/* Runs in: mantichora-amqp.
 *
 * The site key: 32 random bytes that all who may send tasks, and all who run them, have in a file
 * of their own that nobody else can read. */
#ifndef MCH_KEY_H
#define MCH_KEY_H

#include <stddef.h>

#include "runtime/base/error.h"
#include "seal.h"

/* The file: `given`, or MANTICHORA_KEY_FILE, or ~/.config/mantichora/key. 0 or an error. */
int mch_key_path(const char *given, char *path, size_t room, struct mch_error *error);

/* Make a new key in a file that does not exist yet (its folder is made). 0 or an error. */
int mch_key_new(const char *path, struct mch_error *error);

int mch_key_read(const char *path, unsigned char key[MCH_KEY_SIZE], struct mch_error *error);

/* A small file that nobody but its owner may read, as text without its last newline. 1: here it is;
 * 0: there is none; or an error. */
int mch_key_read_private(const char *path, char *text, size_t room, struct mch_error *error);

/* A path in the user's folder of settings. */
int mch_key_settings(const char *name, char *path, size_t room, struct mch_error *error);

#endif
