/* Runs in: both. Purpose: tracefile.h.
 *
 * The closing bracket stands far behind the items, with spaces between them and it:
 *
 *   [ first, item, item, item                                                        ]
 *                            ^ the next ones go here                  the end of the file
 *
 * Items do not cross the borders of pages, which the system copies whole: whatever part of a write
 * somebody sees, or is left when the writer is killed, is a list.
 *
 * When there is no room left, a larger copy takes the name of the file, so that whoever is reading
 * goes on with the old one, which changes no more: no bracket can move under his eyes. In the end a
 * copy without spaces does so. Forks see that their file has lost its name, and follow. Where there
 * can be no copy (a link, a folder that may not be written to), and in forks, the bracket moves:
 * spaces are appended behind it, then there is a new one at the end, then the old one becomes
 * spaces.
 *
 * Locks of fcntl(2) on two bytes: IN_USE is the owner's while it lives, WRITING is taken around
 * each write. Such locks are not inherited, and go with the process. */
#define _POSIX_C_SOURCE 200809L
#include "tracefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/buf.h"
#include "runtime/base/file.h"
#include "runtime/base/platform.h"

static const char opening[] = "[\n", closing[] = "\n]\n";
enum { OPENING = sizeof opening - 1, CLOSING = sizeof closing - 1, IN_USE = 0, WRITING = 1 };
enum { NAP = 2000000 }; /* nanoseconds between two looks whether others have done writing */
enum { PAGE = 4096, LEAST_STEP = 16 * PAGE, MOST_STEP = 1024 * PAGE };
enum { PIECE = 64 * PAGE, MOST_TRIMMED = 64 * 1024 * 1024 }; /* of a copy; of one at the end */

struct mch_tracefile {
  int fd;
  int inherited; /* from the process that opened it */
  char *path;
  char *whole;         /* the path from the root: the script, or a task, may go to another folder */
  char *first;         /* what it begins with, to know it again */
  off_t end;           /* of the items, when it was last looked at */
  struct mch_buf text; /* while writing */
};

char *mch_tracefile_name(const char *pattern) {
  size_t length = strlen(pattern), room = 12 * length + 16, at = 0, i;
  char *name = malloc(room);
  if (name == NULL)
    return NULL;
  for (i = 0; i < length; i++)
    if (pattern[i] == '%' && pattern[i + 1] == 'p') {
      at += (size_t)snprintf(name + at, room - at, "%ld", (long)getpid());
      i++;
    } else
      name[at++] = pattern[i];
  name[at] = '\0';
  return name;
}

/* -- locks -------------------------------------------------------------------------------- */

/* 0, or errno. */
static int set_lock(int fd, off_t at, short type) {
  struct flock lock = {0};
  int problem;
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  do
    problem = fcntl(fd, F_SETLK, &lock) == 0 ? 0 : errno;
  while (problem == EINTR);
  return problem;
}

static int is_held(int problem) {
  return problem == EAGAIN || problem == EACCES;
}

/* The one who has it may be stopped: nobody waits longer than `patience`. */
static int lock_within(int fd, size_t patience) {
  struct timespec nap = {0, NAP};
  uint64_t until = mch_now() + patience;
  int problem;
  while (is_held(problem = set_lock(fd, WRITING, F_WRLCK)) && mch_now() < until)
    nanosleep(&nap, NULL);
  return problem;
}

/* -- opening ------------------------------------------------------------------------------ */

/* Write the first item over whatever there is. */
static int begin(const struct mch_tracefile *file, int fd) {
  struct mch_buf text = {0};
  int problem;
  mch_buf_append(&text, opening, OPENING);
  mch_buf_append(&text, file->first, strlen(file->first));
  while (text.failed == 0 && text.length % PAGE != PAGE - CLOSING)
    mch_buf_u8(&text, ' ');
  mch_buf_append(&text, closing, CLOSING);
  problem = text.failed != 0 ? ENOMEM : 0;
  if (problem == 0 && ftruncate(fd, 0) != 0)
    problem = errno;
  if (problem == 0)
    problem = mch_file_write(fd, text.data, text.length, 0);
  mch_buf_free(&text);
  return problem;
}

/* Give it its name: that of no other file, or that of the one which is held. 0 or errno. */
static int give_name(const struct mch_tracefile *file, const char *other, int is_new) {
  if (is_new && link(other, file->path) == 0)
    return 0;
  if (is_new && errno != EPERM && errno != ENOTSUP && errno != ENOSYS) /* no links here */
    return errno;
  return rename(other, file->path) == 0 ? 0 : errno;
}

/* Make another file, which is whole when it gets its name; `old` is what has it: NULL: none. 0;
 * EEXIST: there is one; or errno, and all is as it was. */
static int make(struct mch_tracefile *file, const struct stat *old) {
  size_t room = strlen(file->path) + 32;
  char *other = malloc(room);
  int fd, problem;
  if (other == NULL)
    return ENOMEM;
  snprintf(other, room, "%s.%ld.new", file->path, (long)getpid());
  fd = mch_file_open(other, O_RDWR | O_CREAT | O_EXCL, old != NULL ? 0600 : 0666);
  problem = fd < 0 ? errno : begin(file, fd);
  if (problem == 0 && old != NULL && fchmod(fd, old->st_mode & 07777) != 0)
    problem = errno;
  if (problem == 0)
    problem = set_lock(fd, IN_USE, F_WRLCK);
  if (problem == 0)
    problem = give_name(file, other, old == NULL);
  if (fd >= 0)
    unlink(other);
  free(other);
  if (problem == 0) {
    if (file->fd >= 0)
      close(file->fd);
    file->fd = fd;
  } else if (fd >= 0)
    close(fd);
  return problem;
}

/* Whether a file of our own can have another in its place, and nobody sees a difference. */
static int is_replaceable(const struct mch_tracefile *file, const struct stat *status) {
  struct stat named;
  return lstat(file->whole, &named) == 0 && S_ISREG(named.st_mode) && named.st_nlink == 1 &&
         named.st_uid == geteuid() && named.st_dev == status->st_dev &&
         named.st_ino == status->st_ino;
}

/* Begin anew the file that is there and held. 0 or errno. */
static int renew(struct mch_tracefile *file, const struct stat *status) {
  int problem;
  if (is_replaceable(file, status) && make(file, status) == 0)
    return 0;
  problem = lock_within(file->fd, 1000000000u); /* of who outlives the run that had it */
  if (problem == 0)
    problem = begin(file, file->fd);
  set_lock(file->fd, WRITING, F_UNLCK);
  return problem;
}

static int refuse(const struct mch_tracefile *file, struct mch_error *error) {
  return mch_error_set(error, MCH_FULL, "%s is in use by another run", file->path);
}

static int take(struct mch_tracefile *file, struct mch_error *error) {
  struct stat status, named;
  int problem;
  if (fstat(file->fd, &status) != 0)
    return mch_error_system(error, file->path);
  if (!S_ISREG(status.st_mode))
    return mch_error_set(error, MCH_SYSTEM, "%s is no ordinary file, which a trace needs",
                         file->path);
  if (mch_platform_is_locked(file->fd, IN_USE)) /* by another state of this process, too */
    return refuse(file, error);
  problem = set_lock(file->fd, IN_USE, F_WRLCK);
  if (is_held(problem) || stat(file->path, &named) != 0 || named.st_ino != status.st_ino)
    return refuse(file, error); /* or another run has just begun it */
  if (problem == 0)
    problem = renew(file, &status);
  return problem == 0 ? 0
                      : mch_error_set(error, MCH_SYSTEM, "%s: %s", file->path, strerror(problem));
}

/* Without memory, or a folder: as it is. */
static char *from_the_root(const char *path) {
  size_t length = strlen(path), room = length + 4096;
  char *whole = malloc(room);
  if (whole == NULL)
    return NULL;
  if (path[0] == '/' || getcwd(whole, room - length - 2) == NULL)
    whole[0] = '\0';
  else
    strcat(whole, "/");
  return strcat(whole, path);
}

static int open_and_take(struct mch_tracefile *file, struct mch_error *error) {
  int problem;
  file->fd = mch_file_open(file->path, O_RDWR, 0);
  if (file->fd < 0 && errno == ENOENT) {
    problem = make(file, NULL);
    if (problem == 0)
      return 0;
    if (problem != EEXIST)
      return mch_error_set(error, MCH_SYSTEM, "%s: %s", file->path, strerror(problem));
    file->fd = mch_file_open(file->path, O_RDWR, 0); /* another run was faster */
  }
  return file->fd < 0 ? mch_error_system(error, file->path) : take(file, error);
}

static char *copy(const char *text) {
  size_t size = strlen(text) + 1;
  char *to = malloc(size);
  return to != NULL ? memcpy(to, text, size) : NULL;
}

struct mch_tracefile *mch_tracefile_open(const char *path, const char *first,
                                         struct mch_error *error) {
  struct mch_tracefile *file = calloc(1, sizeof *file);
  if (file != NULL)
    file->fd = -1;
  if (file == NULL || (file->path = copy(path)) == NULL || (file->first = copy(first)) == NULL ||
      (file->whole = from_the_root(path)) == NULL)
    mch_error_set(error, MCH_NOMEM, "not enough memory");
  else if (open_and_take(file, error) == 0) {
    file->end = OPENING + (off_t)strlen(first);
    return file;
  }
  mch_tracefile_close(file);
  return NULL;
}

void mch_tracefile_inherit(struct mch_tracefile *file) {
  file->inherited = 1;
  memset(&file->text, 0, sizeof file->text); /* a thread of the parent may be changing it */
}

void mch_tracefile_close(struct mch_tracefile *file) {
  if (file == NULL)
    return;
  if (file->fd >= 0)
    close(file->fd);
  mch_buf_free(&file->text);
  free(file->first);
  free(file->whole);
  free(file->path);
  free(file);
}

/* -- appending ---------------------------------------------------------------------------- */

/* Whether the descriptor still leads to what was opened: a task may have closed it, and another run
 * may have begun the file anew after ours has died. */
static int is_ours(const struct mch_tracefile *file) {
  char head[512];
  size_t length = strlen(file->first);
  ssize_t count;
  if (length > sizeof head - OPENING - 1)
    length = sizeof head - OPENING - 1;
  count = pread(file->fd, head, OPENING + length + 1, 0);
  if (count != (ssize_t)(OPENING + length + 1) || memcmp(head, opening, OPENING) != 0 ||
      memcmp(head + OPENING, file->first, length) != 0)
    return 0;
  return file->first[length] != '\0' || strchr(",\n ", head[OPENING + length]) != NULL;
}

static int is_whole(const struct mch_tracefile *file, off_t size) {
  char tail[CLOSING];
  return size >= CLOSING && pread(file->fd, tail, CLOSING, size - CLOSING) == CLOSING &&
         memcmp(tail, closing, CLOSING) == 0;
}

static int is_space(char byte) {
  return byte == ' ' || byte == '\n';
}

/* The end of what is before `to` without the spaces at its end; 0: nothing, or it cannot be read.
 */
static off_t before_spaces(const struct mch_tracefile *file, off_t to) {
  char piece[PAGE];
  while (to > 0) {
    size_t length = (size_t)(to % PAGE > 0 ? to % PAGE : PAGE);
    off_t from = to - (off_t)length;
    if (pread(file->fd, piece, length, from) != (ssize_t)length)
      return 0;
    for (; length > 0; length--)
      if (!is_space(piece[length - 1]))
        return from + (off_t)length;
    to = from;
  }
  return 0;
}

/* The size of the file, which ends with its bracket. Who was killed as that moved has left spaces
 * behind it, or none at all. 0: it cannot be had. */
static off_t see_to_bracket(const struct mch_tracefile *file) {
  struct stat status;
  off_t end;
  char last;
  if (fstat(file->fd, &status) != 0)
    return 0;
  if (is_whole(file, status.st_size))
    return status.st_size;
  end = before_spaces(file, status.st_size);
  if (end < OPENING || pread(file->fd, &last, 1, end - 1) != 1)
    return 0;
  if (last == ']')
    end -= 2; /* and its line */
  if (mch_file_write(file->fd, closing, CLOSING, end) != 0 ||
      ftruncate(file->fd, end + CLOSING) != 0)
    return 0;
  return end + CLOSING;
}

/* 0, or errno. */
static int write_spaces(const struct mch_tracefile *file, off_t from, off_t to) {
  char spaces[PAGE];
  memset(spaces, ' ', sizeof spaces);
  while (from < to) {
    size_t length = to - from < (off_t)sizeof spaces ? (size_t)(to - from) : sizeof spaces;
    int problem = mch_file_write(file->fd, spaces, length, from);
    if (problem != 0)
      return problem;
    from += (off_t)length;
  }
  return 0;
}

/* Where the last item begins, with the comma before it: a newline behind a comma is in no item. */
static off_t last_item(const struct mch_tracefile *file, off_t end) {
  char piece[PAGE];
  off_t from = end;
  while (from > 0) {
    off_t to = from + 1 < end ? from + 1 : end; /* pieces have one byte in common */
    size_t length, i;
    from = to > (off_t)sizeof piece ? to - (off_t)sizeof piece : 0;
    length = (size_t)(to - from);
    if (pread(file->fd, piece, length, from) != (ssize_t)length)
      return 0;
    for (i = length; i > 1; i--)
      if (piece[i - 1] == '\n' && piece[i - 2] == ',')
        return from + (off_t)i - 2;
  }
  return 0;
}

/* Take away what somebody who was killed has left behind the last whole item: a bracket that was to
 * go, or half an item. The end of the items; 0: it cannot be had. */
static off_t clean(const struct mch_tracefile *file, off_t end) {
  off_t least = OPENING + (off_t)strlen(file->first), from;
  char last;
  while (end > least) {
    if (pread(file->fd, &last, 1, end - 1) != 1)
      return 0;
    if (last == '}')
      return end;
    from = last == ']' ? end - 1 : last_item(file, end);
    if (from < least || write_spaces(file, from, end) != 0)
      return 0;
    end = before_spaces(file, from);
  }
  return end;
}

/* The end of the items before `to`; others may have written since the last time. No page between
 * items is empty. */
static off_t find_end(const struct mch_tracefile *file, off_t to) {
  off_t from = file->end - file->end % PAGE, end = file->end;
  char page[PAGE];
  for (; from < to; from += PAGE) {
    size_t length = to - from < PAGE ? (size_t)(to - from) : PAGE;
    if (pread(file->fd, page, length, from) != (ssize_t)length)
      return 0;
    while (length > 0 && is_space(page[length - 1]))
      length--;
    if (length == 0 && from >= file->end)
      break;
    if (from + (off_t)length > end)
      end = from + (off_t)length;
  }
  return clean(file, end);
}

/* Lay out items as they are to stand from `end` on. */
static int lay_out(struct mch_tracefile *file, const char *items, size_t length, off_t end) {
  size_t start = (size_t)(end % PAGE), at = 0, next;
  struct mch_buf *text = &file->text;
  mch_buf_clear(text);
  while (at < length && text->failed == 0) {
    const char *comma = at + 2 < length ? strstr(items + at + 2, ",\n") : NULL;
    next = comma != NULL ? (size_t)(comma - items) : length;
    if ((start + text->length) % PAGE + (next - at) > PAGE && next - at <= PAGE)
      while (text->failed == 0 && (start + text->length) % PAGE != 0)
        mch_buf_u8(text, ' ');
    mch_buf_append(text, items + at, next - at);
    at = next;
  }
  return text->failed == 0 ? 0 : ENOMEM;
}

/* Write what the file has up to `end` to another, of this size. 0, or errno. */
static int copy_to(const struct mch_tracefile *file, off_t end, int fd, off_t size) {
  struct mch_tracefile other = {.fd = fd};
  struct mch_buf piece = {0};
  int problem = mch_buf_reserve(&piece, PIECE) == 0 ? 0 : ENOMEM;
  off_t at = 0;
  while (problem == 0 && at < end) {
    ssize_t count = pread(file->fd, piece.data, (size_t)(end - at < PIECE ? end - at : PIECE), at);
    problem = count > 0    ? mch_file_write(fd, piece.data, (size_t)count, at)
              : count == 0 ? EIO
                           : errno;
    at += count > 0 ? count : 0;
  }
  mch_buf_free(&piece);
  if (problem == 0)
    problem = write_spaces(&other, end, size - CLOSING);
  return problem == 0 ? mch_file_write(fd, closing, CLOSING, size - CLOSING) : problem;
}

/* Let a copy of this size, with what is there up to `end`, have the name of the file, and be it. 0,
 * or errno, and all is as it was. */
static int move(struct mch_tracefile *file, off_t end, off_t size) {
  struct stat status;
  size_t room = strlen(file->whole) + 32;
  char *other;
  int fd, problem;
  if (file->inherited || fstat(file->fd, &status) != 0 || !is_replaceable(file, &status))
    return EPERM;
  if ((other = malloc(room)) == NULL)
    return ENOMEM;
  snprintf(other, room, "%s.%ld.new", file->whole, (long)getpid());
  fd = mch_file_open(other, O_RDWR | O_CREAT | O_EXCL, 0600);
  problem = fd < 0 ? errno : copy_to(file, end, fd, size);
  if (problem == 0 && fchmod(fd, status.st_mode & 07777) != 0)
    problem = errno;
  if (problem == 0)
    problem = set_lock(fd, IN_USE, F_WRLCK);
  if (problem == 0)
    problem = set_lock(fd, WRITING, F_WRLCK);
  if (problem == 0 && rename(other, file->whole) != 0)
    problem = errno;
  if (problem != 0 && fd >= 0) {
    close(fd);
    unlink(other);
  }
  free(other);
  if (problem == 0) {
    close(file->fd);
    file->fd = fd;
  }
  return problem;
}

static off_t whole_pages(off_t size) {
  return size + (PAGE - size % PAGE) % PAGE;
}

/* Make room for items from `end` up to `need`. 0, or errno, and the bracket stays where it was. */
static int grow(struct mch_tracefile *file, off_t size, off_t end, off_t need) {
  off_t step = size < LEAST_STEP ? LEAST_STEP : size / 2;
  off_t least = need + CLOSING > size ? need + CLOSING : size, larger;
  int problem;
  if (move(file, end, whole_pages(least + step)) == 0)
    return 0;
  step = size < LEAST_STEP ? LEAST_STEP : size < MOST_STEP ? size : MOST_STEP;
  larger = whole_pages(need + CLOSING > size + step ? need + CLOSING : size + step);
  problem = write_spaces(file, size, larger - CLOSING);
  if (problem == 0)
    problem = mch_file_write(file->fd, closing, CLOSING, larger - CLOSING);
  if (problem == 0)
    return write_spaces(file, size - CLOSING, size);
  return ftruncate(file->fd, size) == 0 ? problem : EIO;
}

static int write_items(struct mch_tracefile *file, const void *items, size_t length) {
  off_t size = see_to_bracket(file), end = size > 0 ? find_end(file, size - CLOSING) : 0;
  int problem = end > 0 ? lay_out(file, items, length, end) : EIO;
  if (problem == 0 && end + (off_t)file->text.length > size - CLOSING)
    problem = grow(file, size, end, end + (off_t)file->text.length);
  if (problem == 0)
    problem = mch_file_write(file->fd, file->text.data, file->text.length, end);
  if (problem == 0)
    file->end = end + (off_t)file->text.length;
  mch_buf_shrink(&file->text, 1024 * 1024);
  return problem;
}

/* Cut the file behind the last item. */
static void cut(struct mch_tracefile *file) {
  off_t size = see_to_bracket(file), end = size > 0 ? find_end(file, size - CLOSING) : 0;
  if (end == 0 || end + CLOSING >= size)
    return;
  if (end < MOST_TRIMMED && move(file, end, end + CLOSING) == 0)
    file->end = end;
  else if (mch_file_write(file->fd, closing, CLOSING, end) == 0 &&
           ftruncate(file->fd, end + CLOSING) == 0)
    file->end = end;
}

void mch_tracefile_trim(struct mch_tracefile *file) {
  if (file->inherited || set_lock(file->fd, IN_USE, F_WRLCK) != 0 ||
      lock_within(file->fd, 100000000u) != 0)
    return;
  if (is_ours(file))
    cut(file);
  set_lock(file->fd, WRITING, F_UNLCK);
}

/* In a fork: the file that has the name now, if it is ours, with its lock instead of the other's.
 * What the lock of the new one says. */
static int follow(struct mch_tracefile *file, size_t patience) {
  struct mch_tracefile named = *file;
  struct stat own, now;
  int problem;
  while (fstat(file->fd, &own) == 0 && stat(file->whole, &now) == 0 &&
         (own.st_ino != now.st_ino || own.st_dev != now.st_dev)) {
    named.fd = mch_file_open(file->whole, O_RDWR, 0);
    if (named.fd < 0)
      return 0;
    if (!is_ours(&named)) {
      close(named.fd);
      return 0;
    }
    close(file->fd); /* and its lock */
    file->fd = named.fd;
    file->end = OPENING;
    if ((problem = lock_within(file->fd, patience)) != 0)
      return problem;
  }
  return 0;
}

int mch_tracefile_append(struct mch_tracefile *file, const void *items, size_t length,
                         size_t patience, struct mch_error *error) {
  int problem;
  /* Who closes any descriptor of a file loses its locks: it is taken again each time. */
  if (!file->inherited && (problem = set_lock(file->fd, IN_USE, F_WRLCK)) != 0)
    return mch_error_set(error, MCH_CLOSED, "%s was lost to another process", file->path);
  problem = lock_within(file->fd, patience);
  if (problem == 0 && file->inherited && is_ours(file))
    problem = follow(file, patience);
  if (is_held(problem))
    return mch_error_set(error, MCH_FULL, "%s: another process is writing", file->path);
  if (problem == 0) {
    problem = is_ours(file) ? write_items(file, items, length) : EBADF;
    set_lock(file->fd, WRITING, F_UNLCK);
  }
  if (problem == 0)
    return 0;
  if (problem == EBADF)
    return mch_error_set(error, MCH_CLOSED, "%s was closed, or begun anew by others", file->path);
  return mch_error_set(error, MCH_SYSTEM, "%s: %s", file->path, strerror(problem));
}
