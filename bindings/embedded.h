/* Runs in: both.
 *
 * The Lua parts of mantichora, the files of scripts/mantichora, embedded as bytes. */
#ifndef MCH_EMBEDDED_H
#define MCH_EMBEDDED_H

#include <stddef.h>

struct mch_embedded {
  const char *name;           /* as for require: "mantichora.logging" */
  const char *chunkname;      /* as for luaL_loadbuffer: "@mantichora/logging.lua" */
  const unsigned char *bytes; /* the source text */
  size_t length;              /* in bytes */
};

/* The part with this name, or NULL. It lives as long as the program. */
const struct mch_embedded *mch_embedded_find(const char *name);

#endif
