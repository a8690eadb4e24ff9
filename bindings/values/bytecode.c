/* Runs in: both. Purpose: bytecode.h. */
#include "bytecode.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

#if LUA_VERSION_NUM != 504 && LUA_VERSION_NUM != 505
#error "mantichora knows Lua 5.4 and 5.5: give it the headers of one of these"
#endif

/* Instructions that touch an upvalue or a key for one. Their numbers are the same in 5.4 and 5.5,
 * but for one. */
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
  OP_CALL = 68
};

/* What differs between the formats of dumps. */
static const struct format {
  unsigned char version;    /* in the header */
  unsigned char extra;      /* OP_EXTRAARG */
  unsigned char more;       /* in each byte of a number, bit 7: 0x80: there are more of it, 0: no */
  signed char sign;         /* of the header's samples */
  unsigned char has_words;  /* samples of int and instruction are in the header */
  unsigned char is_aligned; /* code and pairs of lines are, to their words */
  unsigned char
      counts_texts; /* a string that was there before is its number; others end with a zero */
  unsigned char source_last; /* behind the inner functions */
  unsigned char is_varied;   /* integer constants are numbers of seven bits a byte */
} formats[] = {
    {.version = 0x54, .extra = 82, .more = 0x00, .sign = 1},
    {.version = 0x55,
     .extra = 84,
     .more = 0x80,
     .sign = -1,
     .has_words = 1,
     .is_aligned = 1,
     .counts_texts = 1,
     .source_last = 1,
     .is_varied = 1},
};

enum { MOST_NESTED = 250, NOT_WANTED = -1 };

struct reading {
  lua_State *L;
  const struct format *format;
  const unsigned char *start, *at, *end;
  lua_Integer texts;          /* strings that were met, if they count */
  int places;                 /* stack index of a table: number of a string -> where it is */
  size_t named;               /* without Lua: the last number that stood for a string; */
  size_t sought;              /* that of the string that is wanted, */
  const unsigned char *found; /* and where it is */
  int bad;
  int uses;    /* stack index of the result */
  int nested;  /* functions around the one at hand */
  int assigns; /* an upvalue of the outermost function is assigned to */
  struct mch_bytecode_parts parts;
  mch_bytecode_visitor visitor; /* or NULL: what the code does with upvalues is looked for */
  void *ud;
};

/* One function of the dump. */
struct proto {
  const unsigned char *code;
  size_t instructions;
  const struct mch_bytecode_constant *constants;
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

/* Groups of seven bits, the highest first. */
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
  } while ((byte & 0x80) == r->format->more);
  return value;
}

static void skip_integer(struct reading *r) {
  if (!r->format->is_varied) {
    take(r, sizeof(lua_Integer));
    return;
  }
  while ((take_byte(r) & 0x80) == r->format->more && !r->bad)
    ;
}

/* Behind the bytes that bring what follows to a multiple of `size`. */
static void skip_gap(struct reading *r, size_t size) {
  size_t over = (size_t)(r->at - r->start) % size;
  if (r->format->is_aligned && over != 0)
    take(r, size - over);
}

static struct mch_bytecode_constant text_at(const struct reading *r, const unsigned char *place) {
  struct mch_bytecode_constant string = {NULL, 0, NULL, 0};
  struct reading there = *r;
  there.at = place;
  string.length = take_size(&there) - 1;
  string.string = (const char *)there.at;
  return string;
}

/* The string that was counted under this number. Without Lua it is only noted. */
static struct mch_bytecode_constant counted_text(struct reading *r, size_t number) {
  const struct mch_bytecode_constant none = {NULL, 0, NULL, 0};
  lua_Integer place;
  if (number > (size_t)r->texts) {
    r->bad = 1;
    return none;
  }
  r->named = number;
  if (number == 0 || r->L == NULL)
    return none;
  lua_rawgeti(r->L, r->places, (lua_Integer)number);
  place = lua_tointeger(r->L, -1);
  lua_pop(r->L, 1);
  return text_at(r, r->start + place);
}

static void count_text(struct reading *r, const unsigned char *place) {
  r->texts++;
  if (r->L != NULL) {
    lua_pushinteger(r->L, place - r->start);
    lua_rawseti(r->L, r->places, r->texts);
  } else if ((size_t)r->texts == r->sought)
    r->found = place;
}

static struct mch_bytecode_constant take_string(struct reading *r) {
  struct mch_bytecode_constant string = {NULL, 0, NULL, 0};
  const unsigned char *place = r->at;
  size_t size = take_size(r);
  if (size == 0)
    return r->format->counts_texts ? counted_text(r, take_size(r)) : string;
  string.length = size - 1;
  string.string = (const char *)take(r, r->format->counts_texts ? size : string.length);
  if (r->format->counts_texts && !r->bad)
    count_text(r, place);
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

/* A sample of a number: how many bytes it has, and these. */
static void check_sample(struct reading *r, const void *sample, size_t size) {
  const unsigned char *bytes = take(r, 1 + size);
  if (bytes == NULL || bytes[0] != size || memcmp(bytes + 1, sample, size) != 0)
    r->bad = 1;
}

static void check_literal(struct reading *r, const char *literal, size_t length) {
  const unsigned char *bytes = take(r, length);
  if (bytes == NULL || memcmp(bytes, literal, length) != 0)
    r->bad = 1;
}

static void find_format(struct reading *r) {
  unsigned version = take_byte(r);
  size_t i;
  for (i = 0; i < sizeof formats / sizeof formats[0]; i++)
    if (formats[i].version == version)
      r->format = &formats[i];
  if (r->format == NULL) {
    r->format = &formats[0];
    r->bad = 1;
  }
}

static void check_header(struct reading *r) {
  static const char data[] = "\x00\x19\x93\r\n\x1a\n";
  const uint32_t instruction = 0x12345678;
  int word;
  lua_Integer integer;
  lua_Number number;
  check_literal(r, LUA_SIGNATURE, sizeof LUA_SIGNATURE - 1);
  find_format(r);
  word = 0x5678 * r->format->sign;
  integer = word;
  number = 370.5 * r->format->sign;
  check_literal(r, data, sizeof data - 1);
  if (r->format->has_words) {
    check_sample(r, &word, sizeof word);
    check_sample(r, &instruction, sizeof instruction);
    check_sample(r, &integer, sizeof integer);
    check_sample(r, &number, sizeof number);
    return;
  }
  if (take_byte(r) != sizeof instruction || take_byte(r) != sizeof integer ||
      take_byte(r) != sizeof number)
    r->bad = 1;
  check_literal(r, (const char *)&integer, sizeof integer);
  check_literal(r, (const char *)&number, sizeof number);
}

static struct mch_bytecode_constant take_constant(struct reading *r) {
  enum { NIL = 0x00, FALSE = 0x01, TRUE = 0x11, INTEGER = 0x03, FLOAT = 0x13 };
  enum { SHORT_STRING = 0x04, LONG_STRING = 0x14 };
  const unsigned char *from = r->at;
  struct mch_bytecode_constant constant = {NULL, 0, from, 0};
  switch (take_byte(r)) {
  case NIL:
  case FALSE:
  case TRUE:
    break;
  case INTEGER:
    skip_integer(r);
    break;
  case FLOAT:
    take(r, sizeof(lua_Number));
    break;
  case SHORT_STRING:
  case LONG_STRING:
    constant = take_string(r);
    break;
  default:
    r->bad = 1;
  }
  constant.raw = from;
  constant.raw_length = (size_t)(r->at - from);
  return constant;
}

/* Leaves the memory of the constants on the stack. */
static void take_constants(struct reading *r, struct proto *proto) {
  struct mch_bytecode_constant *constants;
  size_t i;
  proto->constant_count = take_count(r, 1);
  constants = lua_newuserdatauv(r->L, proto->constant_count * sizeof *constants, 0);
  proto->constants = constants;
  for (i = 0; i < proto->constant_count; i++)
    constants[i] = take_constant(r);
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
  if (r->format->is_aligned) { /* lines of instructions, as they lie in memory */
    if (count > 0)
      skip_gap(r, sizeof(int));
    take(r, count > SIZE_MAX / (2 * sizeof(int)) ? SIZE_MAX : count * 2 * sizeof(int));
  } else
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
  return mch_bytecode_instruction(proto->code, pc);
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
static int is_stored(const struct reading *r, const struct proto *proto, size_t pc, uint32_t table,
                     uint32_t key) {
  for (; pc < proto->instructions; pc++) {
    uint32_t i = instruction(proto, pc), a = ARG_A(i);
    if (OP(i) == r->format->extra) /* no register in A, nor in the next two */
      continue;
    switch (OP(i)) {
    case OP_SETTABLE:
      if (a == table && ARG_B(i) == key)
        return 1;
      break;
    case OP_JMP:
    case OP_SETTABUP:
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
      !is_stored(r, proto, after, table, key))
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

static void read_function(struct reading *r, struct proto *proto, const struct proto *parent);

/* Read the functions inside of the one at hand, which was read so far. */
static void read_inner(struct reading *r, struct mch_bytecode_function *f, struct proto *proto) {
  size_t i;
  f->inner = take_count(r, 1);
  f->code = proto->code;
  f->instructions = proto->instructions;
  f->constants = proto->constants;
  f->constant_count = proto->constant_count;
  f->outer = proto->outer;
  if (r->visitor != NULL && !r->bad) {
    f->upvalue_count = (size_t)proto->upvalues;
    f->upvalues -= 3 * f->upvalue_count; /* they end where we are */
    r->visitor(r->L, r->ud, f);
  }
  for (i = 0; i < f->inner && !r->bad; i++) {
    struct proto inner;
    read_function(r, &inner, proto);
  }
}

static void read_function(struct reading *r, struct proto *proto, const struct proto *parent) {
  int top = lua_gettop(r->L), depth = r->nested;
  struct mch_bytecode_part function = {r->at, NULL}, upvalues;
  struct mch_bytecode_function f;
  luaL_checkstack(r->L, 10, NULL);
  if (++r->nested > MOST_NESTED)
    r->bad = 1;
  if (!r->format->source_last)
    take_string(r);
  f.depth = depth;
  f.line = take_size(r); /* the first, and the last */
  take_size(r);
  f.head = take(r, 3); /* parameters, varargs, stack size */
  proto->instructions = take_count(r, 4);
  skip_gap(r, 4);
  proto->code = take(r, proto->instructions * 4);
  take_constants(r, proto);
  upvalues.from = r->at;
  take_upvalues(r, proto, parent);
  upvalues.to = r->at;
  f.upvalues = upvalues.to;
  read_inner(r, &f, proto);
  if (r->format->source_last)
    take_string(r);
  skip_debug(r);
  function.to = r->at;
  if (!r->bad && r->visitor == NULL)
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
  r.start = r.at = dump;
  r.end = r.at + length;
  return r;
}

/* Read all of a dump, for those upvalues of which wanted[i] is not 0. */
static void read_dump(struct reading *r, const unsigned char wanted[256]) {
  struct proto main;
  int i;
  check_header(r);
  lua_newtable(r->L);
  r->places = lua_gettop(r->L);
  r->parts.upvalue_count = main.upvalues = (int)take_byte(r);
  for (i = 0; i < main.upvalues; i++)
    main.outer[i] = wanted[i] ? i : NOT_WANTED;
  read_function(r, &main, NULL);
  r->bad |= r->at != r->end;
  lua_settop(r->L, r->places - 1);
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

int mch_bytecode_visit(lua_State *L, const void *dump, size_t length, mch_bytecode_visitor visitor,
                       void *ud) {
  struct reading r = new_reading(L, dump, length);
  unsigned char all[256];
  memset(all, 1, sizeof all);
  r.visitor = visitor;
  r.ud = ud;
  read_dump(&r, all);
  return !r.bad;
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
  if (count == 0) /* Lua 5.5 says that it has ended */
    return 0;
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
  /* A part that refers to strings before it, or is aligned, is at home in its dump only. */
  return !r.bad && !r.format->counts_texts && !r.format->is_aligned;
}

/* Pass over a function up to its source, if that comes last; returns its line. Uses no Lua. */
static size_t skip_to_source(struct reading *r) {
  size_t line = take_size(r), count;
  if (++r->nested > MOST_NESTED)
    r->bad = 1;
  take_size(r);
  take(r, 3);
  count = take_count(r, 4);
  skip_gap(r, 4);
  take(r, count * 4);
  for (count = take_count(r, 1); count > 0 && !r->bad; count--)
    take_constant(r);
  take(r, take_count(r, 3) * 3); /* upvalues */
  for (count = take_count(r, 1); count > 0 && !r->bad; count--) {
    skip_to_source(r);
    take_string(r);
    skip_debug(r);
  }
  r->nested--;
  return line;
}

/* Where the source comes last it may be the number of a string that was met before: then all is
 * read once more, for this one. */
static struct mch_bytecode_constant last_source(struct reading *r, size_t *line) {
  struct reading again = *r;
  struct mch_bytecode_constant source;
  *line = skip_to_source(r);
  r->named = 0;
  source = take_string(r);
  if (r->named == 0)
    return source;
  again.sought = r->named;
  skip_to_source(&again);
  if (again.found != NULL)
    return text_at(r, again.found);
  r->bad = 1;
  return source;
}

int mch_bytecode_origin(const void *dump, size_t length, const char **source, size_t *source_length,
                        size_t *line) {
  struct reading r = new_reading(NULL, dump, length);
  struct mch_bytecode_constant name;
  check_header(&r);
  if (r.bad)
    return 0;
  take_byte(&r);
  if (r.format->source_last)
    name = last_source(&r, line);
  else {
    name = take_string(&r);
    *line = take_size(&r);
  }
  *source = name.string;
  *source_length = name.length;
  return !r.bad && name.string != NULL;
}
