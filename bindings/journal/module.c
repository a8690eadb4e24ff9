/* Runs in: both.
 *
 * luaopen_mantichora_journal: registration and nothing else. */
#include "hash.h"
#include "journal.h"
#include "key.h"
#include "runtime/mantichora.h"

#include <lauxlib.h>

int luaopen_mantichora_journal(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"key", mch_key_lua},
      {"difference", mch_key_difference_lua},
      {NULL, NULL},
  };
  if (mch_hash_open() != 0)
    return luaL_error(L, "libsodium cannot be used on this machine");
  luaL_newlib(L, functions);
  mch_journal_register(L);
  return 1;
}
