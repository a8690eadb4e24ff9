/* Runs in: a test. What memory.c reads, of files as Linux writes them. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/base/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { MIB = 1024 * 1024 };

static char root[] = "/tmp/test_memory.XXXXXX";

/* Write a file below the root, with the folders that it needs. */
static void put(const char *name, const char *text) {
  char path[PATH_MAX], *slash;
  FILE *file;
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (slash = strchr(path + strlen(root) + 1, '/'); slash != NULL;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
  file = fopen(path, "w");
  CHECK(file != NULL);
  if (file == NULL)
    return;
  fputs(text, file);
  fclose(file);
}

static void fresh(void) {
  char command[PATH_MAX + 32];
  snprintf(command, sizeof command, "rm -rf %s/proc %s/sys", root, root);
  CHECK(system(command) == 0);
  put("proc/meminfo", "MemTotal:       24684092 kB\nMemFree:          1000 kB\n"
                      "MemAvailable:    1024000 kB\nBuffers:          103876 kB\n");
}

static uint64_t available(void) {
  return mch_memory_available(root) / MIB;
}

static void test_machine(void) {
  fresh();
  CHECK(available() == 1000);
  put("proc/self/cgroup", "0::/\n");
  CHECK(available() == 1000);
}

static void test_version2(void) {
  fresh();
  put("proc/self/cgroup", "0::/outer/inner\n");
  put("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  put("sys/fs/cgroup/outer/inner/memory.current", "999999999999\n");
  CHECK(available() == 1000);
  put("sys/fs/cgroup/outer/memory.max", "524288000\n");
  put("sys/fs/cgroup/outer/memory.current", "419430400\n");
  CHECK(available() == 100);
  put("sys/fs/cgroup/outer/memory.stat", "anon 1\nfile 209715200\nkernel_stack 49152\n"
                                         "inactive_anon 7\nactive_anon 7\n"
                                         "inactive_file 104857600\nactive_file 52428800\n");
  CHECK(available() == 250);
  put("sys/fs/cgroup/outer/inner/memory.max", "1048576\n");
  CHECK(available() == 0); /* it uses more than that */
}

static void test_version1(void) {
  fresh();
  put("proc/self/cgroup", "9:name=systemd:/\n5:cpu,memory,pids:/box\n4:memory_not:/trap\n0::/\n");
  put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "314572800\n");
  put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "209715200\n");
  put("sys/fs/cgroup/memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 52428800\n"
                                              "total_active_file 52428800\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", "209715200\n");
  put("sys/fs/cgroup/memory/trap/memory.limit_in_bytes", "1\n");
  put("sys/fs/cgroup/memory/trap/memory.usage_in_bytes", "1\n");
  CHECK(available() == 200);
}

/* In a container the path is that of the machine, and the folder that of the container. */
static void test_container(void) {
  fresh();
  put("proc/self/cgroup", "0::/docker/0123456789abcdef\n");
  put("sys/fs/cgroup/memory.max", "73400320\n");
  put("sys/fs/cgroup/memory.current", "10485760\n");
  CHECK(available() == 60);
}

/* Files that say nothing, or nonsense, limit nothing. */
static void test_nonsense(void) {
  fresh();
  put("proc/self/cgroup", "\n:::::\n0\n0:\n0::\nnonsense");
  CHECK(available() == 1000);
  put("sys/fs/cgroup/memory.max", "much\n");
  CHECK(available() == 1000);
  put("sys/fs/cgroup/memory.max", "1\n");
  CHECK(available() == 1000); /* its use is not known */
  CHECK(mch_memory_available("") > 0);
}

/* In a fork of a process with much memory: what it shares is not its own, what it gets or writes to
 * is. */
static int in_fork(char *inherited, size_t size, int writes, int gets, uint64_t most) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) {
    struct mch_own_memory own;
    memset(&own, 0, sizeof own);
    mch_own_memory_begin(&own);
    if (writes)
      memset(inherited, 2, size);
    if (gets) {
      volatile char *more = malloc(size);
      size_t i;
      for (i = 0; more != NULL && i < size; i += 512)
        more[i] = 3; /* by hand: nobody reads it, so that a compiler leaves memset() out */
    }
    _exit(mch_own_memory_exceeds(&own, most));
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void test_own(void) {
  size_t size = 64 * MIB;
  char *inherited = malloc(size);
  CHECK(inherited != NULL);
  if (inherited == NULL)
    return;
  memset(inherited, 1, size);
  CHECK(in_fork(inherited, size, 0, 0, 32 * MIB) == 0);
  CHECK(in_fork(inherited, size, 0, 1, 32 * MIB) == 1);
  CHECK(in_fork(inherited, size, 0, 1, 256 * MIB) == 0);
  if (access("/proc/self/smaps_rollup", R_OK) == 0)
    CHECK(in_fork(inherited, size, 1, 0, 32 * MIB) == 1);
  free(inherited);
}

int main(void) {
  char command[PATH_MAX];
  CHECK(mkdtemp(root) != NULL);
  test_machine();
  test_version2();
  test_version1();
  test_container();
  test_nonsense();
  test_own();
  snprintf(command, sizeof command, "rm -rf %s", root);
  CHECK(system(command) == 0);
  return check_report();
}
