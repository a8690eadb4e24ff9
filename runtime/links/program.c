/* Runs in: both. Purpose: program.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "program.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/process.h"

/* Whether `program` stands in the folder of `file`, or by this way from there. */
static int is_near(const char *file, const char *way, const char *program, char *room,
                   size_t size) {
  const char *slash = strrchr(file, '/');
  int length;
  if (slash == NULL)
    return 0;
  length = snprintf(room, size, "%.*s/%s%s", (int)(slash - file), file, way, program);
  return length > 0 && (size_t)length < size && access(room, X_OK) == 0;
}

const char *mch_link_find(const char *program, char *room, size_t size) {
  char file[4096];
  /* PREFIX/lib/lua/5.4/mantichora.so, build/lua/mantichora.so, PREFIX/lib/libmantichora.so */
  static const char *const ways[] = {"../../../bin/", "../bin/", "../../bin/"};
  size_t i;
  if (mch_process_program(file, sizeof file) == 0 && is_near(file, "", program, room, size))
    return room;
  if (mch_process_own_file(file, sizeof file) == 0)
    for (i = 0; i < sizeof ways / sizeof *ways; i++)
      if (is_near(file, ways[i], program, room, size))
        return room;
  snprintf(room, size, "%s", program);
  return room;
}

void mch_link_become(const char *program, char **words) {
  char path[4096];
  words[0] = (char *)(uintptr_t)mch_link_find(program, path, sizeof path);
  execvp(words[0], words);
}
