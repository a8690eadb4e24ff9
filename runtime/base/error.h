/* Runs in: both.
 *
 * How failures travel through runtime/: a function returns 0, or one of the negative codes below
 * and fills the caller's struct mch_error. Nothing here prints, exits or jumps. */
#ifndef MCH_ERROR_H
#define MCH_ERROR_H

#define MCH_ERRORS(X)                                                                              \
  X(NOMEM, "not enough memory")                                                                    \
  X(SYSTEM, "a system call failed")                                                                \
  X(FULL, "no room for more now")                                                                  \
  X(CLOSED, "the other side has gone")                                                             \
  X(PROTOCOL, "the other side broke the protocol")                                                 \
  X(LIMIT, "a stated limit was exceeded")

enum mch_code {
  MCH_OK = 0,
  MCH_ERROR_FIRST_ = -100, /* so that the codes below are negative */
#define MCH_CODE(name, text) MCH_##name,
  MCH_ERRORS(MCH_CODE)
#undef MCH_CODE
};

struct mch_error {
  int code;       /* enum mch_code */
  int sys_errno;  /* errno at the failure, or 0 */
  char text[224]; /* a sentence for a user, always terminated */
};

/* The fixed text of a code; never NULL. */
const char *mch_error_name(int code);

/* Fill `error` (which may be NULL) with a formatted sentence and return `code`. errno is kept. */
int mch_error_set(struct mch_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failed system call: ": <strerror(errno)>" is added, and MCH_SYSTEM returned. */
int mch_error_system(struct mch_error *error, const char *what);

#endif
