/* The Lua parts are inside, byte for byte, and nothing else is. */
#include "bindings/embedded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                      \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static void same_as_file(const struct mch_embedded *part, const char *path) {
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL);
  for (size_t i = 0; i < part->length; i++)
    CHECK(fgetc(file) == part->bytes[i]);
  CHECK(fgetc(file) == EOF);
  fclose(file);
}

int main(void) {
  const struct mch_embedded *part = mch_embedded_find("mantichora.logging");
  CHECK(part != NULL);
  CHECK(strcmp(part->name, "mantichora.logging") == 0);
  CHECK(strcmp(part->chunkname, "@mantichora/logging.lua") == 0);
  CHECK(part->length > 0);
  same_as_file(part, "scripts/mantichora/logging.lua");
  CHECK(mch_embedded_find("mantichora") == NULL);
  CHECK(mch_embedded_find("mantichora.loggin") == NULL);
  CHECK(mch_embedded_find("") == NULL);
  return 0;
}
