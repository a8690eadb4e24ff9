/* Runs in: parent.
 *
 * The input of a shell command: one file or pipe, cut into batches of whole items. Nothing here
 * waits for a slow pipe but mch_input_fill(), which the caller does not call before there is
 * something to read. */
#ifndef MCH_INPUT_H
#define MCH_INPUT_H

#include <stddef.h>
#include <stdint.h>

enum mch_input_format { MCH_INPUT_JSONL, MCH_INPUT_LINES, MCH_INPUT_NUL, MCH_INPUT_CSV };

struct mch_input {
  int fd; /* -1: none */
  enum mch_input_format format;
  int skips_blank; /* of CSV: empty lines are no records */
  int has_ended;
  char *bytes; /* those from `from` to `to` were not cut off yet */
  size_t from, to, room;
  size_t seen; /* bytes after `from` in which no item ends */
  int quotes;  /* of CSV: what the quotes up to `seen` have begun */
};

/* Items that stand side by side. */
struct mch_batch {
  const char *items; /* valid until the next fill */
  size_t length;
  uint32_t count;
  uint32_t lines; /* newlines (NULs) in it, also of empty lines that are no items */
};

/* Open `path`, "-" being stdin. 0, or errno (EISDIR for a folder). */
int mch_input_open(struct mch_input *input, const char *path, enum mch_input_format format);
void mch_input_close(struct mch_input *input);

/* Read once. 1: there is more now; 0: the input has ended; or -errno (-EINTR, -EAGAIN: again). */
int mch_input_fill(struct mch_input *input);

/* Cut off whole items, `most` at most and `length` bytes at most, unless the first one alone is
 * longer. 0: no whole item is there. A last item without its newline is one when the input has
 * ended. */
int mch_input_cut(struct mch_input *input, uint32_t most, size_t length, struct mch_batch *batch);

/* The end of the item that begins at `at`, or NULL: it does not end before `end`. */
const char *mch_input_item_end(enum mch_input_format format, const char *at, const char *end);

/* Whether a line is one that JSON lines pass over. */
int mch_input_is_blank(const char *line, size_t length);

/* Something to wait for. */
enum { MCH_AWAIT_INPUT = 1, MCH_AWAIT_POOL = 2, MCH_AWAIT_GONE = 4, MCH_AWAIT_CLOSED = 8 };

/* Wait until `input` or `pool` can be read (-1: neither), or nobody reads `output` any more (or it
 * is closed), or `seconds` have passed, or a signal comes. What is there, as bits. A signal that
 * comes just before is not noticed: the caller waits for a fraction of a second only. */
unsigned mch_await(int input, int pool, int output, double seconds);

/* Write once, as much as goes. 0, or errno: EINTR and EAGAIN mean again. A signal may also cut it
 * short without an error, so that the caller looks around before he goes on. */
int mch_write_some(int fd, const char *bytes, size_t length, size_t *written);

#endif
