/* Runs in: parent.
 *
 * A terminal that one program has for itself: keys come one by one, the screen is another one than
 * that of the shell. Whatever ends or stops the program gives the terminal back first: its end,
 * exit(), signals (SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP). There is one terminal: one process
 * has it. */
#ifndef MCH_TTY_H
#define MCH_TTY_H

#include <stddef.h>

/* Take it: keys from descriptor 0, pictures to 1. 0, or an errno. */
int mch_tty_open(void);
/* Give it back; twice does no harm. */
void mch_tty_close(void);

/* Columns and rows of a window; 0: it is no terminal. */
int mch_tty_size(int fd, unsigned *columns, unsigned *rows);

/* Write all of it, whatever the terminal takes at once. 0: it has gone. */
int mch_tty_write(const char *bytes, size_t length);

/* What a wait has brought, a sum. */
enum { MCH_TTY_KEYS = 1, MCH_TTY_READABLE = 2, MCH_TTY_CHANGED = 4, MCH_TTY_GONE = 8 };

/* Wait until a key is pressed, `fd` (-1: none) is readable, or the screen is to be drawn anew
 * (another size; the program was stopped and goes on), `milliseconds` at most. Keys are put into
 * `keys`. */
int mch_tty_wait(int fd, int milliseconds, char *keys, size_t room, size_t *length);

/* Stop, as Ctrl-Z does, until somebody says `fg`. */
void mch_tty_stop(void);

#endif
