/* Runs in: parent.
 *
 * The Lua modules that workers on other machines may have: files on the script's package.path, and
 * functions of its package.preload. The owner's thread says what there is; any thread may ask. */
#ifndef MCH_HOSTS_LIBRARY_H
#define MCH_HOSTS_LIBRARY_H

#include "hosts.h"

struct mch_shelf;

/* NULL: no memory. */
struct mch_shelf *mch_shelf_new(void);
void mch_shelf_free(struct mch_shelf *shelf);

/* From now on files are found by these templates. Without memory none are. */
void mch_shelf_set_path(struct mch_shelf *shelf, const char *path);

/* Serve only modules of these names, each with a zero; NULL: all. */
void mch_shelf_set_names(struct mch_shelf *shelf, const char *names, size_t length);

/* Forget all functions of package.preload; add one. */
void mch_shelf_clear(struct mch_shelf *shelf);
void mch_shelf_add(struct mch_shelf *shelf, const char *name, const void *graph, size_t length);

/* As struct mch_library wants it; `ud` is the shelf. */
enum mch_module_kind mch_shelf_find(void *ud, const char *name, size_t length,
                                    struct mch_buf *chunk, struct mch_buf *source);

/* Whether a name may be asked for: parts of letters, digits, - and _, joined by dots. */
int mch_shelf_is_name(const char *name, size_t length);

#endif
