/* Runs in: parent.
 *
 * Where a value is, in words (key_walk.h): "upvalue 'cfg'.quality", "global 'helper' (its code,
 * line 12)", "module 'x' (function f, line 3)". */
#include "key_walk.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "bindings/values/path.h"

/* Of keys on the way so many are named, the outermost and the inner ones; of functions around. */
enum { MOST_STEPS = 12, MOST_OWNERS = 4, LONGEST_NAME = 80 };

static void add(struct mch_key_walk *w, const char *text) {
  mch_buf_append(&w->text, text, strlen(text));
}

/* A name in a sentence: no control characters, not too long. */
static void add_name(struct mch_key_walk *w, const char *name, size_t length) {
  size_t i, shown = length <= LONGEST_NAME ? length : LONGEST_NAME;
  for (i = 0; i < shown; i++) {
    unsigned char byte = (unsigned char)name[i];
    mch_buf_u8(&w->text, byte < 0x20 || byte == 0x7f ? '?' : byte);
  }
  if (shown < length)
    add(w, "...");
}

static int is_step(const struct mch_node *node) {
  return node->kind >= MCH_NODE_FIELD;
}

static const struct mch_node *parent_of(const struct mch_key_walk *w, const struct mch_node *node) {
  return node->parent != 0 ? mch_key_walk_node(w, node->parent) : NULL;
}

static void add_step(struct mch_key_walk *w, const struct mch_node *node) {
  char number[40];
  switch (node->kind) {
  case MCH_NODE_FIELD:
    if (mch_path_is_name(node->text, node->length) && node->length <= LONGEST_NAME) {
      add(w, ".");
      add_name(w, node->text, node->length);
    } else {
      add(w, "[\"");
      add_name(w, node->text, node->length);
      add(w, "\"]");
    }
    break;
  case MCH_NODE_INDEX:
    snprintf(number, sizeof number, "[" LUA_INTEGER_FMT "]", node->number);
    add(w, number);
    break;
  case MCH_NODE_KEY:
    add(w, "[");
    add_name(w, node->text, node->length);
    add(w, "]");
    break;
  case MCH_NODE_META:
    add(w, " (its metatable)");
    break;
  default:
    add(w, ".(__mantichora)");
  }
}

/* The steps from the node's base to it. */
static const struct mch_node *add_steps(struct mch_key_walk *w, const struct mch_node *node) {
  const struct mch_node *steps[MOST_STEPS], *base = node;
  size_t count = 0, i;
  while (is_step(base) && parent_of(w, base) != NULL) {
    if (count < MOST_STEPS)
      steps[count] = base;
    count++;
    base = parent_of(w, base);
  }
  if (count > MOST_STEPS) {
    add(w, "[...]");
    count = MOST_STEPS;
  }
  for (i = count; i > 0; i--)
    add_step(w, steps[i - 1]);
  return base;
}

static const struct mch_node *base_of(const struct mch_key_walk *w, const struct mch_node *node) {
  while (is_step(node) && parent_of(w, node) != NULL)
    node = parent_of(w, node);
  return node;
}

/* The module in which the function at this node is, going by functions that have it as an upvalue;
 * or NULL. */
static const struct mch_node *module_of(const struct mch_key_walk *w, const struct mch_node *node) {
  int i;
  for (i = 0; i < 100 && node != NULL; i++) {
    node = base_of(w, node);
    if (node->kind == MCH_NODE_MODULE)
      return node;
    if (node->kind != MCH_NODE_UPVALUE)
      return NULL;
    node = parent_of(w, node);
  }
  return NULL;
}

static void add_quoted(struct mch_key_walk *w, const char *what, const struct mch_node *node) {
  add(w, what);
  add(w, " '");
  add_name(w, node->text, node->length);
  add(w, "'");
}

/* "argument 2", with the steps behind. What follows is said by add_owner(). */
static void add_base(struct mch_key_walk *w, const struct mch_node *base) {
  char number[40];
  switch (base->kind) {
  case MCH_NODE_INIT:
    add(w, "init");
    break;
  case MCH_NODE_ARGUMENT:
    snprintf(number, sizeof number, "argument " LUA_INTEGER_FMT, base->number);
    add(w, number);
    break;
  case MCH_NODE_UPVALUE:
    add_quoted(w, "upvalue", base);
    break;
  case MCH_NODE_GLOBAL:
    add_quoted(w, "global", base);
    break;
  case MCH_NODE_MODULE:
    add_quoted(w, "module", base);
    break;
  case MCH_NODE_WORDS:
    mch_buf_append(&w->text, base->text, base->length);
    break;
  case MCH_NODE_FUNCTION:
    add(w, "the function");
    break;
  default:
    add(w, "?");
  }
}

/* A function of a module by its own name, which is the field's or the variable's. */
static void add_module_function(struct mch_key_walk *w, const struct mch_node *module,
                                const struct mch_node *node, int line) {
  char text[40];
  add_quoted(w, "module", module);
  add(w, " (");
  if (node == module) {
    add(w, "its code");
  } else {
    add(w, "function ");
    if (node->text != NULL)
      add_name(w, node->text, node->length);
    else
      add(w, "?");
  }
  snprintf(text, sizeof text, line > 0 ? ", line %d)" : ")", line);
  add(w, text);
}

static void add_value(struct mch_key_walk *w, const struct mch_node *node, int owners) {
  const struct mch_node *base = base_of(w, node), *owner, *module;
  add_base(w, base);
  add_steps(w, node);
  owner = base->kind == MCH_NODE_UPVALUE ? parent_of(w, base) : NULL;
  if (owner == NULL || owner->kind == MCH_NODE_FUNCTION)
    return;
  add(w, " of ");
  module = module_of(w, owner);
  if (module != NULL)
    add_module_function(w, module, owner, 0);
  else if (owners < MOST_OWNERS)
    add_value(w, owner, owners + 1);
  else
    add(w, "...");
}

void mch_key_path(struct mch_key_walk *w, const struct mch_node *node, int line) {
  const struct mch_node *module;
  char text[40];
  if (line < 0) {
    add_value(w, node, 0);
  } else if (node->kind == MCH_NODE_FUNCTION) {
    snprintf(text, sizeof text, "its code, line %d", line);
    add(w, text);
  } else if ((module = module_of(w, node)) != NULL) {
    add_module_function(w, module, node, line);
  } else {
    add_value(w, node, 0);
    snprintf(text, sizeof text, " (its code, line %d)", line);
    add(w, text);
  }
  if (w->text.failed)
    mch_key_walk_no_memory(w);
}

int mch_key_refuse(struct mch_key_walk *w, const struct mch_node *node, const char *what) {
  size_t room = sizeof w->refused;
  mch_buf_clear(&w->text);
  mch_key_path(w, node, -1);
  snprintf(w->refused, room, "%.*s%s%s", (int)(w->text.length < 200 ? w->text.length : 200),
           (const char *)w->text.data, what != NULL ? ": " : "", what != NULL ? what : "");
  return 0;
}
