/* runtime/links: messages between a script and a machine that is this same program, run again as a
 * carrier's command; and what each side learns when any process of the chain is killed or stopped,
 * or the connection goes silent. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/links/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"
#include "runtime/links/frame.h"
#include "runtime/links/lease.h"
#include "runtime/links/words.h"

#define SECOND UINT64_C(1000000000)
#define LEASE (3 * SECOND) /* where one is to end: the machine may be busy with other things */

static char program[1024];

/* -- the machine -------------------------------------------------------------------------- */

enum { TELL = 1, ECHO, FLOOD, DIE, EXIT, SAY, FLOODED };

static const struct mch_link *ended; /* the last that was seen to end: readable for ever */

static void wait_for_link(struct mch_link *link, uint64_t deadline) {
  struct pollfd entry = {link == ended ? -1 : mch_link_fd(link), POLLIN, 0};
  uint64_t until = mch_sooner(deadline, mch_link_deadline(link));
  poll(&entry, 1, mch_milliseconds_until(until));
}

struct pids {
  pid_t supervisor, helper, worker;
};

/* A process that dies with the supervisor only if its lifeline is cut. */
static pid_t start_worker(void) {
  int fds[2];
  pid_t pid;
  if (mch_platform_pipe(fds, NULL) != 0)
    _exit(1);
  pid = mch_process_fork();
  if (pid == 0) {
    setpgid(0, 0);
    close(fds[1]);
    mch_process_unblock_signals();
    mch_platform_lifeline(fds[0], getppid());
    for (;;)
      pause();
  }
  close(fds[0]);
  return pid;
}

static void flood(struct mch_link *link, size_t count) {
  static unsigned char bytes[100000];
  size_t i;
  for (i = 0; i < count; i++) {
    memset(bytes, (int)(i & 255), sizeof bytes);
    mch_link_send(link, FLOOD, bytes, sizeof bytes, NULL);
  }
  mch_link_send(link, FLOODED, NULL, 0, NULL);
}

static void free_buf(void *ud) {
  mch_buf_free(ud);
  free(ud);
}

static void answer(struct mch_link *link, const struct mch_link_event *event,
                   const struct pids *pids) {
  struct mch_link_body body = {NULL, 0, NULL, NULL};
  if (event->type == ECHO) {
    struct mch_buf *buf = calloc(1, sizeof *buf);
    mch_link_keep(link, buf);
    body.bytes = buf->data;
    body.length = buf->length;
    body.release = free_buf;
    body.ud = buf;
    mch_link_send(link, ECHO, NULL, 0, &body);
  } else if (event->type == TELL)
    mch_link_send(link, TELL, pids, sizeof *pids, NULL);
  else if (event->type == FLOOD)
    flood(link, 400);
  else if (event->type == DIE)
    abort();
  else if (event->type == EXIT)
    mch_link_close(link);
  else if (event->type == SAY)
    fprintf(stderr, "said by the supervisor\n");
}

static int machine_main(int slots_fd) {
  struct mch_link_serve_config config = {slots_fd};
  struct mch_link_event event;
  struct mch_link *link = mch_link_serve(&config, NULL);
  struct pids pids = {getpid(), getppid(), 0};
  struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  pids.worker = start_worker();
  for (;;) {
    switch (mch_link_next(link, &event)) {
    case MCH_LINK_NOTHING:
      mch_link_flush(link);
      wait_for_link(link, MCH_NEVER);
      break;
    case MCH_LINK_MESSAGE:
      answer(link, &event, &pids);
      break;
    case MCH_LINK_SLOTS:
      mch_link_send(link, SAY, &event.number, sizeof event.number, NULL);
      break;
    case MCH_LINK_LEAVE:
    case MCH_LINK_LOST:
      kill(pids.worker, SIGKILL);
      mch_link_free(link);
      return 0;
    default:
      break;
    }
  }
}

/* What answers before mantichora does, and what is not mantichora. */
static int odd_main(const char *what) {
  if (strcmp(what, "greeting") == 0) {
    int i;
    for (i = 0; i < 3000; i++)
      printf("welcome \033[1m %05d\n", i);
    fprintf(stderr, "a word before\n");
    fflush(stdout);
    return machine_main(-1);
  }
  if (strcmp(what, "noise") == 0)
    for (;;)
      if (printf("what is this, please, and who are you?\n") < 0)
        return 0;
  if (strcmp(what, "version") == 0) {
    unsigned char head[MCH_FRAME_HEAD], hello[16] = {9};
    struct mch_frame frame = {MCH_FRAME_HELLO, 0, 0, sizeof hello, 0};
    mch_frame_write(head, &frame);
    fwrite(MCH_PREAMBLE, 1, MCH_PREAMBLE_SIZE, stdout);
    fwrite(head, 1, sizeof head, stdout);
    fwrite(hello, 1, sizeof hello, stdout);
  } else if (strcmp(what, "garbage") == 0) {
    fwrite(MCH_PREAMBLE, 1, MCH_PREAMBLE_SIZE, stdout);
    fwrite("no frame at all, surely", 1, 23, stdout);
  }
  fflush(stdout);
  while (getchar() != EOF)
    ;
  return 0;
}

/* -- the script's end --------------------------------------------------------------------- */

static struct mch_link *start(uint64_t lease, const char *a, const char *b, const char *c) {
  char *words[5];
  struct mch_link_config config = {words, NULL, lease, 10 * SECOND};
  struct mch_error error;
  struct mch_link *link;
  words[0] = (char *)(uintptr_t)a;
  words[1] = (char *)(uintptr_t)b;
  words[2] = (char *)(uintptr_t)c;
  words[3] = words[4] = NULL;
  ended = NULL;
  link = mch_link_start(&config, &error);
  if (link == NULL) {
    fprintf(stderr, "%s\n", error.text);
    exit(1);
  }
  return link;
}

/* The next event but what is not asked for; MCH_LINK_NOTHING after `seconds`. */
static enum mch_link_what next(struct mch_link *link, struct mch_link_event *event, int seconds) {
  uint64_t deadline = mch_now() + (uint64_t)seconds * SECOND;
  enum mch_link_what what;
  mch_link_flush(link);
  while ((what = mch_link_next(link, event)) == MCH_LINK_NOTHING && mch_now() < deadline)
    wait_for_link(link, deadline);
  if (what == MCH_LINK_SUSPECT && event->ended)
    ended = link;
  return what;
}

static enum mch_link_what skip_to(struct mch_link *link, struct mch_link_event *event,
                                  enum mch_link_what what, int seconds) {
  enum mch_link_what got;
  do
    got = next(link, event, seconds);
  while (got != what && got != MCH_LINK_NOTHING && got != MCH_LINK_LOST);
  if (got != what)
    fprintf(stderr, "event %d and not %d: %s\n", (int)got, (int)what,
            event->text == NULL ? "" : event->text);
  return got;
}

static struct pids ask_pids(struct mch_link *link) {
  struct mch_link_event event;
  struct pids pids = {0, 0, 0};
  mch_link_send(link, TELL, NULL, 0, NULL);
  do
    if (skip_to(link, &event, MCH_LINK_MESSAGE, 20) != MCH_LINK_MESSAGE)
      return pids;
  while (event.type != TELL);
  memcpy(&pids, event.bytes, sizeof pids);
  return pids;
}

static int lives(pid_t pid) {
  char path[64], text[512], *state;
  ssize_t got;
  int fd;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0)
    return 0;
  text[got] = '\0';
  state = strrchr(text, ')');
  return state != NULL && state[2] != 'Z' && state[2] != 'X';
}

static int all_end(const struct pids *pids, int seconds) {
  uint64_t deadline = mch_now() + (uint64_t)seconds * SECOND;
  while (lives(pids->supervisor) || lives(pids->helper) || lives(pids->worker)) {
    if (mch_now() > deadline) {
      fprintf(stderr, "left: %d %d %d\n", lives(pids->supervisor), lives(pids->helper),
              lives(pids->worker));
      return 0;
    }
    poll(NULL, 0, 5);
  }
  return 1;
}

/* What a test cannot go on without; a signal to process 0 would be one to this whole group. */
static void need(int condition, const char *what) {
  if (condition)
    return;
  fprintf(stderr, "there is not %s\n", what);
  _exit(1);
}

static struct mch_link *start_up(uint64_t lease, struct pids *pids) {
  struct mch_link *link = start(lease, program, "machine", NULL);
  struct mch_link_event event;
  CHECK(next(link, &event, 20) == MCH_LINK_UP);
  *pids = ask_pids(link);
  need(pids->supervisor > 0 && lives(pids->worker) && lives(pids->helper), "a machine");
  return link;
}

/* -- messages ----------------------------------------------------------------------------- */

static int released;
static void count_release(void *ud) {
  (void)ud;
  released++;
}

static void test_messages(void) {
  static const size_t lengths[] = {0, 1, 100, 16384, 16385, 65535, 65536, 65537, 131072, 30000001};
  struct pids pids;
  struct mch_link *link = start_up(20 * SECOND, &pids);
  struct mch_link_event event;
  unsigned char *bytes = malloc(30000002);
  size_t i, n;
  for (i = 0; i < 30000001; i++)
    bytes[i] = (unsigned char)(i * 7 + i / 251);
  for (n = 0; n < sizeof lengths / sizeof *lengths; n++) {
    struct mch_link_body body = {bytes + 3, lengths[n] < 3 ? 0 : lengths[n] - 3, count_release,
                                 NULL};
    CHECK(mch_link_send(link, ECHO, bytes, lengths[n] < 3 ? lengths[n] : 3, &body) == 0);
  }
  for (n = 0; n < sizeof lengths / sizeof *lengths; n++) {
    CHECK(skip_to(link, &event, MCH_LINK_MESSAGE, 30) == MCH_LINK_MESSAGE);
    CHECK(event.type == ECHO && event.length == lengths[n]);
    CHECK(event.length == lengths[n] && memcmp(event.bytes, bytes, lengths[n]) == 0);
  }
  CHECK(released == sizeof lengths / sizeof *lengths);
  CHECK(mch_link_queued(link) == 0);
  CHECK(mch_link_rtt(link) > 0 && mch_link_rtt(link) < 5 * SECOND);
  mch_link_close(link);
  CHECK(skip_to(link, &event, MCH_LINK_LOST, 5) == MCH_LINK_LOST);
  CHECK(strcmp(event.text, "it ended") == 0 && !event.refused);
  CHECK(next(link, &event, 0) == MCH_LINK_NOTHING);
  CHECK(all_end(&pids, 2));
  mch_link_free(link);
  free(bytes);
}

/* What is given by `keep` is not copied, and a script that is slow loses nothing. */
static void test_stopped_script(void) {
  struct pids pids;
  struct mch_link *link = start_up(LEASE, &pids);
  struct mch_link_event event;
  struct mch_buf kept = {0};
  size_t i, right = 0;
  mch_link_send(link, FLOOD, NULL, 0, NULL);
  mch_link_flush(link);
  poll(NULL, 0, 6500); /* as if by Ctrl-Z, for more than two leases */
  for (i = 0; i < 400; i++) {
    if (skip_to(link, &event, MCH_LINK_MESSAGE, 20) != MCH_LINK_MESSAGE)
      break;
    CHECK(mch_link_keep(link, &kept) == 0);
    right += kept.length == 100000 && kept.data[0] == (i & 255) && kept.data[99999] == (i & 255);
    mch_buf_clear(&kept);
  }
  CHECK(right == 400);
  CHECK(lives(pids.worker));
  mch_buf_free(&kept);
  mch_link_free(link);
  CHECK(all_end(&pids, 2));
}

static void test_slots_and_words(void) {
  char command[2048];
  struct mch_link *link;
  struct mch_link_event event;
  uint64_t deadline = mch_now() + 10 * SECOND;
  uint32_t slots = 0;
  snprintf(command, sizeof command,
           "{ printf '\\005\\000\\000\\000' | { exec 3<&0 0<&9 9<&-; exec '%s' slots; }; } 9<&0",
           program);
  link = start(20 * SECOND, "sh", "-c", command);
  CHECK(skip_to(link, &event, MCH_LINK_UP, 20) == MCH_LINK_UP);
  CHECK(skip_to(link, &event, MCH_LINK_MESSAGE, 20) == MCH_LINK_MESSAGE);
  CHECK(event.type == SAY && event.length == sizeof slots);
  memcpy(&slots, event.bytes, event.length < sizeof slots ? event.length : sizeof slots);
  CHECK(slots == 5);
  mch_link_send(link, SAY, NULL, 0, NULL);
  while (strstr(mch_link_said(link), "said by the supervisor") == NULL && mch_now() < deadline)
    next(link, &event, 0);
  CHECK(strstr(mch_link_said(link), "said by the supervisor") != NULL);
  mch_link_free(link);
}

/* -- refusals ----------------------------------------------------------------------------- */

static void check_refusal(const char *a, const char *b, const char *c, const char *words,
                          const char *more) {
  struct mch_link *link = start(20 * SECOND, a, b, c);
  struct mch_link_event event;
  CHECK(next(link, &event, 20) == MCH_LINK_LOST);
  CHECK(event.refused);
  if (event.text == NULL || strstr(event.text, words) == NULL || strstr(event.text, more) == NULL)
    fprintf(stderr, "it said: %s\n", event.text == NULL ? "(nothing)" : event.text);
  CHECK(event.text != NULL && strstr(event.text, words) != NULL &&
        strstr(event.text, more) != NULL);
  mch_link_free(link);
}

static void test_refusals(void) {
  struct mch_link *link;
  struct mch_link_event event;
  char *silent[] = {"sleep", "100", NULL};
  struct mch_link_config config = {silent, NULL, 20 * SECOND, SECOND / 5};
  check_refusal("/no/such/program", NULL, NULL, "cannot run '/no/such/program': No such file", "");
  check_refusal("sh", "-c", "echo hello there; echo not found >&2; exit 127",
                "sh ended with status 127: not found", "it said: hello there");
  check_refusal("sh", "-c", "kill -9 $$", "sh was killed by signal 9", "");
  check_refusal("true", NULL, NULL, "true ended with status 0", "");
  check_refusal(program, "odd", "noise", "it said more than 64 KiB", "what is this, please");
  check_refusal(program, "odd", "version",
                "version 9 of the wire between machines, this one "
                "version 1",
                "");
  check_refusal(program, "odd", "garbage", "bytes that are no frame", "");
  link = mch_link_start(&config, NULL);
  CHECK(next(link, &event, 20) == MCH_LINK_LOST);
  CHECK(event.refused && strstr(event.text, "no answer within 0.2 s") != NULL);
  mch_link_free(link);
  link = start(20 * SECOND, program, "odd", "greeting");
  CHECK(next(link, &event, 20) == MCH_LINK_UP);
  CHECK(strstr(event.text, "welcome ?[1m 02999") != NULL);
  CHECK(strstr(event.text, "a word before") != NULL);
  mch_link_free(link);
}

/* The carrier gets variables that this process does not have. */
static void test_environment(void) {
  char *words[] = {"sh", "-c", "echo \"$MCH_SECRET\" >&2", NULL};
  char *environment[] = {"MCH_SECRET=a=b c", NULL};
  struct mch_link_config config = {words, environment, 20 * SECOND, 10 * SECOND};
  struct mch_link *link = mch_link_start(&config, NULL);
  struct mch_link_event event;
  CHECK(next(link, &event, 20) == MCH_LINK_LOST);
  if (strstr(event.text, "status 0: a=b c") == NULL)
    fprintf(stderr, "it said: %s\n", event.text);
  CHECK(strstr(event.text, "status 0: a=b c") != NULL);
  CHECK(getenv("MCH_SECRET") == NULL && strcmp(environment[0], "MCH_SECRET=a=b c") == 0);
  mch_link_free(link);
}

/* -- deaths ------------------------------------------------------------------------------- */

/* The process that is this one's child and leads the session of the carrier. */
static pid_t helper_of(pid_t carrier) {
  return getsid(carrier);
}

enum victim { HELPER, CARRIER, SUPERVISOR, NOBODY };

static void check_kill(enum victim victim, const char *words) {
  struct pids pids;
  struct mch_link *link = start_up(20 * SECOND, &pids);
  struct mch_link_event event;
  pid_t helper = helper_of(pids.helper);
  uint64_t began = mch_now();
  CHECK(helper > 0 && helper != getsid(0));
  if (victim == NOBODY)
    mch_link_send(link, DIE, NULL, 0, NULL);
  else
    kill(victim == HELPER ? helper : victim == CARRIER ? pids.helper : pids.supervisor, SIGKILL);
  CHECK(skip_to(link, &event, MCH_LINK_LOST, 10) == MCH_LINK_LOST);
  CHECK(mch_now() - began < 4 * SECOND);
  CHECK(!event.refused);
  if (strstr(event.text, words) == NULL)
    fprintf(stderr, "it said: %s\n", event.text);
  CHECK(strstr(event.text, words) != NULL);
  CHECK(all_end(&pids, 2));
  CHECK(!lives(helper));
  mch_link_free(link);
}

/* Somebody in the chain is stopped for ever: when the lease is over, all is. */
static void check_stop(enum victim victim) {
  struct pids pids;
  struct mch_link *link = start_up(LEASE, &pids);
  struct mch_link_event event;
  pid_t helper = helper_of(pids.helper);
  int overlap;
  kill(victim == HELPER ? helper : victim == CARRIER ? pids.helper : pids.supervisor, SIGSTOP);
  CHECK(all_end(&pids, 5));
  CHECK(skip_to(link, &event, MCH_LINK_LOST, 12) == MCH_LINK_LOST);
  overlap = lives(pids.worker) || lives(pids.supervisor);
  CHECK(!overlap);
  mch_link_free(link);
  CHECK(!lives(helper));
}

/* The carrier's two directions go through processes that are stopped: a cut cable. */
static void check_silence(int down, int up) {
  char command[2048];
  struct mch_link *link;
  struct mch_link_event event;
  struct pids pids;
  pid_t cats[2];
  uint64_t began;
  FILE *file;
  char *folder, path[64] = "/tmp/mantichora-links-XXXXXX", name[96];
  int i, suspect = 0;
  enum mch_link_what what;
  folder = mkdtemp(path);
  CHECK(folder != NULL);
  snprintf(command, sizeof command,
           "cd %s; sh -c 'echo $$ >0; exec cat' | '%s' machine | sh -c 'echo $$ >1; exec cat'",
           folder, program);
  link = start(LEASE, "sh", "-c", command);
  CHECK(skip_to(link, &event, MCH_LINK_UP, 20) == MCH_LINK_UP);
  pids = ask_pids(link);
  for (i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%s/%d", folder, i);
    file = fopen(name, "r");
    need(file != NULL && fscanf(file, "%d", &cats[i]) == 1 && cats[i] > 0, "a cable");
    fclose(file);
    unlink(name);
  }
  rmdir(folder);
  began = mch_now();
  if (down)
    kill(cats[0], SIGSTOP);
  if (up)
    kill(cats[1], SIGSTOP);
  CHECK(all_end(&pids, 6)); /* by itself, and before the script counts it as lost */
  CHECK(mch_now() - began < 2 * LEASE);
  do {
    what = next(link, &event, 15);
    suspect |= what == MCH_LINK_SUSPECT;
  } while (what != MCH_LINK_LOST && what != MCH_LINK_NOTHING);
  CHECK(what == MCH_LINK_LOST);
  CHECK(suspect || !up);
  if (up)
    CHECK(strstr(event.text, "it was silent for 3 s") != NULL &&
          mch_now() - began > LEASE + 4 * SECOND);
  CHECK(!lives(cats[0]) && !lives(cats[1]));
  mch_link_free(link);
}

/* A script that is killed leaves nothing on either side. */
static void test_script_killed(void) {
  int fds[2];
  struct pids pids[2] = {{0, 0, 0}, {0, 0, 0}};
  pid_t script;
  CHECK(pipe(fds) == 0);
  script = fork();
  if (script == 0) {
    struct mch_link *link = start_up(20 * SECOND, &pids[0]);
    pids[1].helper = helper_of(pids[0].helper);
    if (write(fds[1], pids, sizeof pids) != sizeof pids || link == NULL)
      _exit(1);
    for (;;)
      pause();
  }
  CHECK(read(fds[0], pids, sizeof pids) == sizeof pids);
  kill(script, SIGKILL);
  waitpid(script, NULL, 0);
  CHECK(all_end(&pids[0], 2));
  CHECK(all_end(&pids[1], 2));
  close(fds[0]);
  close(fds[1]);
}

/* A helper gives back the memory that it was forked with, so that the script's pages stay its own.
 */
static void test_memory(void) {
  enum { MUCH = 64 * 1024 * 1024 };
  char *much = malloc(MUCH), path[64], line[256];
  struct pids pids;
  struct mch_link *link;
  FILE *file;
  long kib = -1;
  memset(much, 1, MUCH);
  link = start_up(20 * SECOND, &pids);
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)helper_of(pids.helper));
  file = fopen(path, "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "Rss: %ld", &kib) == 1)
      break;
  if (file != NULL)
    fclose(file);
#if defined(__linux__) && !defined(MANTICHORA_PORTABLE) && !defined(__SANITIZE_ADDRESS__) &&       \
    !defined(__SANITIZE_THREAD__)
  if (kib <= 0 || kib >= 32 * 1024)
    fprintf(stderr, "%ld KiB\n", kib);
  CHECK(kib > 0 && kib < 32 * 1024);
#endif
  CHECK(much[MUCH / 2] == 1);
  mch_link_free(link);
  CHECK(all_end(&pids, 2));
  free(much);
}

/* -- the parts ---------------------------------------------------------------------------- */

static void test_frames(void) {
  unsigned char head[MCH_FRAME_HEAD];
  struct mch_frame frame = {MCH_FRAME_DATA, 7, MCH_FRAME_FIRST, 65536, 100000}, got;
  struct mch_frame_order order = {0, 0, 0};
  size_t i;
  mch_frame_write(head, &frame);
  for (i = 0; i < sizeof head; i++)
    CHECK(mch_frame_read(head, i, &got) == 0);
  CHECK(mch_frame_read(head, sizeof head, &got) == 1);
  CHECK(got.kind == MCH_FRAME_DATA && got.type == 7 && got.flags == MCH_FRAME_FIRST &&
        got.length == 65536 && got.total == 100000);
  CHECK(mch_frame_follow(&order, &got) == 0 && order.open && order.left == 34464);
  CHECK(mch_frame_follow(&order, &got) == -1); /* one begins within the other */
  got.flags = MCH_FRAME_LAST;
  got.total = 0;
  got.length = 34465;
  CHECK(mch_frame_follow(&order, &got) == -1); /* too long */
  got.length = 34463;
  CHECK(mch_frame_follow(&order, &got) == -1); /* the last, and too short */
  got.length = 34464;
  got.type = 8;
  CHECK(mch_frame_follow(&order, &got) == -1);
  got.type = 7;
  CHECK(mch_frame_follow(&order, &got) == 0 && !order.open);
  CHECK(mch_frame_follow(&order, &got) == -1); /* none has begun */
  for (i = 0; i < sizeof head; i++) {
    unsigned char kept = head[i];
    static const unsigned char wrong[] = {0, 99, 0, 255, 255, 255, 255, 255};
    if (i >= sizeof wrong || i == 2 || i == 4 || i == 5)
      continue;
    head[i] = wrong[i];
    CHECK(mch_frame_read(head, sizeof head, &got) == -1);
    head[i] = kept;
  }
  CHECK(mch_frame_next(&order, head, sizeof head, &got) == 0 && !order.open); /* it is not whole */
  CHECK(mch_frame_find_preamble((const unsigned char *)"ab" MCH_PREAMBLE "c",
                                MCH_PREAMBLE_SIZE + 3) == 2);
  CHECK(mch_frame_find_preamble((const unsigned char *)"\033[\033[m", 5) == 5);
}

/* Whatever the network does to beats, the machine's time is over before the script's patience. */
static void test_lease(void) {
  uint32_t random = 1;
  int run;
  for (run = 0; run < 2000; run++) {
    struct mch_lease script = {0}, machine = {0};
    unsigned char down[16][MCH_BEAT_SIZE], up[16][MCH_BEAT_SIZE];
    uint64_t now = SECOND, skew = 0;
    int downs = 0, ups = 0, step;
    script.length = machine.length = 20 * SECOND;
    script.heard = now;
    machine.until = now + 20 * SECOND;
    skew = (uint64_t)run * 12345678901u;
    machine.until += skew;
    for (step = 0; step < 60; step++) {
      random = random * 1664525u + 1013904223u;
      now += (random >> 8) % 4000 * 1000000u;
      if ((random >> 20) % 3 == 0 && downs < 16)
        mch_lease_make_beat(&script, now, down[downs++]);
      else if ((random >> 20) % 3 == 1 && ups < 16)
        mch_lease_make_beat(&machine, now + skew, up[ups++]);
      if ((random >> 24) % 5 == 0 && downs > 0) { /* late, all at once */
        int i;
        for (i = 0; i < downs; i++)
          mch_lease_take_beat(&machine, now + skew, down[i]);
        downs = 0;
      }
      if ((random >> 24) % 5 == 1 && ups > 0) {
        int i;
        for (i = 0; i < ups; i++)
          mch_lease_take_beat(&script, now, up[i]);
        ups = 0;
      }
      CHECK(machine.until - skew <= script.heard + 20 * SECOND || ups > 0 || downs > 0 ||
            machine.until - skew <= script.heard + 20 * SECOND);
      CHECK(machine.until - skew <= script.heard + 20 * SECOND);
    }
  }
}

static void test_words(void) {
  char text[32];
  struct mch_words words = {text, 0, sizeof text};
  mch_words_seconds(&words, 20 * SECOND);
  mch_words_say(&words, ",");
  mch_words_seconds(&words, SECOND / 5);
  mch_words_say(&words, ",");
  mch_words_quote(&words, (const unsigned char *)" \n a\033b\r\n ", 9);
  CHECK(words.length == 14 && memcmp(text, "20 s,0.2 s,a?b", 14) == 0);
  mch_words_say(&words, "0123456789012345678901234567890");
  CHECK(words.length == sizeof text);
}

static void test_deaths(void) {
  check_kill(HELPER, "its helper process ended");
  check_kill(CARRIER, "test_links was killed by signal 9");
  check_kill(SUPERVISOR, "its supervisor was killed by signal 9");
  check_kill(NOBODY, "its supervisor was killed by signal 6");
}
static void test_stopped_helper(void) {
  check_stop(HELPER);
}
static void test_stopped_carrier(void) {
  check_stop(CARRIER);
}
static void test_stopped_supervisor(void) {
  check_stop(SUPERVISOR);
}
static void test_deaf_machine(void) {
  check_silence(1, 0);
}
static void test_dumb_machine(void) {
  check_silence(0, 1);
}
static void test_cut_off_machine(void) {
  check_silence(1, 1);
}

static void (*const tests[])(void) = {
    test_messages,     test_slots_and_words, test_refusals,        test_environment,
    test_deaths,       test_stopped_helper,  test_stopped_carrier, test_stopped_supervisor,
    test_deaf_machine, test_dumb_machine,    test_cut_off_machine, test_script_killed,
    test_memory,       test_stopped_script};

/* Most of them wait most of the time: each in a process of its own. */
static void beside(void (*test)(void)) {
  pid_t pid = fork();
  if (pid != 0)
    return;
  test();
  CHECK(!mch_platform_has_children());
  fflush(stdout);
  _exit(failures != 0);
}

int main(int argc, char **argv) {
  size_t i, done = 0;
  int status;
  pid_t pid;
  if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
    return 1;
  if (argc > 1 && strcmp(argv[1], "machine") == 0)
    return machine_main(-1);
  if (argc > 1 && (strcmp(argv[1], "slots") == 0 || strcmp(argv[1], "worker") == 0))
    return machine_main(3);
  if (argc > 2 && strcmp(argv[1], "odd") == 0)
    return odd_main(argv[2]);
  test_frames();
  test_lease();
  test_words();
  for (i = 0; i < sizeof tests / sizeof *tests; i++)
    beside(tests[i]);
  while ((pid = wait(&status)) > 0) {
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    done++;
  }
  CHECK(done == sizeof tests / sizeof *tests);
  return check_report();
}
