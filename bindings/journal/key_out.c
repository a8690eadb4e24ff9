/* Runs in: parent.
 *
 * The bytes of a walk on their way into the hash, and the parts that they belong to (key_walk.h).
 */
#include "key_walk.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/number.h"

/* A string that is longer goes in as its hash; a part that is longer is hashed as it grows; so many
 * parts at the most are told apart. */
enum { LONGEST_STRING = 4096, LONGEST_PART = 1 << 16, MOST_PARTS = 400, MOST_OWN_PARTS = 100 };

void mch_key_walk_no_memory(struct mch_key_walk *w) {
  luaL_error(w->L, "not enough memory");
}

static void check(struct mch_key_walk *w, const struct mch_buf *buf) {
  if (buf->failed)
    mch_key_walk_no_memory(w);
}

/* What there is goes into the hash, and into that of its part. Where this happens depends on what
 * the part contains only. */
static void pass_on(struct mch_key_walk *w) {
  w->part_hash = mch_set_mix(w->part_hash, w->out.data + w->part, w->out.length - w->part);
  if (!w->hashes)
    mch_hash_begin(&w->hash);
  w->hashes = 1;
  mch_hash_add(&w->hash, w->out.data, w->out.length);
  mch_buf_clear(&w->out);
  w->part = 0;
}

void mch_key_out_bytes(struct mch_key_walk *w, const void *bytes, size_t count) {
  if (count > w->out.capacity - w->out.length) {
    mch_buf_append(&w->out, bytes, count);
    check(w, &w->out);
  } else {
    memcpy(w->out.data + w->out.length, bytes, count);
    w->out.length += count;
  }
  if (w->out.length - w->part >= LONGEST_PART)
    pass_on(w);
}

void mch_key_out_byte(struct mch_key_walk *w, unsigned char byte) {
  mch_key_out_bytes(w, &byte, 1);
}

void mch_key_out_number(struct mch_key_walk *w, uint64_t number) {
  unsigned char bytes[MCH_NUMBER_VARINT];
  mch_key_out_bytes(w, bytes, mch_number_store_varint(bytes, number));
}

void mch_key_out_string(struct mch_key_walk *w, unsigned char tag, const char *s, size_t length) {
  unsigned char head[1 + MCH_NUMBER_VARINT], hash[MCH_HASH_SIZE];
  head[0] = tag;
  mch_key_out_bytes(w, head, 1 + mch_number_store_varint(head + 1, length));
  if (length <= LONGEST_STRING) {
    mch_key_out_bytes(w, s, length);
  } else {
    mch_hash_of(s, length, hash);
    mch_key_out_bytes(w, hash, sizeof hash);
  }
}

void mch_key_out_begin_part(struct mch_key_walk *w) {
  if (w->out.length >= LONGEST_PART)
    pass_on(w);
  w->part = w->out.length;
  w->part_hash = 0;
}

int mch_key_out_may_part(const struct mch_key_walk *w, size_t count) {
  return w->part_count[w->layer] + count <= (w->layer == 0 ? MOST_PARTS : MOST_OWN_PARTS);
}

/* The part at hand is over, and `text` has its path. */
static void end_part(struct mch_key_walk *w) {
  struct mch_buf *parts = &w->parts[w->layer];
  unsigned char length[MCH_NUMBER_VARINT];
  uint64_t hash = mch_set_mix(w->part_hash, w->out.data + w->part, w->out.length - w->part);
  mch_buf_append(parts, length, mch_number_store_varint(length, w->text.length));
  mch_buf_append(parts, w->text.data, w->text.length);
  mch_buf_u64(parts, hash);
  check(w, parts);
  w->part_count[w->layer]++;
  w->part = w->out.length;
  w->part_hash = 0;
}

void mch_key_out_end_part(struct mch_key_walk *w, const struct mch_node *node, int line) {
  if (w->is_state || !mch_key_out_may_part(w, 1))
    return;
  mch_buf_clear(&w->text);
  mch_key_path(w, node, line);
  end_part(w);
}

void mch_key_out_end_named_part(struct mch_key_walk *w, const char *name, size_t length) {
  mch_buf_clear(&w->text);
  mch_buf_append(&w->text, name, length);
  check(w, &w->text);
  end_part(w);
}

void mch_key_out_end(struct mch_key_walk *w, unsigned char hash[MCH_HASH_SIZE]) {
  if (!w->hashes) {
    mch_hash_of(w->out.data, w->out.length, hash);
  } else {
    mch_hash_add(&w->hash, w->out.data, w->out.length);
    mch_hash_end(&w->hash, hash);
  }
  w->hashes = 0;
  w->part = 0;
  mch_buf_shrink(&w->out, 1 << 16);
}
