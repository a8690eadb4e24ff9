/* Runs in: parent.
 *
 * Chunks typed at the prompt, kept in a file that only its user may read: one per line, the oldest
 * first. Several sessions may write to it at once; none loses what another wrote. */
#ifndef MCH_HISTORY_H
#define MCH_HISTORY_H

/* Chunks that a session begins with, and that the file is cut to when it has twice as many. */
enum { MCH_HISTORY_MOST = 1000 };

/* The file's name: mantichora/history in $XDG_STATE_HOME, or in ~/.local/state. Its folder is made.
 * The caller's to free; NULL if there is no place for it. */
char *mch_history_path(void);

/* Read the file, call `add` for each chunk, and cut the file if it has become long. */
void mch_history_load(const char *path, void (*add)(void *ud, const char *chunk), void *ud);

/* Add a chunk at its end; one that is empty or very long is left out. */
void mch_history_append(const char *path, const char *chunk);

#endif
