/* mantichora: runs Lua functions concurrently in background processes.
 *
 * The library links no Lua: it uses the Lua 5.4 of the program that it is part of. */
#ifndef MANTICHORA_H
#define MANTICHORA_H

#if defined(__GNUC__)
#define MANTICHORA_API __attribute__((visibility("default")))
#else
#define MANTICHORA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;

/* Open the module in a Lua state, as `require "mantichora"` does:
 *
 *     luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
 *     lua_pop(L, 1);
 *
 * Afterwards scripts may also require "mantichora.atpbar" and "mantichora.logging". Makes no
 * process and no thread; does not block. May raise a memory error. Any number of states may have
 * it. */
MANTICHORA_API int luaopen_mantichora(struct lua_State *L);

/* The parts, for `require "mantichora.atpbar"` and `require "mantichora.logging"`. */
MANTICHORA_API int luaopen_mantichora_atpbar(struct lua_State *L);
MANTICHORA_API int luaopen_mantichora_logging(struct lua_State *L);

/* Internal: what mantichora.logging needs of the runtime. */
MANTICHORA_API int luaopen_mantichora_report(struct lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
