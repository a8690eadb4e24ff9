/* Runs in: both. Purpose: bytecode.h. */
#include "bytecode.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

/* Instructions of Lua 5.4 that touch an upvalue or a key for one. */
enum {
  OP_LOADK = 3,
  OP_LOADKX = 4,
  OP_GETUPVAL = 9,
  OP_SETUPVAL = 10,
  OP_GETTABUP = 11,
  OP_GETTABLE = 12,
  OP_SETTABUP = 15,
  OP_SETTABLE = 16,
  OP_JMP = 56,
  OP_CALL = 68,
  OP_EXTRAARG = 82
};

enum { MOST_NESTED = 250, NOT_WANTED = -1 };

struct constant {
  const char *string; /* NULL: not a string */
  size_t length;
};

struct reading {
  lua_State *L;
  const unsigned char *at, *end;
  int bad;
  int uses;    /* stack index of the result */
  int nested;  /* functions around the one at hand */
  int assigns; /* an upvalue of the outermost function is assigned to */
  struct mch_bytecode_parts parts;
};

/* One function of the dump. */
struct proto {
  const unsigned char *code;
  size_t instructions;
  const struct constant *constants;
  size_t constant_count;
  int outer[256]; /* its upvalues as those of the outermost function, or NOT_WANTED */
  int upvalues;
};

/* ---- the format ---- */

static const unsigned char *take(struct reading *r, size_t count) {
  const unsigned char *bytes = r->at;
  if (r->bad || count > (size_t)(r->end - r->at)) {
    r->bad = 1;
    return NULL;
  }
  r->at += count;
  return bytes;
}

static unsigned take_byte(struct reading *r) {
  const unsigned char *byte = take(r, 1);
  return byte != NULL ? *byte : 0;
}

/* Groups of seven bits, the highest first; the last one is marked. */
static size_t take_size(struct reading *r) {
  size_t value = 0;
  unsigned byte;
  do {
    byte = take_byte(r);
    if (r->bad || value > SIZE_MAX >> 7) {
      r->bad = 1;
      return 0;
    }
    value = value << 7 | (byte & 0x7f);
  } while ((byte & 0x80) == 0);
  return value;
}

static struct constant take_string(struct reading *r) {
  struct constant string = {NULL, 0};
  size_t size = take_size(r);
  if (size > 0) {
    string.length = size - 1;
    string.string = (const char *)take(r, string.length);
  }
  return string;
}

/* A count of things of which each takes at least `size` bytes. */
static size_t take_count(struct reading *r, size_t size) {
  size_t count = take_size(r);
  if (r->bad || count > (size_t)(r->end - r->at) / size) {
    r->bad = 1;
    return 0;
  }
  return count;
}

static void check_header(struct reading *r) {
  static const char start[] = LUA_SIGNATURE "\x54\x00\x19\x93\r\n\x1a\n\x04";
  const lua_Integer integer = 0x5678;
  const lua_Number number = 370.5;
  const unsigned char *bytes = take(r, sizeof start - 1);
  if (bytes == NULL || memcmp(bytes, start, sizeof start - 1) != 0 ||
      take_byte(r) != sizeof integer || take_byte(r) != sizeof number) {
    r->bad = 1;
    return;
  }
  bytes = take(r, sizeof integer + sizeof number);
  if (bytes == NULL || memcmp(bytes, &integer, sizeof integer) != 0 ||
      memcmp(bytes + sizeof integer, &number, sizeof number) != 0)
    r->bad = 1;
}

/* Leaves the memory of the constants on the stack. */
static void take_constants(struct reading *r, struct proto *proto) {
  enum { NIL = 0x00, FALSE = 0x01, TRUE = 0x11, INTEGER = 0x03, FLOAT = 0x13 };
  enum { SHORT_STRING = 0x04, LONG_STRING = 0x14 };
  struct constant *constants;
  size_t i;
  proto->constant_count = take_count(r, 1);
  constants = lua_newuserdatauv(r->L, proto->constant_count * sizeof *constants, 0);
  proto->constants = constants;
  for (i = 0; i < proto->constant_count; i++) {
    constants[i].string = NULL;
    switch (take_byte(r)) {
    case NIL:
    case FALSE:
    case TRUE:
      break;
    case INTEGER:
      take(r, sizeof(lua_Integer));
      break;
    case FLOAT:
      take(r, sizeof(lua_Number));
      break;
    case SHORT_STRING:
    case LONG_STRING:
      constants[i] = take_string(r);
      break;
    default:
      r->bad = 1;
    }
  }
}

/* Where the upvalues of an inner function come from. */
static void take_upvalues(struct reading *r, struct proto *proto, const struct proto *parent) {
  size_t count = take_count(r, 3), i;
  const unsigned char *of = take(r, count * 3);
  if (r->bad || count > 255) {
    r->bad = 1;
    return;
  }
  if (parent != NULL)
    for (i = 0; i < count; i++)
      proto->outer[i] = of[3 * i] == 0 && of[3 * i + 1] < parent->upvalues
                            ? parent->outer[of[3 * i + 1]]
                            : NOT_WANTED;
  else if (count != (size_t)proto->upvalues)
    r->bad = 1;
  proto->upvalues = (int)count;
}

static void skip_debug(struct reading *r) {
  size_t i, count;
  take(r, take_count(r, 1)); /* line differences */
  count = take_count(r, 2);
  for (i = 0; i < count && !r->bad; i++) {
    take_size(r);
    take_size(r);
  }
  count = take_count(r, 3);
  for (i = 0; i < count && !r->bad; i++) { /* local variables */
    take_string(r);
    take_size(r);
    take_size(r);
  }
  count = take_count(r, 1);
  for (i = 0; i < count && !r->bad; i++) /* names of upvalues */
    take_string(r);
}

/* ---- the instructions ---- */

static uint32_t instruction(const struct proto *proto, size_t pc) {
  uint32_t word;
  memcpy(&word, proto->code + 4 * pc, sizeof word);
  return word;
}

#define OP(i) ((i)&0x7f)
#define ARG_A(i) ((i) >> 7 & 0xff)
#define ARG_B(i) ((i) >> 16 & 0xff)
#define ARG_C(i) ((i) >> 24)
#define ARG_BX(i) ((i) >> 15)
#define ARG_AX(i) ((i) >> 7)

static int is_wanted(const struct proto *proto, uint32_t upvalue) {
  return upvalue < (uint32_t)proto->upvalues && proto->outer[upvalue] != NOT_WANTED;
}

/* Push what is known about the use of an upvalue. */
static void push_use(struct reading *r, const struct proto *proto, uint32_t upvalue) {
  lua_State *L = r->L;
  int i = proto->outer[upvalue] + 1;
  if (lua_rawgeti(L, r->uses, i) != LUA_TNIL)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawseti(L, r->uses, i);
}

static void add_name(struct reading *r, const struct proto *proto, uint32_t upvalue,
                     size_t constant) {
  lua_State *L = r->L;
  int top = lua_gettop(L);
  if (constant >= proto->constant_count || proto->constants[constant].string == NULL) {
    r->bad = 1;
    return;
  }
  push_use(r, proto, upvalue);
  lua_pushlstring(L, proto->constants[constant].string, proto->constants[constant].length);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, top + 1) == LUA_TNIL) {
    lua_pushvalue(L, top + 2);
    lua_rawseti(L, top + 1, (lua_Integer)lua_rawlen(L, top + 1) + 1);
    lua_pushvalue(L, top + 2);
    lua_pushboolean(L, 1);
    lua_rawset(L, top + 1);
  }
  lua_settop(L, top);
}

/* `whole` is kept at index 0, out of the way of a name like "whole". */
static void add_whole(struct reading *r, const struct proto *proto, uint32_t upvalue) {
  push_use(r, proto, upvalue);
  lua_pushboolean(r->L, 1);
  lua_rawseti(r->L, -2, 0);
  lua_pop(r->L, 1);
}

/* Is there an instruction behind `pc` that stores to the key in register `key` of the table in
 * register `table`, before either is used for something else? */
static int is_stored(const struct proto *proto, size_t pc, uint32_t table, uint32_t key) {
  for (; pc < proto->instructions; pc++) {
    uint32_t i = instruction(proto, pc), a = ARG_A(i);
    switch (OP(i)) {
    case OP_SETTABLE:
      if (a == table && ARG_B(i) == key)
        return 1;
      break;
    case OP_JMP:
    case OP_EXTRAARG:
    case OP_SETTABUP: /* no register in A */
      continue;
    case OP_CALL:
      if (a <= key)
        return 0;
      continue;
    default:
      break;
    }
    if (a == table || a == key)
      return 0;
  }
  return 0;
}

/* The instruction at `pc` takes a wanted upvalue to a register: to index it with a constant (which
 * does not fit into the instruction), or for some other purpose? */
static void follow_upvalue(struct reading *r, const struct proto *proto, size_t pc) {
  uint32_t i = instruction(proto, pc), table = ARG_A(i), upvalue = ARG_B(i), load, key, next;
  size_t constant, after = pc + 2;
  if (after >= proto->instructions) {
    add_whole(r, proto, upvalue);
    return;
  }
  load = instruction(proto, pc + 1);
  key = ARG_A(load);
  constant = ARG_BX(load);
  if (OP(load) == OP_LOADKX)
    constant = ARG_AX(instruction(proto, after++));
  if ((OP(load) != OP_LOADK && OP(load) != OP_LOADKX) || after >= proto->instructions ||
      constant >= proto->constant_count || proto->constants[constant].string == NULL) {
    add_whole(r, proto, upvalue);
    return;
  }
  next = instruction(proto, after);
  add_name(r, proto, upvalue, constant);
  if (!(OP(next) == OP_GETTABLE && ARG_B(next) == table && ARG_C(next) == key) &&
      !is_stored(proto, after, table, key))
    add_whole(r, proto, upvalue);
}

static void follow_code(struct reading *r, const struct proto *proto) {
  size_t pc;
  for (pc = 0; pc < proto->instructions && !r->bad; pc++) {
    uint32_t i = instruction(proto, pc);
    switch (OP(i)) {
    case OP_GETTABUP:
      if (is_wanted(proto, ARG_B(i)))
        add_name(r, proto, ARG_B(i), ARG_C(i));
      break;
    case OP_SETTABUP:
      if (is_wanted(proto, ARG_A(i)))
        add_name(r, proto, ARG_A(i), ARG_B(i));
      break;
    case OP_GETUPVAL:
      if (is_wanted(proto, ARG_B(i)))
        follow_upvalue(r, proto, pc);
      break;
    case OP_SETUPVAL:
      if (is_wanted(proto, ARG_B(i)))
        r->assigns = 1;
      break;
    default:
      break;
    }
  }
}

/* ---- the functions ---- */

static void read_function(struct reading *r, struct proto *proto, const struct proto *parent) {
  int top = lua_gettop(r->L), depth = r->nested;
  struct mch_bytecode_part function = {r->at, NULL}, upvalues;
  size_t count, i;
  luaL_checkstack(r->L, 10, NULL);
  if (++r->nested > MOST_NESTED)
    r->bad = 1;
  take_string(r); /* source */
  take_size(r);   /* first and last line */
  take_size(r);
  take(r, 3); /* parameters, varargs, stack size */
  proto->instructions = take_count(r, 4);
  proto->code = take(r, proto->instructions * 4);
  take_constants(r, proto);
  upvalues.from = r->at;
  take_upvalues(r, proto, parent);
  upvalues.to = r->at;
  count = take_count(r, 1);
  for (i = 0; i < count && !r->bad; i++) {
    struct proto inner;
    read_function(r, &inner, proto);
  }
  skip_debug(r);
  function.to = r->at;
  if (!r->bad)
    follow_code(r, proto);
  if (depth < 2) {
    r->parts.functions[depth] = function;
    r->parts.upvalues[depth] = upvalues;
  }
  r->nested--;
  lua_settop(r->L, top);
}

static struct reading new_reading(lua_State *L, const void *dump, size_t length) {
  struct reading r;
  memset(&r, 0, sizeof r);
  r.L = L;
  r.at = dump;
  r.end = r.at + length;
  return r;
}

/* Read all of a dump, for those upvalues of which wanted[i] is not 0. */
static void read_dump(struct reading *r, const unsigned char wanted[256]) {
  struct proto main;
  int i;
  check_header(r);
  r->parts.upvalue_count = main.upvalues = (int)take_byte(r);
  for (i = 0; i < main.upvalues; i++)
    main.outer[i] = wanted[i] ? i : NOT_WANTED;
  read_function(r, &main, NULL);
  r->bad |= r->at != r->end;
}

void mch_bytecode_uses(lua_State *L, const void *dump, size_t length,
                       const unsigned char wanted[256]) {
  struct reading r = new_reading(L, dump, length);
  if (memchr(wanted, 1, 256) == NULL) {
    lua_pushboolean(L, 0);
    return;
  }
  lua_newtable(L);
  r.uses = lua_gettop(L);
  read_dump(&r, wanted);
  if (r.bad) {
    lua_pop(L, 1);
    lua_pushboolean(L, 1);
  }
}

int mch_bytecode_assigns(lua_State *L, const void *dump, size_t length) {
  struct reading r = new_reading(L, dump, length);
  unsigned char wanted[256];
  memset(wanted, 1, sizeof wanted);
  lua_newtable(L); /* the uses are not asked for */
  r.uses = lua_gettop(L);
  read_dump(&r, wanted);
  lua_pop(L, 1);
  return r.bad || r.assigns;
}

/* ---- dumps ---- */

struct dump {
  luaL_Buffer buffer;
  int begun;
};

/* The buffer may put something on the stack, so it begins when lua_dump() has found its function.
 */
static int write_dump(lua_State *L, const void *bytes, size_t count, void *ud) {
  struct dump *dump = ud;
  if (!dump->begun)
    luaL_buffinit(L, &dump->buffer);
  dump->begun = 1;
  luaL_addlstring(&dump->buffer, bytes, count);
  return 0;
}

void mch_bytecode_push_dump(lua_State *L) {
  struct dump dump;
  dump.begun = 0;
  lua_dump(L, write_dump, &dump, 1);
  luaL_pushresult(&dump.buffer);
}

/* ---- parts ---- */

int mch_bytecode_find_parts(lua_State *L, const void *dump, size_t length,
                            struct mch_bytecode_parts *parts) {
  struct reading r = new_reading(L, dump, length);
  unsigned char none[256] = {0};
  read_dump(&r, none);
  *parts = r.parts;
  return !r.bad;
}
