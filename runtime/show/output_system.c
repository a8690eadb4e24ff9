/* Runs in: both. Purpose: time, size, and what the descriptors are; output_state.h. */
#define _POSIX_C_SOURCE 200809L
#include "output_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "runtime/base/platform.h"

uint64_t mch_output_now(const struct mch_output *out) {
  return out->config.now != NULL ? out->config.now(out->config.ud) : mch_now();
}

uint64_t mch_output_cheap_now(const struct mch_output *out) {
  return out->config.now != NULL ? out->config.now(out->config.ud) : mch_cheap_now();
}

double mch_output_wall(const struct mch_output *out) {
  return out->config.wall != NULL ? out->config.wall(out->config.ud) : mch_wall();
}

void mch_output_size(const struct mch_output *out, unsigned *columns, unsigned *rows) {
  struct winsize size = {0, 0, 0, 0};
  *columns = *rows = 0;
  if (out->config.size != NULL) {
    out->config.size(out->config.ud, columns, rows);
  } else if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) {
    *columns = size.ws_col;
    *rows = size.ws_row;
  }
  *columns = *columns == 0 ? 80 : *columns;
  *rows = *rows == 0 ? 24 : *rows;
}

unsigned mch_output_columns(const struct mch_output *out) {
  unsigned columns, rows;
  mch_output_size(out, &columns, &rows);
  return columns;
}

int mch_output_real(const struct mch_output *out) {
  return out->config.write == NULL;
}

/* The same file, or the terminal of our session by two names (/dev/tty): there is only one. */
static int same_place(void) {
  return mch_hold_same_file(STDOUT_FILENO, STDERR_FILENO) ||
         (tcgetsid(STDOUT_FILENO) > 0 && tcgetsid(STDERR_FILENO) > 0);
}

/* Terminals that are known not to fold lines when the window becomes narrower: xterm itself, which
 * leaves its mark in what runs inside of it too, such as tmux and GNU screen, and these fold. */
static int cuts_lines(void) {
  const char *term = getenv("TERM");
  return getenv("XTERM_VERSION") != NULL && getenv("TMUX") == NULL && getenv("STY") == NULL &&
         term != NULL && strncmp(term, "xterm", 5) == 0;
}

void mch_output_look(struct mch_output *out) {
  if (out->looked)
    return;
  out->looked = 1;
  out->screen.cuts = mch_output_real(out) && cuts_lines();
  out->terminal =
      mch_output_real(out) ? isatty(STDERR_FILENO) : out->config.files & MCH_FILES_TERMINAL;
  out->same = mch_output_real(out) ? same_place() : out->config.files & MCH_FILES_SAME;
}

int mch_output_in_background(struct mch_output *out) {
  pid_t group = mch_output_real(out) ? tcgetpgrp(STDERR_FILENO) : -1;
  if (group < 0)
    return 0;
  if (group == getpgrp())
    out->foreground = 1;
  return out->foreground && group != getpgrp();
}

size_t mch_output_typed(void) {
  struct termios settings;
  int count = 0;
  if (!mch_hold_same_file(STDIN_FILENO, STDERR_FILENO) || tcgetattr(STDIN_FILENO, &settings) != 0 ||
      (settings.c_lflag & (ICANON | ECHO)) != (ICANON | ECHO) ||
      ioctl(STDIN_FILENO, FIONREAD, &count) != 0 || count < 0)
    return 0;
  return (size_t)count;
}

int mch_progress_mode_of(const char *word) {
  static const char *const words[] = {"auto", "bar", "text", "json", "off", "eta"};
  int i;
  for (i = 0; i < (int)(sizeof words / sizeof *words); i++)
    if (strcmp(word, words[i]) == 0)
      return i;
  return -1;
}

int mch_output_is_dumb(void) {
  const char *term = getenv("TERM");
  return term != NULL && strcmp(term, "dumb") == 0;
}

static enum mch_progress_mode usual_mode(const struct mch_output *out) {
  if (!out->terminal || mch_output_is_dumb())
    return MCH_PROGRESS_TEXT;
  return MCH_PROGRESS_BAR;
}

void mch_output_resolve(struct mch_output *out) {
  const char *word;
  int mode = MCH_PROGRESS_AUTO;
  mch_output_look(out);
  if (out->mode != MCH_PROGRESS_AUTO)
    return;
  word = getenv("MANTICHORA_PROGRESS");
  if (word != NULL && *word != '\0')
    mode = mch_progress_mode_of(word);
  if (mode < 0 && !out->child)
    mch_output_complain(out, MCH_TROUBLE_MODE, 0);
  out->times = mode == MCH_PROGRESS_ETA;
  out->mode =
      mode <= MCH_PROGRESS_AUTO || out->times ? usual_mode(out) : (enum mch_progress_mode)mode;
}
