/* A file that is one whole list after each write: by whom ever it is written, and whatever becomes
 * of the writers. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/watch/tracefile.h"

enum { PATIENCE = 1000000000 };

static char path[64];
static char text[1 << 22];

/* What is in the file now. */
static const char *contents(void) {
  FILE *stream = fopen(path, "rb");
  size_t length = stream != NULL ? fread(text, 1, sizeof text - 1, stream) : 0;
  text[length] = '\0';
  if (stream != NULL)
    fclose(stream);
  return text;
}

static int has(const char *expected) {
  size_t to = 0, from;
  contents();
  for (from = 0; text[from] != '\0'; from++) /* without the spaces that the next items will take */
    if (text[from] != ' ' && (text[from] != '\n' || to == 0 || text[to - 1] != '\n'))
      text[to++] = text[from];
  text[to] = '\0';
  if (strcmp(text, expected) == 0)
    return 1;
  fprintf(stderr, "  the file has %s\n", text);
  return 0;
}

static int append(struct mch_tracefile *file, const char *items) {
  struct mch_error error;
  return mch_tracefile_append(file, items, strlen(items), PATIENCE, &error);
}

static struct mch_tracefile *begin(const char *first) {
  struct mch_error error;
  struct mch_tracefile *file = mch_tracefile_open(path, first, &error);
  if (file == NULL)
    fprintf(stderr, "  %s\n", error.text);
  CHECK(file != NULL);
  return file;
}

static void is_whole_after_each_write(void) {
  struct mch_tracefile *file = begin("1");
  CHECK(has("[\n1\n]\n"));
  CHECK(append(file, ",\n{2}") == 0);
  CHECK(has("[\n1,\n{2}\n]\n"));
  CHECK(append(file, ",\n{3},\n{4}") == 0);
  CHECK(has("[\n1,\n{2},\n{3},\n{4}\n]\n"));
  mch_tracefile_close(file);
  file = begin("5"); /* another run: it begins anew */
  CHECK(has("[\n5\n]\n"));
  mch_tracefile_close(file);
}

/* The status with which a child ends that calls f. */
static int in_child(int (*f)(struct mch_tracefile *file), struct mch_tracefile *file) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0)
    _exit(f(file));
  while (waitpid(pid, &status, 0) < 0) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static int is_refused(struct mch_tracefile *file) {
  struct mch_error error;
  (void)file;
  if (mch_tracefile_open(path, "9", &error) != NULL)
    return 1;
  return strstr(error.text, "is in use") != NULL && strstr(error.text, path) != NULL ? 0 : 2;
}

static void is_refused_while_in_use(void) {
  struct mch_tracefile *file = begin("1");
  CHECK(in_child(is_refused, NULL) == 0);
#if defined(__linux__) && !defined(MANTICHORA_PORTABLE)
  CHECK(is_refused(NULL) == 0); /* another state of this process */
#endif
  CHECK(append(file, ",\n{2}") == 0); /* closing that descriptor has dropped our lock: it is back */
  CHECK(in_child(is_refused, NULL) == 0);
  CHECK(has("[\n1,\n{2}\n]\n"));
  mch_tracefile_close(file);
}

static int write_as_child(struct mch_tracefile *file) {
  mch_tracefile_inherit(file);
  return append(file, ",\n{3}") == 0 ? 0 : 1;
}

/* Where the items end. */
static off_t end_of_items(void) {
  contents();
  return strrchr(text, '}') + 1 - text;
}

/* What is left of writers that were killed in the middle of it. */
static int put_at(const char *bytes, off_t at) {
  int fd = open(path, O_WRONLY);
  ssize_t count = pwrite(fd, bytes, strlen(bytes), at);
  close(fd);
  return count == (ssize_t)strlen(bytes);
}

static void is_written_by_forks(void) {
  struct mch_tracefile *file = begin("1");
  CHECK(append(file, ",\n{2}") == 0);
  CHECK(in_child(write_as_child, file) == 0);
  CHECK(append(file, ",\n{4}") == 0);
  CHECK(has("[\n1,\n{2},\n{3},\n{4}\n]\n"));
  mch_tracefile_close(file);
}

static void loses_only_what_was_cut_off(void) {
  struct mch_tracefile *file = begin("1");
  int i;
  CHECK(append(file, ",\n{2}") == 0);
  CHECK(put_at(",\n{3},\n{\"was kil", end_of_items()));
  CHECK(append(file, ",\n{4}") == 0);
  CHECK(has("[\n1,\n{2},\n{3},\n{4}\n]\n"));
  mch_tracefile_close(file);
  file = begin("1");
  CHECK(append(file, ",\n{2}") == 0);
  for (i = 0; i < 3; i++) { /* killed while the bracket moved */
    struct stat status;
    CHECK(stat(path, &status) == 0);
    CHECK(put_at(i == 0 ? "            " : i == 1 ? "   \n]\n" : "\n", status.st_size));
    CHECK(append(file, i == 0 ? ",\n{3}" : i == 1 ? ",\n{4}" : ",\n{5}") == 0);
  }
  CHECK(has("[\n1,\n{2},\n{3},\n{4},\n{5}\n]\n"));
  mch_tracefile_close(file);
}

/* As long as there are spaces the file is as large as it was; in the end there are none. */
static void grows_and_is_cut(void) {
  enum { MANY = 30000 };
  struct mch_tracefile *file = begin("1");
  size_t length, at, count = 0;
  struct stat before, now;
  int i;
  char item[64];
  CHECK(stat(path, &before) == 0 && before.st_size == 4096);
  for (i = 0; i < MANY; i++) {
    snprintf(item, sizeof item, ",\n{\"number\": %d}", i);
    if (append(file, item) != 0)
      break;
  }
  CHECK(i == MANY && stat(path, &now) == 0 && now.st_size % 4096 == 0);
  contents();
  length = strlen(text);
  CHECK((off_t)length == now.st_size && strcmp(text + length - 3, "\n]\n") == 0);
  for (at = 0; at + 1 < length; at++)
    count += text[at] == ',' && text[at + 1] == '\n';
  CHECK(count == MANY && strchr(text, ']') == text + length - 2);
  for (at = 4096; at < length; at += 4096) /* no item crosses a page */
    CHECK(text[at] == ',' || text[at] == ' ');
  mch_tracefile_trim(file);
  CHECK(strstr(contents(), "{\"number\": 29999}\n]\n") != NULL);
  CHECK(append(file, ",\n{\"number\": 30000}") == 0);
  mch_tracefile_trim(file);
  CHECK(strstr(contents(), "29999},\n{\"number\": 30000}\n]\n") != NULL);
  mch_tracefile_close(file);
}

static void append_many(struct mch_tracefile *file, int from, int to) {
  char item[64];
  for (; from < to; from++) {
    snprintf(item, sizeof item, ",\n{\"number\": %d}", from);
    CHECK(append(file, item) == 0);
  }
}

/* Read from where it is to the end; whether the whole that was read ends with its only bracket. */
static int is_whole_for(int fd, size_t length) {
  ssize_t count;
  while (length < sizeof text - 1 && (count = read(fd, text + length, 4096)) > 0)
    length += (size_t)count;
  text[length] = '\0';
  return length > 3 && strcmp(text + length - 3, "\n]\n") == 0 &&
         strchr(text, ']') == text + length - 2;
}

/* Who has read some of it, or all but that there is no more, when it grows and when it is cut. */
static void stays_whole_under_who_reads_it(void) {
  struct mch_tracefile *file = begin("1");
  int all = open(path, O_RDONLY), some;
  CHECK(read(all, text, 4096) == 4096 && memcmp(text + 4093, "\n]\n", 3) == 0);
  append_many(file, 0, 1000);
  CHECK(is_whole_for(all, 4096));
  close(all);
  some = open(path, O_RDONLY);
  CHECK(read(some, text, 4096) == 4096);
  append_many(file, 1000, 9000);
  CHECK(is_whole_for(some, 4096));
  close(some);
  some = open(path, O_RDONLY);
  CHECK(read(some, text, 4096) == 4096);
  mch_tracefile_trim(file);
  CHECK(is_whole_for(some, 4096));
  close(some);
  CHECK(strstr(contents(), "{\"number\": 8999}\n]\n") != NULL);
  mch_tracefile_close(file);
}

/* A fork follows when the file has moved, and has to make room itself. */
static void is_found_by_forks_where_it_has_moved(void) {
  struct mch_tracefile *file = begin("1");
  char go[80], folder[64];
  struct timespec nap = {0, 1000000};
  int status = -1, here = open(".", O_RDONLY);
  pid_t pid;
  mch_tracefile_close(file);
  snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
  snprintf(go, sizeof go, "%s.go", path);
  CHECK(chdir(folder) == 0);
  file = mch_tracefile_open(strrchr(path, '/') + 1, "1", &(struct mch_error){0});
  CHECK(file != NULL && chdir("/") == 0);
  pid = fork();
  if (pid == 0) {
    mch_tracefile_inherit(file);
    while (access(go, F_OK) != 0)
      nanosleep(&nap, NULL);
    append_many(file, 2000, 12000);
    _exit(check_report());
  }
  append_many(file, 0, 2000);
  close(open(go, O_CREAT | O_WRONLY, 0600));
  while (waitpid(pid, &status, 0) < 0) {
  }
  unlink(go);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  append_many(file, 12000, 12001);
  mch_tracefile_trim(file);
  CHECK(strstr(contents(), "11999},\n{\"number\": 12000}\n]\n") != NULL);
  CHECK(strstr(text, "1999},\n{\"number\": 2000},\n") != NULL);
  mch_tracefile_close(file);
  CHECK(fchdir(here) == 0);
  close(here);
}

/* A task that closes what it has inherited, and opens something else in its place. */
static int write_elsewhere(struct mch_tracefile *file) {
  char other[80];
  int fd, code;
  struct stat status;
  mch_tracefile_inherit(file);
  for (fd = 3; fd < 64; fd++)
    close(fd);
  snprintf(other, sizeof other, "%s.other", path);
  for (fd = 3; fd < 20; fd++)
    if (open(other, O_RDWR | O_CREAT, 0600) < 0)
      return 1;
  code = append(file, ",\n{3}");
  unlink(other);
  return fstat(3, &status) == 0 && status.st_size == 0 && code == MCH_CLOSED ? 0 : 2;
}

static void is_not_mistaken(void) {
  struct mch_tracefile *file = begin("1");
  CHECK(in_child(write_elsewhere, file) == 0);
  CHECK(append(file, ",\n{2}") == 0);
  CHECK(has("[\n1,\n{2}\n]\n"));
  mch_tracefile_close(file);
}

static int write_after_another_run(struct mch_tracefile *file) {
  mch_tracefile_inherit(file);
  return append(file, ",\n{2}") == MCH_CLOSED ? 0 : 1;
}

/* One that outlives the run which began the file; `links`: which is the same file then. */
static void is_left_alone_by_those_of_another_run(int links) {
  struct mch_tracefile *file = begin("1"), *other;
  struct timespec nap = {0, 1000000};
  char go[80], twin[80];
  int status = -1;
  pid_t pid;
  snprintf(go, sizeof go, "%s.go", path);
  snprintf(twin, sizeof twin, "%s.twin", path);
  pid = fork();
  if (pid == 0) {
    while (access(go, F_OK) != 0)
      nanosleep(&nap, NULL);
    _exit(write_after_another_run(file));
  }
  mch_tracefile_close(file);
  CHECK(!links || link(path, twin) == 0);
  other = begin("10");
  close(open(go, O_CREAT | O_WRONLY, 0600));
  while (waitpid(pid, &status, 0) < 0) {
  }
  unlink(go);
  unlink(twin);
  CHECK(WIFEXITED(status) && (!links || WEXITSTATUS(status) == 0));
  CHECK(has("[\n10\n]\n"));
  mch_tracefile_close(other);
}

static int fill_up(struct mch_tracefile *file) {
  struct rlimit most = {10000, 10000};
  struct mch_error error;
  int i;
  mch_tracefile_close(file);
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &most);
  file = mch_tracefile_open(path, "1", &error);
  for (i = 0; i < 10000; i++)
    if (file == NULL || mch_tracefile_append(file, ",\n{some text}", 13, 0, &error) != 0)
      return i > 200 && strstr(error.text, path) != NULL ? 0 : 1;
  return 2;
}

static void is_whole_on_a_full_disk(void) {
  size_t length;
  CHECK(in_child(fill_up, NULL) == 0);
  length = strlen(contents());
  CHECK(length > 3000 && length <= 10000 && strcmp(text + length - 3, "\n]\n") == 0);
  CHECK(strchr(text, ']') == text + length - 2);
}

/* What a file is beside its contents stays so. */
static void is_the_same_file_as_before(void) {
  char other[80];
  struct stat before, now;
  struct mch_tracefile *file = begin("0");
  mch_tracefile_close(file);
  CHECK(chmod(path, 0640) == 0);
  file = begin("1");
  CHECK(stat(path, &now) == 0 && (now.st_mode & 07777) == 0640);
  mch_tracefile_close(file);
  snprintf(other, sizeof other, "%s.other", path);
  CHECK(link(path, other) == 0 && stat(other, &before) == 0);
  file = begin("2");
  CHECK(stat(other, &now) == 0 && now.st_ino == before.st_ino && has("[\n2\n]\n"));
  CHECK(stat(path, &now) == 0 && now.st_ino == before.st_ino);
  mch_tracefile_close(file);
  unlink(path);
  CHECK(symlink(other, path) == 0);
  file = begin("3");
  CHECK(lstat(path, &now) == 0 && S_ISLNK(now.st_mode) && has("[\n3\n]\n"));
  mch_tracefile_close(file);
  unlink(other);
  unlink(path);
}

static atomic_int stop;

/* Somebody who reads it all the time. */
static void *look(void *odd) {
  char head[8192];
  while (!stop) {
    int fd = open(path, O_RDONLY);
    ssize_t length = fd >= 0 ? read(fd, head, sizeof head) : 0;
    if (fd >= 0 && (length < 6 || head[0] != '[' || head[length - 2] != ']'))
      ++*(atomic_int *)odd;
    if (fd >= 0)
      close(fd);
  }
  return NULL;
}

/* Also when it begins: with no file there, and with that of another run. */
static void is_whole_from_the_start(void) {
  atomic_int odd = 0;
  pthread_t thread;
  int i;
  unlink(path);
  CHECK(pthread_create(&thread, NULL, look, &odd) == 0);
  for (i = 0; i < 500; i++) {
    mch_tracefile_close(begin("1"));
    if (i % 2)
      unlink(path);
  }
  stop = 1;
  pthread_join(thread, NULL);
  CHECK(odd == 0);
}

static void says_what_cannot_be(void) {
  struct mch_error error;
  char *name = mch_tracefile_name("a%p.b%%%p%"), expected[80];
  CHECK(mch_tracefile_open("/nowhere/at/all", "1", &error) == NULL);
  CHECK(strcmp(error.text, "/nowhere/at/all: No such file or directory") == 0);
  CHECK(mch_tracefile_open("/dev/null", "1", &error) == NULL);
  CHECK(strstr(error.text, "/dev/null is no ordinary file") != NULL);
  snprintf(expected, sizeof expected, "a%ld.b%%%%%ld%%", (long)getpid(), (long)getpid());
  CHECK(name != NULL && strcmp(name, expected) == 0);
  free(name);
}

int main(void) {
  const char *folder = getenv("TMPDIR");
  int fd;
  snprintf(path, sizeof path, "%.40s/traceXXXXXX", folder != NULL ? folder : "/tmp");
  fd = mkstemp(path);
  CHECK(fd >= 0);
  close(fd);
  is_whole_after_each_write();
  is_refused_while_in_use();
  is_written_by_forks();
  loses_only_what_was_cut_off();
  grows_and_is_cut();
  stays_whole_under_who_reads_it();
  is_found_by_forks_where_it_has_moved();
  is_not_mistaken();
  is_left_alone_by_those_of_another_run(0);
  is_left_alone_by_those_of_another_run(1);
  is_whole_on_a_full_disk();
  is_whole_from_the_start();
  is_the_same_file_as_before();
  says_what_cannot_be();
  unlink(path);
  return check_report();
}
