/* Runs in: parent.
 *
 * The line that is typed at the prompt: keys, completion, history. Without libedit, or without a
 * terminal, there is no editor. */
#ifndef MCH_LINEEDIT_H
#define MCH_LINEEDIT_H

#include <lua.h>

struct mch_lineedit;

enum mch_typed {
  MCH_TYPED_LINE,
  MCH_TYPED_END,   /* the end of stdin */
  MCH_TYPED_CTRL_C /* the line, and those before it that belong to the chunk, are abandoned */
};

/* An editor for standard input, or NULL. Two functions on top of the stack are popped.
 * complete(text before the cursor, columns of the screen) returns what to insert, and lines to show
 * above the prompt, if any. failures() is called when tasks have failed, and returns lines to show,
 * or nil. */
struct mch_lineedit *mch_lineedit_new(lua_State *L);

/* Let a line be edited, and push it without its newline if there is one. The prompt may be of
 * several lines. Pools move on, and what they have to show is shown above. Raises nothing but
 * memory errors. */
enum mch_typed mch_lineedit_read(struct mch_lineedit *edit, lua_State *L, const char *prompt);

/* A chunk is complete: it can be called back, in this session and in later ones. */
void mch_lineedit_remember(struct mch_lineedit *edit, const char *chunk);

/* Columns of the screen. */
unsigned mch_lineedit_columns(const struct mch_lineedit *edit);

void mch_lineedit_free(struct mch_lineedit *edit);

#endif
