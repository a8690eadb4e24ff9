/* Runs in: both. The codec for specs, see codec_module.c. */
#ifndef CODEC_MODULE_H
#define CODEC_MODULE_H

#include <lua.h>

__attribute__((visibility("default"))) int luaopen_codec_module(lua_State *L);

#endif
