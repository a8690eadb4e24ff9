/* Runs in: mantichora-amqp.
 *
 * A program of its own beside mantichora, which has what a fleet behind a broker needs: the site
 * key, the carrier, the machine's agent. Kept apart, so that nothing else depends on the libraries
 * of a broker and of cryptography. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker.h"
#include "carrier.h"
#include "crypt.h"
#include "fleet.h"
#include "key.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"
#include "runtime/links/program.h"

extern char **environ;

static const char usage[] =
    "usage: mantichora key new [FILE]\n"
    "       mantichora worker amqps://USER@HOST/NAME [--slots N] [--allow-root] [--program PATH]\n"
    "       mantichora-amqp list URL | connect URL MACHINE     (by a script's pool)\n";

static int complain(const char *text) {
  fprintf(stderr, "mantichora-amqp: %s\n", text);
  return 1;
}

/* -- the key ------------------------------------------------------------------------------ */

static int key_main(int count, char **words) {
  char path[4096];
  struct mch_error error;
  if (count < 1 || count > 2 || strcmp(words[0], "new") != 0) {
    fputs("usage: mantichora key new [FILE]\n", stderr);
    return 2;
  }
  if (mch_key_path(count == 2 ? words[1] : NULL, path, sizeof path, &error) != 0 ||
      mch_key_new(path, &error) != 0)
    return complain(error.text);
  printf(
      "%s is a new site key. Copy it to each machine of the fleet, and to each account that sends "
      "tasks to it (scp -p): who has it owns the account that workers run in.\n",
      path);
  return 0;
}

/* -- what all others need ----------------------------------------------------------------- */

struct means {
  struct mch_account account;
  unsigned char key[MCH_KEY_SIZE];
};

/* The password, if the URL has one, leaves it, and goes to the processes that are started here. */
static int find_means(struct means *means, char *url) {
  char path[4096];
  struct mch_error error;
  char *password = mch_url_split(url);
  int code;
  if (password != NULL)
    setenv("MANTICHORA_AMQP_PASSWORD", password, 1);
  code = mch_account_find(&means->account, url, password, &error);
  if (password != NULL) {
    mch_crypt_wipe(password, strlen(password));
    free(password);
  }
  if (code != 0 || mch_key_path(NULL, path, sizeof path, &error) != 0 ||
      mch_key_read(path, means->key, &error) != 0)
    return complain(error.text);
  return 0;
}

static int list_main(int count, char **words) {
  static struct means means;
  if (count != 1) {
    fputs(usage, stderr);
    return 2;
  }
  if (find_means(&means, words[0]) != 0)
    return 1;
  return mch_fleet_list(&means.account, means.key);
}

static int connect_main(int count, char **words) {
  static struct means means;
  struct mch_carrier_config config;
  if (count != 2) {
    fputs(usage, stderr);
    return 2;
  }
  if (find_means(&means, words[0]) != 0)
    return 1;
  memset(&config, 0, sizeof config);
  config.account = &means.account;
  config.site_key = means.key;
  config.machine = words[1];
  config.in = 0;
  config.out = 1;
  mch_carrier_draw(config.session, MCH_SESSION_SIZE);
  mch_carrier_draw(config.nonce, MCH_HEX_NONCE);
  mch_carrier_run(&config);
}

/* -- a machine ---------------------------------------------------------------------------- */

struct worker_line {
  char *url;
  const char *program;
  unsigned slots;
  int allow_root;
};

/* 0, or the status to exit with. */
static int read_worker_line(struct worker_line *line, int count, char **words) {
  int i;
  char *end;
  memset(line, 0, sizeof *line);
  line->slots = mch_platform_cpu_count();
  for (i = 0; i < count; i++) {
    if (strcmp(words[i], "--allow-root") == 0)
      line->allow_root = 1;
    else if (strcmp(words[i], "--program") == 0 && i + 1 < count)
      line->program = words[++i];
    else if (strcmp(words[i], "--slots") == 0 && i + 1 < count) {
      unsigned long slots = strtoul(words[++i], &end, 10);
      if (*end != '\0' || slots == 0 || slots > 4096)
        return complain("--slots takes a number from 1 to 4096");
      line->slots = (unsigned)slots;
    } else if (line->url == NULL && mch_url_is_broker(words[i]))
      line->url = words[i];
    else {
      fputs(usage, stderr);
      return 2;
    }
  }
  if (line->url != NULL)
    return 0;
  fputs(usage, stderr);
  return 2;
}

static int worker_main(int count, char **words) {
  static struct means means;
  static char self[PATH_MAX], program[PATH_MAX];
  struct mch_agent_config config;
  struct worker_line line;
  int code = read_worker_line(&line, count, words);
  if (code != 0)
    return code;
  if (find_means(&means, line.url) != 0)
    return 1;
  if (geteuid() == 0 && !line.allow_root)
    return complain("tasks are programs, and would run as root: start this as another user, or say "
                    "--allow-root");
  config.account = &means.account;
  config.site_key = means.key;
  config.self = mch_link_find("mantichora-amqp", self, sizeof self);
  config.program =
      line.program != NULL ? line.program : mch_link_find("mantichora", program, sizeof program);
  config.url = line.url;
  config.slots = line.slots;
  return mch_fleet_work(&config);
}

/* -- a session of a machine: started by its agent ----------------------------------------- */

enum { SLOTS_FD = 3 };

/* Start the supervisor; its stdin and stdout. 0 or an error. */
static int start_supervisor(const char *program, const char *slots, int *in, int *out,
                            struct mch_error *error) {
  char number[16];
  char *words[7];
  int down[2], up[2];
  posix_spawn_file_actions_t actions;
  pid_t pid;
  int problem;
  snprintf(number, sizeof number, "%d", SLOTS_FD);
  words[0] = (char *)(uintptr_t)program;
  words[1] = (char *)(uintptr_t) "worker";
  words[2] = (char *)(uintptr_t) "--stdio";
  words[3] = (char *)(uintptr_t) "--slots";
  words[4] = (char *)(uintptr_t)slots;
  words[5] = (char *)(uintptr_t) "--slots-from";
  words[6] = number;
  {
    char *all[8];
    memcpy(all, words, sizeof words);
    all[7] = NULL;
    if ((problem = mch_platform_pipe(down, error)) != 0 ||
        (problem = mch_platform_pipe(up, error)) != 0)
      return problem;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, down[0], 0);
    posix_spawn_file_actions_adddup2(&actions, up[1], 1);
    problem = posix_spawnp(&pid, program, &actions, NULL, all, environ);
    posix_spawn_file_actions_destroy(&actions);
  }
  close(down[0]);
  close(up[1]);
  if (problem != 0)
    return mch_error_set(error, MCH_SYSTEM, "cannot run %s: %s", program, strerror(problem));
  close(SLOTS_FD);
  *out = down[1];
  *in = up[0];
  mch_process_widen_pipe(*in);
  mch_process_widen_pipe(*out);
  return 0;
}

/* URL SESSION NONCE SLOTS AGENT PROGRAM */
static int session_main(int count, char **words) {
  static struct means means;
  struct mch_carrier_config config;
  struct mch_error error;
  if (count != 6)
    return 2;
  mch_process_die_with((pid_t)atoi(words[4]));
  if (find_means(&means, words[0]) != 0)
    return 1;
  memset(&config, 0, sizeof config);
  config.account = &means.account;
  config.site_key = means.key;
  snprintf(config.session, sizeof config.session, "%s", words[1]);
  snprintf(config.nonce, sizeof config.nonce, "%s", words[2]);
  if (start_supervisor(words[5], words[3], &config.in, &config.out, &error) != 0)
    return complain(error.text);
  mch_carrier_run(&config);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int count, char **words);
  } commands[] = {{"key", key_main},
                  {"list", list_main},
                  {"connect", connect_main},
                  {"worker", worker_main},
                  {"session", session_main}};
  size_t i;
  for (i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0)
      return commands[i].run(argc - 2, argv + 2);
  fputs(usage, argc > 1 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
  return argc > 1 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
}
