/* Runs in: both.
 *
 * How failures travel through runtime/: a function returns 0, or one of the negative codes below
 * and fills the caller's struct mch_error. Nothing here prints, exits or jumps. */
#ifndef MCH_ERROR_H
#define MCH_ERROR_H

enum mch_code {
  MCH_NOMEM = -99, /* not enough memory */
  MCH_SYSTEM,      /* a system call failed */
  MCH_FULL,        /* no room for more now */
  MCH_CLOSED,      /* the other side has gone */
  MCH_PROTOCOL,    /* the other side broke the protocol */
  MCH_LIMIT        /* a stated limit was exceeded */
};

struct mch_error {
  int code;       /* enum mch_code */
  char text[224]; /* a sentence for a user, always terminated */
};

/* Fill `error` (which may be NULL) with a formatted sentence and return `code`. errno is kept. */
int mch_error_set(struct mch_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A system call has failed: `error` gets "<what>: <strerror(errno)>". Returns MCH_SYSTEM; errno is
 * kept. */
int mch_error_system(struct mch_error *error, const char *what);

#endif
