/* Runs in: both. Purpose: memory.h. */
#define _POSIX_C_SOURCE 200809L
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform.h"

enum {
  TEXT_ROOM =
      16 * 1024, /* the longest file that is read here, /proc/meminfo and memory.stat, is shorter */
  CHEAP_SHARE = 20, /* looks take a twentieth of the time at most, */
  EXACT_SHARE = 50  /* those that cost more over a large heap a fiftieth */
};

/* The whole file as text, at once, so that its numbers belong together. 0, or -1. */
static int read_text(const char *path, char *text) {
  size_t length = 0;
  ssize_t got;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  do {
    got = read(fd, text + length, TEXT_ROOM - 1 - length);
    length += got > 0 ? (size_t)got : 0;
  } while ((got > 0 && length < TEXT_ROOM - 1) || (got < 0 && errno == EINTR));
  close(fd);
  text[length] = '\0';
  return length > 0 ? 0 : -1;
}

/* The number behind `name` at the beginning of a line. 0, or -1: there is none. */
static int number_of(const char *text, const char *name, uint64_t *number) {
  size_t length = strlen(name);
  const char *line = text;
  while (line != NULL) {
    if (strncmp(line, name, length) == 0 && strchr(": \t", line[length]) != NULL &&
        line[length] != '\0') {
      *number = strtoull(line + length + 1, NULL, 10);
      return 0;
    }
    line = strchr(line, '\n');
    line = line != NULL ? line + 1 : NULL;
  }
  return -1;
}

/* -- of its own --------------------------------------------------------------------------- */

/* Bytes in memory that are no file's: inherited ones and its own. 0, or -1: it is not said. */
static int anonymous(uint64_t *bytes) {
  char text[TEXT_ROOM], *end;
  unsigned long long resident, shared;
  if (read_text("/proc/self/statm", text) != 0)
    return -1;
  strtoull(text, &end, 10);
  resident = strtoull(end, &end, 10);
  shared = strtoull(end, &end, 10);
  if (resident == 0 || shared > resident)
    return -1;
  *bytes = (uint64_t)(resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
  return 0;
}

/* Bytes that it has written to and shares with no process. 0, or -1: it is not said. */
static int unshared(uint64_t *bytes) {
  char text[TEXT_ROOM];
  uint64_t dirty, huge = 0;
  if (read_text("/proc/self/smaps_rollup", text) != 0 ||
      number_of(text, "Private_Dirty", &dirty) != 0)
    return -1;
  number_of(text, "Private_Hugetlb", &huge);
  *bytes = (dirty + huge) * 1024u;
  return 0;
}

void mch_own_memory_begin(struct mch_own_memory *own) {
  if (anonymous(&own->inherited) != 0)
    own->inherited = mch_platform_maxrss();
}

/* What is above what was inherited is surely its own, and nothing else than what is anonymous can
 * be. In between, pages that were inherited may have become its own by being written to. */
static int exceeds(struct mch_own_memory *own, uint64_t most) {
  uint64_t bytes, start, now;
  if (anonymous(&bytes) != 0) {
    bytes = mch_platform_maxrss();
    return bytes > own->inherited && bytes - own->inherited > most;
  }
  if (bytes > own->inherited && bytes - own->inherited > most)
    return 1;
  start = mch_now();
  if (bytes <= most || start < own->next_exact || unshared(&bytes) != 0)
    return 0;
  now = mch_now();
  own->next_exact = now + (now - start) * EXACT_SHARE;
  return bytes > most;
}

int mch_own_memory_exceeds(struct mch_own_memory *own, uint64_t most) {
  uint64_t start = mch_now(), now;
  int result;
  if (start < own->next)
    return 0;
  result = exceeds(own, most);
  now = mch_now();
  own->next = now + (now - start) * CHEAP_SHARE;
  return result;
}

/* -- what is left ------------------------------------------------------------------------- */

/* Where the two versions of control groups say what. */
struct names {
  const char *limit, *use, *cache[2];
};
static const struct names version1 = {
    "memory.limit_in_bytes", "memory.usage_in_bytes", {"total_inactive_file", "total_active_file"}};
static const struct names version2 = {
    "memory.max", "memory.current", {"inactive_file", "active_file"}};

static int read_in(const char *folder, const char *name, char *text) {
  char path[2 * PATH_MAX + 96];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return read_text(path, text);
}

/* What the group of this folder may still use; UINT64_MAX: it has no limit. */
static uint64_t left_in(const char *folder, const struct names *names) {
  char text[TEXT_ROOM];
  uint64_t limit, use, cache;
  int i;
  if (read_in(folder, names->limit, text) != 0 || text[0] < '0' || text[0] > '9')
    return UINT64_MAX;
  limit = strtoull(text, NULL, 10);
  if (read_in(folder, names->use, text) != 0)
    return UINT64_MAX;
  use = strtoull(text, NULL, 10);
  if (read_in(folder, "memory.stat", text) == 0)
    for (i = 0; i < 2; i++)
      if (number_of(text, names->cache[i], &cache) == 0)
        use -= cache < use ? cache : use;
  return limit > use ? limit - use : 0;
}

/* The least of a group and of those that it is in. What is not there (a container is told paths
 * that lead out of it) has no limit. */
static uint64_t left_above(const char *base, const char *group, const struct names *names) {
  char folder[2 * PATH_MAX];
  uint64_t least = UINT64_MAX;
  char *slash;
  size_t length = strlen(base);
  snprintf(folder, sizeof folder, "%s%s", base, group);
  for (;;) {
    uint64_t left = left_in(folder, names);
    least = left < least ? left : least;
    slash = strrchr(folder, '/');
    if (slash == NULL || (size_t)(slash - folder) < length)
      return least;
    *slash = '\0';
  }
}

/* Whether `word` is one of the list that ends at `end`. */
static int is_among(const char *list, const char *end, const char *word) {
  size_t length = strlen(word);
  while (list < end) {
    size_t span = strcspn(list, ",:");
    if (span == length && strncmp(list, word, length) == 0)
      return 1;
    list += span + 1;
  }
  return 0;
}

/* By a line of /proc/self/cgroup: number, controllers (none: version 2), path. */
static uint64_t left_by_line(const char *root, char *line) {
  char base[PATH_MAX];
  char *controllers = strchr(line, ':'), *group;
  uint64_t left, hybrid;
  if (controllers == NULL || (group = strchr(++controllers, ':')) == NULL)
    return UINT64_MAX;
  if (controllers != group && !is_among(controllers, group, "memory"))
    return UINT64_MAX;
  if (controllers != group) {
    snprintf(base, sizeof base, "%s/sys/fs/cgroup/memory", root);
    return left_above(base, group + 1, &version1);
  }
  snprintf(base, sizeof base, "%s/sys/fs/cgroup", root);
  left = left_above(base, group + 1, &version2);
  snprintf(base, sizeof base, "%s/sys/fs/cgroup/unified", root);
  hybrid = left_above(base, group + 1, &version2);
  return hybrid < left ? hybrid : left;
}

static uint64_t left_in_groups(const char *root) {
  char path[PATH_MAX], text[TEXT_ROOM];
  uint64_t least = UINT64_MAX;
  char *line, *next;
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  if (read_text(path, text) != 0)
    return UINT64_MAX;
  for (line = text; line != NULL; line = next) {
    uint64_t left;
    next = strchr(line, '\n');
    if (next != NULL)
      *next++ = '\0';
    left = left_by_line(root, line);
    least = left < least ? left : least;
  }
  return least;
}

static uint64_t left_in_machine(const char *root) {
  char path[PATH_MAX], text[TEXT_ROOM];
  uint64_t kilobytes;
  snprintf(path, sizeof path, "%s/proc/meminfo", root);
  if (read_text(path, text) == 0 && number_of(text, "MemAvailable", &kilobytes) == 0)
    return kilobytes * 1024u;
#if defined(_SC_AVPHYS_PAGES)
  if (sysconf(_SC_AVPHYS_PAGES) > 0)
    return (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
#endif
  return UINT64_MAX;
}

uint64_t mch_memory_available(const char *root) {
  uint64_t machine = left_in_machine(root), groups = left_in_groups(root);
  return groups < machine ? groups : machine;
}
