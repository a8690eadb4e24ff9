/* Runs in: parent. Purpose: key_flow.h.
 *
 * An interpretation of each function by what its registers may hold, until nothing changes; then
 * one more pass that notes the facts. Instructions from 0 to 80 are the same in Lua 5.4 and 5.5
 * (but for two shifts); later ones touch nothing that is followed. */
#include "key_flow.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/lbuf.h"
#include "bindings/values/bytecode.h"
#include "key_set.h"

enum {
  OP_MOVE = 0,
  OP_LOADK = 3,
  OP_LOADKX = 4,
  OP_LFALSESKIP = 6,
  OP_LOADNIL = 8,
  OP_GETUPVAL = 9,
  OP_SETUPVAL = 10,
  OP_GETTABUP = 11,
  OP_GETTABLE = 12,
  OP_GETI = 13,
  OP_GETFIELD = 14,
  OP_SETTABUP = 15,
  OP_SETTABLE = 16,
  OP_SETI = 17,
  OP_SETFIELD = 18,
  OP_NEWTABLE = 19,
  OP_SELF = 20,
  OP_ADDI = 21,
  OP_SHR = 45,
  OP_MMBIN = 46,
  OP_MMBINK = 48,
  OP_UNM = 49,
  OP_NOT = 51,
  OP_LEN = 52,
  OP_CONCAT = 53,
  OP_CLOSE = 54,
  OP_TBC = 55,
  OP_JMP = 56,
  OP_EQ = 57,
  OP_TEST = 66,
  OP_TESTSET = 67,
  OP_CALL = 68,
  OP_TAILCALL = 69,
  OP_RETURN = 70,
  OP_RETURN0 = 71,
  OP_RETURN1 = 72,
  OP_FORLOOP = 73,
  OP_FORPREP = 74,
  OP_TFORPREP = 75,
  OP_TFORCALL = 76,
  OP_TFORLOOP = 77,
  OP_SETLIST = 78,
  OP_CLOSURE = 79,
  OP_VARARG = 80
};

#define OP(i) ((i)&0x7f)
#define ARG_A(i) ((i) >> 7 & 0xff)
#define ARG_B(i) ((i) >> 16 & 0xff)
#define ARG_C(i) ((i) >> 24)
#define ARG_K(i) ((i) >> 15 & 1)
#define ARG_BX(i) ((i) >> 15)
#define ARG_AX(i) ((i) >> 7)
#define ARG_SJ(i) ((long)((i) >> 7) - 0xffffff)

enum { REGISTERS = 256, MOST_SOURCES = 4000, MOST_CELLS = 1 << 19 };
enum { NO_SOURCE = 0, CONFLICT = 1, FIRST_SOURCE = 2 }; /* of conflict, all may go anywhere */

/* What a register may hold. */
struct cell {
  unsigned short source;
  unsigned short pad;
  int32_t constant; /* number of the string constant that it holds, or -1 */
};

/* The function whose inner functions are visited next. */
struct level {
  size_t proto; /* its number in the order of visits */
  unsigned short upvalues[REGISTERS];
  size_t closures; /* in `snapshots`: what the registers held where each inner function was made */
  size_t next;     /* of those to be visited */
};

/* What is known of all functions before the first is followed. */
struct outline {
  int depth;
  const unsigned char *upvalues;
  size_t upvalue_count;
};

struct following {
  lua_State *L;
  struct mch_flow *flow;
  int env;
  struct mch_buf *outlines, *levels, *snapshots, *cells;
  size_t visited;
  /* The function at hand. */
  const struct mch_bytecode_function *f;
  struct level *level;
  struct cell *regs; /* before the instruction at hand */
  int width;
  int records;                       /* facts are noted */
  unsigned char captured[REGISTERS]; /* by an inner function, so far */
};

/* ---- sources and facts ---- */

static void no_memory(struct following *w) {
  luaL_error(w->L, "not enough memory");
}

static unsigned find_source(struct following *w, const struct mch_source *like) {
  struct mch_flow *flow = w->flow;
  uint64_t key =
      (uint64_t)like->kind << 56 | (uint64_t)like->index << 48 | (uint64_t)like->of << 32;
  uint32_t *known;
  size_t count = mch_flow_source_count(flow);
  if (like->name != NULL)
    key ^= mch_set_mix(7, like->name, like->length);
  known = mch_set_find(&w->flow->known, key);
  if (known != NULL)
    return *known;
  if (count >= MOST_SOURCES) {
    flow->is_opaque = 1;
    return NO_SOURCE;
  }
  mch_buf_append(&flow->sources, like, sizeof *like);
  if (flow->sources.failed || !mch_set_put(&w->flow->known, key, (uint32_t)count))
    no_memory(w);
  return (unsigned)count;
}

static unsigned numbered(struct following *w, enum mch_source_kind kind, unsigned index) {
  struct mch_source source;
  memset(&source, 0, sizeof source);
  source.kind = (unsigned char)kind;
  source.index = (unsigned char)index;
  return find_source(w, &source);
}

/* A global, or something of another source, named by a constant. */
static unsigned named(struct following *w, enum mch_source_kind kind, unsigned of,
                      size_t constant) {
  struct mch_source source;
  if (constant >= w->f->constant_count || w->f->constants[constant].string == NULL ||
      of == CONFLICT || (of == NO_SOURCE && kind != MCH_SOURCE_GLOBAL))
    return NO_SOURCE;
  memset(&source, 0, sizeof source);
  source.kind = (unsigned char)kind;
  source.of = (unsigned short)of;
  source.name = w->f->constants[constant].string;
  source.length = w->f->constants[constant].length;
  return find_source(w, &source);
}

static void note(struct following *w, unsigned source, unsigned position, unsigned callee) {
  struct mch_fact fact = {(unsigned short)source, (unsigned short)callee, (unsigned short)position};
  uint64_t key = UINT64_C(0xff) << 56 | (uint64_t)source << 32 | (uint64_t)callee << 16 | position;
  if (!w->records || source < FIRST_SOURCE || mch_set_find(&w->flow->known, key) != NULL)
    return;
  mch_buf_append(&w->flow->facts, &fact, sizeof fact);
  if (w->flow->facts.failed || !mch_set_put(&w->flow->known, key, 1))
    no_memory(w);
}

static void escape(struct following *w, unsigned source) {
  note(w, source, 0, 0);
}

/* ---- registers ---- */

static struct cell *reg(struct following *w, unsigned i) {
  return &w->regs[i < (unsigned)w->width ? i : (unsigned)w->width - 1];
}

static void set(struct following *w, unsigned i, unsigned source) {
  struct cell *cell = reg(w, i);
  if (w->captured[i & 0xff] && source != cell->source)
    escape(w, source); /* inner functions see what is assigned later */
  cell->source = (unsigned short)source;
  cell->constant = -1;
}

static void clear_from(struct following *w, unsigned i) {
  for (; i < (unsigned)w->width; i++) {
    w->regs[i].source = NO_SOURCE;
    w->regs[i].constant = -1;
  }
}

static void escape_from(struct following *w, unsigned i, unsigned end) {
  for (; i < end && i < (unsigned)w->width; i++)
    escape(w, w->regs[i].source);
}

static int is_env(const struct following *w, unsigned upvalue) {
  return upvalue < w->f->upvalue_count && w->env != 0 && w->f->outer[upvalue] == w->env - 1;
}

static unsigned upvalue_source(const struct following *w, unsigned upvalue) {
  return is_env(w, upvalue) ? NO_SOURCE : w->level->upvalues[upvalue & 0xff];
}

static unsigned of_upvalue(struct following *w, unsigned upvalue, size_t constant) {
  if (is_env(w, upvalue))
    return named(w, MCH_SOURCE_GLOBAL, 0, constant);
  return named(w, MCH_SOURCE_FIELD, upvalue_source(w, upvalue), constant);
}

/* The environment in a register is source 0 of the upvalue: told by GETUPVAL's constant. */
enum { ENV_CONSTANT = -2 };

static unsigned field_of(struct following *w, const struct cell *table, size_t constant) {
  if (table->constant == ENV_CONSTANT)
    return named(w, MCH_SOURCE_GLOBAL, 0, constant);
  return named(w, MCH_SOURCE_FIELD, table->source, constant);
}

/* ---- instructions ---- */

static int is_global(const struct following *w, unsigned source, const char *name) {
  const struct mch_source *s = mch_flow_source(w->flow, source);
  return source >= FIRST_SOURCE && s->kind == MCH_SOURCE_GLOBAL && s->length == strlen(name) &&
         memcmp(s->name, name, s->length) == 0;
}

/* Only `require` is of interest, under whatever name. */
static unsigned called(struct following *w, unsigned callee, size_t constant) {
  if (callee >= FIRST_SOURCE && mch_flow_source(w->flow, callee)->kind == MCH_SOURCE_GLOBAL &&
      !is_global(w, callee, "require"))
    return NO_SOURCE;
  return named(w, MCH_SOURCE_CALLED, callee, constant);
}

/* R[a](R[a+1], ..., R[end-1]) */
static void call(struct following *w, unsigned a, unsigned end, int keeps) {
  unsigned callee = reg(w, a)->source, result = NO_SOURCE, second = NO_SOURCE, i;
  const struct cell *first = reg(w, a + 1);
  if (callee == CONFLICT)
    callee = NO_SOURCE;
  for (i = a + 1; i < end && i < (unsigned)w->width; i++)
    note(w, w->regs[i].source, i - a, callee);
  if (end > a + 1 && first->constant >= 0)
    result = called(w, callee, (size_t)first->constant);
  else if (end > a + 1 && (is_global(w, callee, "setmetatable") || is_global(w, callee, "assert")))
    result = first->source;
  if (end > a + 2 && reg(w, a + 2)->constant >= 0) /* pcall(require, "x") */
    second = called(w, first->source, (size_t)reg(w, a + 2)->constant);
  if (!keeps) { /* a tail call */
    escape(w, result);
    escape(w, second);
    clear_from(w, a);
    return;
  }
  clear_from(w, a);
  set(w, a, result);
  set(w, a + 1, second);
}

static void load_constant(struct following *w, unsigned a, size_t constant) {
  set(w, a, NO_SOURCE);
  if (constant < w->f->constant_count && w->f->constants[constant].string != NULL)
    reg(w, a)->constant = (int32_t)constant;
}

/* R[a] := R[b][R[c]] */
static void get_computed(struct following *w, unsigned a, unsigned b, unsigned c) {
  const struct cell *key = reg(w, c);
  if (key->constant >= 0) {
    set(w, a, field_of(w, reg(w, b), (size_t)key->constant));
    return;
  }
  escape(w, reg(w, b)->source);
  escape(w, key->source);
  set(w, a, NO_SOURCE);
}

/* R[a+1] := R[b]; R[a] := R[b][constant, or what is in a register] */
static void get_method(struct following *w, uint32_t i) {
  struct cell object = *reg(w, ARG_B(i));
  unsigned method = NO_SOURCE;
  if (ARG_K(i) || LUA_VERSION_NUM > 504)
    method = field_of(w, &object, ARG_C(i));
  else if (reg(w, ARG_C(i))->constant >= 0)
    method = field_of(w, &object, (size_t)reg(w, ARG_C(i))->constant);
  else
    escape(w, object.source);
  set(w, ARG_A(i) + 1, object.source);
  set(w, ARG_A(i), method);
}

static void get_upvalue(struct following *w, unsigned a, unsigned upvalue) {
  set(w, a, upvalue_source(w, upvalue));
  if (is_env(w, upvalue))
    reg(w, a)->constant = ENV_CONSTANT;
}

/* What is made here holds what the registers do now. */
static void make_closure(struct following *w, unsigned a, size_t inner) {
  const struct outline *all = (const struct outline *)(const void *)w->outlines->data;
  size_t count = w->outlines->length / sizeof *all, at = w->level->proto + 1, i;
  int depth = all[w->level->proto].depth + 1;
  unsigned short *snapshot;
  set(w, a, NO_SOURCE);
  if (!w->records || inner >= w->f->inner)
    return;
  snapshot = (unsigned short *)(void *)(w->snapshots->data + w->level->closures);
  for (i = 0; i < (size_t)w->width; i++)
    snapshot[inner * REGISTERS + i] = w->regs[i].source;
  for (; at < count && all[at].depth >= depth; at++)
    if (all[at].depth == depth && inner-- == 0) {
      for (i = 0; i < all[at].upvalue_count; i++)
        if (all[at].upvalues[3 * i] != 0)
          w->captured[all[at].upvalues[3 * i + 1]] = 1;
      return;
    }
}

static void store(struct following *w, uint32_t i) {
  if (!ARG_K(i))
    escape(w, reg(w, ARG_C(i))->source);
  if (OP(i) == OP_SETTABLE)
    escape(w, reg(w, ARG_B(i))->source);
}

/* What the instruction does to registers, and which facts it adds. */
static void interpret(struct following *w, size_t pc) {
  uint32_t i = mch_bytecode_instruction(w->f->code, pc);
  unsigned a = ARG_A(i), b = ARG_B(i), end = b != 0 ? a + b : (unsigned)w->width;
  struct cell moved;
  switch (OP(i)) {
  case OP_MOVE:
    moved = *reg(w, b);
    set(w, a, moved.source);
    reg(w, a)->constant = moved.constant;
    break;
  case OP_LOADK:
    load_constant(w, a, ARG_BX(i));
    break;
  case OP_LOADKX:
    if (pc + 1 < w->f->instructions)
      load_constant(w, a, ARG_AX(mch_bytecode_instruction(w->f->code, pc + 1)));
    break;
  case OP_LOADNIL:
    for (; b-- > 0;)
      set(w, a + b + 1, NO_SOURCE);
    set(w, a, NO_SOURCE);
    break;
  case OP_GETUPVAL:
    get_upvalue(w, a, b);
    break;
  case OP_SETUPVAL:
    escape(w, reg(w, a)->source);
    break;
  case OP_GETTABUP:
    set(w, a, of_upvalue(w, b, ARG_C(i)));
    break;
  case OP_GETTABLE:
    get_computed(w, a, b, ARG_C(i));
    break;
  case OP_GETI:
  case OP_LEN:
    escape(w, reg(w, b)->source);
    set(w, a, NO_SOURCE);
    break;
  case OP_GETFIELD:
    set(w, a, field_of(w, reg(w, b), ARG_C(i)));
    break;
  case OP_SETTABUP:
  case OP_SETTABLE:
  case OP_SETI:
  case OP_SETFIELD:
    store(w, i);
    break;
  case OP_SELF:
    get_method(w, i);
    break;
  case OP_TESTSET:
    set(w, a, reg(w, b)->source);
    break;
  case OP_CALL:
    call(w, a, end, 1);
    break;
  case OP_TAILCALL:
    call(w, a, end, 0);
    break;
  case OP_RETURN:
    escape_from(w, a, b != 0 ? a + b - 1 : (unsigned)w->width);
    break;
  case OP_RETURN1:
    escape(w, reg(w, a)->source);
    break;
  case OP_TFORCALL:
    note(w, reg(w, a + 1)->source, 1, reg(w, a)->source);
    note(w, reg(w, a + 2)->source, 2, reg(w, a)->source);
    clear_from(w, a + 3);
    break;
  case OP_SETLIST:
    escape_from(w, a + 1, (unsigned)w->width);
    break;
  case OP_CLOSURE:
    make_closure(w, a, ARG_BX(i));
    break;
  case OP_VARARG:
    clear_from(w, a);
    break;
  case OP_CLOSE: /* the variables from here on are no more */
    memset(w->captured + a, 0, sizeof w->captured - a);
    break;
  default:
    if (OP(i) <= OP_CONCAT && (OP(i) < OP_MMBIN || OP(i) > OP_MMBINK))
      set(w, a, NO_SOURCE);
  }
}

/* ---- the order of instructions ---- */

/* Where the program may be after the instruction. At most two places. */
static int successors(const struct mch_bytecode_function *f, size_t pc, size_t next[2]) {
  uint32_t i = mch_bytecode_instruction(f->code, pc);
  switch (OP(i)) {
  case OP_LFALSESKIP:
    next[0] = pc + 2;
    return 1;
  case OP_JMP:
    next[0] = (size_t)((long)pc + 1 + ARG_SJ(i));
    return 1;
  case OP_RETURN:
  case OP_RETURN0:
  case OP_RETURN1:
    return 0;
  case OP_FORLOOP:
  case OP_TFORLOOP:
    next[1] = pc + 1 - ARG_BX(i);
    break;
  case OP_FORPREP:
    next[1] = pc + 2 + ARG_BX(i);
    break;
  case OP_TFORPREP:
    next[0] = pc + 1 + ARG_BX(i);
    return 1;
  default:
    next[0] = pc + 1;
    next[1] = pc + 2;
    return OP(i) >= OP_EQ && OP(i) <= OP_TESTSET ? 2 : 1;
  }
  next[0] = pc + 1;
  return 2;
}

/* Two ways lead here. Has what may be here become more? */
static int join(struct following *w, struct cell *to, const struct cell *from, int is_first) {
  int i, changed = is_first;
  if (is_first) {
    memcpy(to, from, (size_t)w->width * sizeof *to);
    return 1;
  }
  for (i = 0; i < w->width; i++) {
    unsigned source = to[i].source;
    if (source == NO_SOURCE)
      source = from[i].source;
    else if (from[i].source != NO_SOURCE && from[i].source != source) {
      int records = w->records;
      w->records = 1;
      escape(w, source);
      escape(w, from[i].source);
      w->records = records;
      source = CONFLICT;
    }
    changed |= source != to[i].source;
    to[i].source = (unsigned short)source;
    if (to[i].constant != from[i].constant && to[i].constant != -1) {
      to[i].constant = -1;
      changed = 1;
    }
  }
  return changed;
}

/* Cells of all instructions, and one for the instruction at hand behind them; then whether each was
 * reached. */
static void settle(struct following *w, struct cell *cells, unsigned char *reached) {
  size_t width = (size_t)w->width, n = w->f->instructions, pc, next[2];
  int again = 1, k, count;
  w->regs = cells + n * width;
  while (again) {
    again = 0;
    for (pc = 0; pc < n; pc++) {
      if (reached[pc] != 2)
        continue;
      reached[pc] = 1;
      memcpy(w->regs, cells + pc * width, width * sizeof *cells);
      interpret(w, pc);
      count = successors(w->f, pc, next);
      for (k = 0; k < count; k++)
        if (next[k] < n && join(w, cells + next[k] * width, w->regs, !reached[next[k]])) {
          reached[next[k]] = 2;
          again |= next[k] <= pc;
        }
    }
  }
}

static void follow(struct following *w) {
  size_t n = w->f->instructions, width, pc, size;
  struct cell *cells;
  unsigned char *reached;
  w->width = w->f->head[2] + 2;
  width = (size_t)w->width;
  size = (n + 1) * width;
  if (size > MOST_CELLS) {
    w->flow->is_opaque = 1;
    return;
  }
  mch_buf_clear(w->cells);
  if (mch_buf_reserve(w->cells, size * sizeof *cells + n + 1) != 0)
    no_memory(w);
  cells = (struct cell *)(void *)w->cells->data;
  reached = (unsigned char *)(cells + size);
  memset(reached, 0, n + 1);
  w->regs = cells;
  clear_from(w, 0);
  if (w->f->depth == 0)
    for (pc = 0; pc < w->f->head[0]; pc++)
      cells[pc].source = (unsigned short)numbered(w, MCH_SOURCE_PARAMETER, (unsigned)pc + 1);
  reached[0] = 2;
  memset(w->captured, 0, sizeof w->captured);
  w->records = 0;
  if (n > 0)
    settle(w, cells, reached);
  w->records = 1;
  for (pc = 0; pc < n; pc++)
    if (reached[pc]) {
      w->regs = cells + pc * width;
      interpret(w, pc);
    }
}

/* ---- functions ---- */

static void outline(lua_State *L, void *ud, const struct mch_bytecode_function *f) {
  struct following *w = ud;
  struct outline line;
  (void)L;
  memset(&line, 0, sizeof line);
  line.depth = f->depth;
  line.upvalues = f->upvalues;
  line.upvalue_count = f->upvalue_count;
  mch_buf_append(w->outlines, &line, sizeof line);
  if (w->outlines->failed)
    no_memory(w);
}

/* The sources of the function's upvalues: those of its parent, or what was in its registers. */
static void find_upvalues(struct following *w, const struct level *parent) {
  const struct mch_bytecode_function *f = w->f;
  const unsigned short *snapshot = NULL;
  size_t i;
  if (parent != NULL)
    snapshot = (const unsigned short *)(const void *)(w->snapshots->data + parent->closures) +
               (parent->next - 1) * REGISTERS;
  for (i = 0; i < f->upvalue_count; i++) {
    unsigned index = f->upvalues[3 * i + 1], source;
    if (parent == NULL)
      source = numbered(w, MCH_SOURCE_UPVALUE, (unsigned)i + 1);
    else
      source = f->upvalues[3 * i] != 0 ? snapshot[index] : parent->upvalues[index];
    w->level->upvalues[i] = (unsigned short)source;
  }
}

static void visit(lua_State *L, void *ud, const struct mch_bytecode_function *f) {
  struct following *w = ud;
  struct level *levels;
  size_t depth = (size_t)f->depth, room = f->inner * REGISTERS * sizeof(unsigned short);
  (void)L;
  w->levels->length = depth * sizeof *levels;
  if (mch_buf_reserve(w->levels, sizeof *levels) != 0 || mch_buf_reserve(w->snapshots, room) != 0)
    no_memory(w);
  levels = (struct level *)(void *)w->levels->data;
  w->levels->length += sizeof *levels;
  w->level = &levels[depth];
  memset(w->level, 0, sizeof *w->level);
  w->level->proto = w->visited++;
  w->level->closures = w->snapshots->length;
  if (room > 0)
    memset(w->snapshots->data + w->snapshots->length, 0, room);
  w->snapshots->length += room;
  w->f = f;
  if (depth > 0)
    levels[depth - 1].next++;
  find_upvalues(w, depth > 0 ? &levels[depth - 1] : NULL);
  follow(w);
}

int mch_flow_read(lua_State *L, struct mch_flow *flow, const void *dump, size_t length, int env) {
  static const struct mch_source none[FIRST_SOURCE];
  struct following w;
  int top = lua_gettop(L), known;
  luaL_checkstack(L, 8, NULL);
  memset(&w, 0, sizeof w);
  w.L = L;
  w.flow = flow;
  w.env = env;
  w.outlines = mch_lbuf_push(L);
  w.levels = mch_lbuf_push(L);
  w.snapshots = mch_lbuf_push(L);
  w.cells = mch_lbuf_push(L);
  mch_buf_append(&flow->sources, none, sizeof none);
  known = mch_bytecode_visit(L, dump, length, outline, &w) &&
          mch_bytecode_visit(L, dump, length, visit, &w);
  mch_set_free(&flow->known);
  mch_buf_free(w.outlines);
  mch_buf_free(w.levels);
  mch_buf_free(w.snapshots);
  mch_buf_free(w.cells);
  lua_settop(L, top);
  return known;
}

void mch_flow_free(struct mch_flow *flow) {
  mch_set_free(&flow->known);
  mch_buf_free(&flow->sources);
  mch_buf_free(&flow->facts);
}
