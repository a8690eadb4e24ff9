/* Runs in: parent. Purpose: key_library.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, which POSIX has since 2024 only */
#endif
#include "key_library.h"

#include <stddef.h>

#if (defined(__linux__) || defined(__APPLE__)) && !defined(MANTICHORA_PORTABLE)

#include <dlfcn.h>
#include <string.h>

const char *mch_key_library(void (*function)(void)) {
  Dl_info info;
  void *address;
  memcpy(&address, &function, sizeof address); /* the way that POSIX asks for */
  return dladdr(address, &info) != 0 ? info.dli_fname : NULL;
}

#else

const char *mch_key_library(void (*function)(void)) {
  (void)function;
  return NULL;
}

#endif
