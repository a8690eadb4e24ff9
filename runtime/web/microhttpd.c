/* Runs in: parent. Purpose: microhttpd.h. */
#include "runtime/web/microhttpd.h"

#ifdef MANTICHORA_MICROHTTPD

#include <dlfcn.h>
#include <string.h>

/* POSIX has a pointer to an object for a pointer to a function. */
static int find(void *library, const char *name, void *function, size_t size) {
  void *symbol = dlsym(library, name);
  if (symbol == NULL || size != sizeof symbol)
    return 0;
  memcpy(function, &symbol, sizeof symbol);
  return 1;
}

int mch_microhttpd_load(struct mch_microhttpd *functions, struct mch_error *error) {
  void *library = dlopen(MANTICHORA_MICROHTTPD, RTLD_NOW | RTLD_LOCAL);
  int fine;
  if (library == NULL)
    return mch_error_set(error, MCH_SYSTEM,
                         "the page needs the library %s, which cannot be loaded here; the package "
                         "libmicrohttpd12 of Debian has it",
                         MANTICHORA_MICROHTTPD);
  fine = 1;
#define FIND(name, result, arguments)                                                              \
  fine = fine && find(library, "MHD_" #name, &functions->name, sizeof functions->name);
  MCH_MICROHTTPD_FUNCTIONS(FIND)
#undef FIND
  if (!fine)
    return mch_error_set(error, MCH_SYSTEM,
                         "%s is too old for the page, which needs libmicrohttpd 0.9.64 or later",
                         MANTICHORA_MICROHTTPD);
  return 0;
}

#endif
