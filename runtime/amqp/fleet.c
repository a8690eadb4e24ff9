/* Runs in: mantichora-amqp. Purpose: fleet.h. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "fleet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "carrier.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/links/link.h"

extern char **environ;

enum { MOST_SESSIONS = 256, SEEN_SESSIONS = 1024, ID_SIZE = 96, SLOTS_FD = 3 };
static const uint64_t offer_every = 10000000000u, silent_for = 35000000000u;
static const uint64_t longest_pause = 5000000000u, complain_every = 1000000000u;

struct session {
  pid_t pid;
  int slots; /* where its share is said */
  unsigned share;
};

struct member { /* of a list */
  char id[ID_SIZE];
  uint64_t heard;
};

struct fleet {
  struct mch_agent_config is;
  struct mch_broker broker;
  struct mch_seal seal;
  char id[ID_SIZE], host[64];
  char offers[256], calls[256], queue[256];
  uint64_t offered, complained, pause, retry_at;
  struct session sessions[MOST_SESSIONS];
  size_t count;
  char seen[SEEN_SESSIONS][MCH_SESSION_SIZE + 1];
  size_t seen_count;
  /* A list's. */
  struct mch_link *link;
  struct member *members;
  size_t member_count;
};

/* -- both --------------------------------------------------------------------------------- */

static struct fleet *make(const struct mch_account *account, const unsigned char *site_key) {
  struct fleet *fleet = calloc(1, sizeof *fleet);
  if (fleet == NULL) {
    fprintf(stderr, "mantichora-amqp: not enough memory\n");
    return NULL;
  }
  fleet->broker.account = account;
  mch_seal_derive(&fleet->seal, site_key, "mantichora 1 call", "", 0);
  return fleet;
}

/* It came to nothing: the status to exit with. */
static int give_up(struct fleet *fleet, const struct mch_error *error) {
  fprintf(stderr, "mantichora-amqp: %s\n", error->text);
  mch_broker_close(&fleet->broker);
  free(fleet);
  return 1;
}

static void say(struct fleet *fleet, const char *exchange, uint8_t kind, const char *text) {
  unsigned char bytes[512];
  size_t length;
  struct mch_error error;
  if (fleet->broker.state == NULL || strlen(text) > sizeof bytes - MCH_SEAL_ROOM)
    return;
  length = mch_seal_close(&fleet->seal, kind, text, strlen(text), bytes);
  if (mch_broker_publish(&fleet->broker, exchange, "", bytes, length, 0, &error) != 0)
    fprintf(stderr, "mantichora-amqp: %s\n", error.text);
}

/* The exchanges of the fleet, and a queue of our own behind one of them. */
static int join(struct fleet *fleet, int machine, struct mch_error *error) {
  struct mch_broker *broker = &fleet->broker;
  int code = mch_broker_open(broker, error);
  if (code != 0)
    return code;
  snprintf(fleet->offers, sizeof fleet->offers, "mantichora.%s.offers", broker->fleet);
  snprintf(fleet->calls, sizeof fleet->calls, "mantichora.%s.calls", broker->fleet);
  if (machine)
    mch_carrier_machine_queue(fleet->queue, sizeof fleet->queue, broker->fleet, fleet->id);
  else
    snprintf(fleet->queue, sizeof fleet->queue, "mantichora.%s.list.%s", broker->fleet, fleet->id);
  if ((code = mch_broker_hall(broker, fleet->offers, error)) != 0 ||
      (code = mch_broker_hall(broker, fleet->calls, error)) != 0)
    return code;
  return mch_broker_own_queue(broker, fleet->queue, machine ? fleet->calls : fleet->offers, error);
}

/* Once more, later and later. Whether there is a connection. */
static int join_again(struct fleet *fleet, int machine) {
  struct mch_error error;
  if (mch_now() < fleet->retry_at)
    return 0;
  if (join(fleet, machine, &error) == 0) {
    if (fleet->pause > 0)
      fprintf(stderr, "mantichora-amqp: connected to the broker again\n");
    fleet->pause = 0;
    return 1;
  }
  if (strcmp(error.text, fleet->broker.complaint) != 0)
    fprintf(stderr, "mantichora-amqp: %s\n", error.text);
  strcpy(fleet->broker.complaint, error.text);
  fleet->pause = fleet->pause == 0 ? 100000000u : mch_sooner(2 * fleet->pause, longest_pause);
  fleet->retry_at = mch_now() + fleet->pause;
  return 0;
}

/* The next message that has the right code: 1 and its text, terminated; 0: none now. */
static int next_word(struct fleet *fleet, struct timeval *limit, uint8_t *kind, char *text,
                     size_t room) {
  struct mch_broker *broker = &fleet->broker;
  struct mch_sealed sealed;
  struct mch_error error;
  amqp_envelope_t envelope;
  amqp_rpc_reply_t reply;
  amqp_frame_t frame;
  int fine = 0;
  amqp_maybe_release_buffers(broker->state);
  reply = amqp_consume_message(broker->state, &envelope, limit, 0);
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
    const amqp_bytes_t *body = &envelope.message.body;
    fine = mch_seal_open(&fleet->seal, body->bytes, body->len, &sealed) == MCH_SEAL_FINE &&
           sealed.length < room;
    if (fine) {
      memcpy(text, sealed.bytes, sealed.length);
      text[sealed.length] = '\0';
      *kind = sealed.kind;
    } else if (mch_now() - fleet->complained > complain_every) {
      fleet->complained = mch_now();
      fprintf(stderr, "mantichora-amqp: dropped a message that was made by another site key\n");
    }
    amqp_destroy_envelope(&envelope);
    return fine;
  }
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
      reply.library_error == AMQP_STATUS_TIMEOUT)
    return 0;
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
      reply.library_error == AMQP_STATUS_UNEXPECTED_STATE &&
      amqp_simple_wait_frame(broker->state, &frame) == AMQP_STATUS_OK) {
    if (mch_broker_heed(broker, &frame, &error) != 0)
      fprintf(stderr, "mantichora-amqp: %s\n", error.text);
    return 0;
  }
  if (mch_broker_check(broker, reply, "the connection was lost", &error) != 0)
    fprintf(stderr, "mantichora-amqp: %s\n", error.text);
  return 0;
}

/* -- a machine ---------------------------------------------------------------------------- */

static volatile sig_atomic_t asked_to_leave; /* by a signal, which knows no other place */

static void note_signal(int number) {
  (void)number;
  asked_to_leave = 1;
}

static void name_self(struct fleet *fleet) {
  char dice[9], *at;
  if (gethostname(fleet->host, sizeof fleet->host - 1) != 0)
    strcpy(fleet->host, "machine");
  for (at = fleet->host; *at != '\0'; at++)
    if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", *at) == NULL)
      *at = '-';
  mch_carrier_draw(dice, 8);
  snprintf(fleet->id, sizeof fleet->id, "%s-%s", fleet->host, dice);
}

static void offer(struct fleet *fleet) {
  char text[256];
  snprintf(text, sizeof text, "%s %u %s", fleet->id, fleet->is.slots, fleet->host);
  say(fleet, fleet->offers, MCH_CARRY_OFFER, text);
  fleet->offered = mch_now();
}

/* The slots are shared out evenly, one each at least; who came first has what is over. */
static void share_out(struct fleet *fleet) {
  size_t i;
  for (i = 0; i < fleet->count; i++) {
    struct session *session = &fleet->sessions[i];
    unsigned count = (unsigned)fleet->count;
    unsigned share = fleet->is.slots / count + (i < fleet->is.slots % count);
    unsigned char bytes[4];
    if (share == 0)
      share = 1;
    if (share == session->share)
      continue;
    mch_store_u32(bytes, share);
    if (write(session->slots, bytes, sizeof bytes) == sizeof bytes)
      session->share = share;
  }
}

static int is_hex(const char *text, size_t digits) {
  return strspn(text, "0123456789abcdef") >= digits;
}

/* A session that was asked for before is not begun again, whoever sends that once more. */
static int is_new(struct fleet *fleet, const char *id) {
  size_t i, known = fleet->seen_count < SEEN_SESSIONS ? fleet->seen_count : SEEN_SESSIONS;
  for (i = 0; i < known; i++)
    if (memcmp(fleet->seen[i], id, MCH_SESSION_SIZE) == 0)
      return 0;
  memcpy(fleet->seen[fleet->seen_count++ % SEEN_SESSIONS], id, MCH_SESSION_SIZE);
  return 1;
}

static int spawn_session(struct fleet *fleet, char *id, char *nonce, int slots, pid_t *pid) {
  char number[16], agent[16];
  char *words[9];
  posix_spawn_file_actions_t actions;
  sigset_t none;
  posix_spawnattr_t attributes;
  int problem;
  snprintf(number, sizeof number, "%u", fleet->is.slots);
  snprintf(agent, sizeof agent, "%d", (int)getpid());
  words[0] = (char *)(uintptr_t)fleet->is.self;
  words[1] = (char *)(uintptr_t) "session";
  words[2] = (char *)(uintptr_t)fleet->is.url;
  words[3] = id;
  words[4] = nonce;
  words[5] = number;
  words[6] = agent;
  words[7] = (char *)(uintptr_t)fleet->is.program;
  words[8] = NULL;
  sigemptyset(&none);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, slots, SLOTS_FD);
  problem = posix_spawn(pid, fleet->is.self, &actions, &attributes, words, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return problem;
}

/* "SESSION NONCE" */
static void begin_session(struct fleet *fleet, char *text) {
  struct session *session = &fleet->sessions[fleet->count];
  char *nonce = text + MCH_SESSION_SIZE + 1;
  int fds[2], high, problem;
  if (strlen(text) != MCH_SESSION_SIZE + 1 + MCH_HEX_NONCE || !is_hex(text, MCH_SESSION_SIZE) ||
      !is_hex(nonce, MCH_HEX_NONCE) || !is_new(fleet, text))
    return;
  nonce[-1] = '\0';
  if (fleet->count == MOST_SESSIONS || mch_platform_pipe(fds, NULL) != 0) {
    fprintf(stderr, "mantichora-amqp: %u sessions run, another one was not begun\n",
            (unsigned)fleet->count);
    return;
  }
  high = fcntl(fds[0], F_DUPFD_CLOEXEC, 10); /* not the one that it is to get */
  close(fds[0]);
  problem = high < 0 ? errno : spawn_session(fleet, text, nonce, high, &session->pid);
  if (high >= 0)
    close(high);
  if (problem != 0) {
    close(fds[1]);
    fprintf(stderr, "mantichora-amqp: cannot run %s: %s\n", fleet->is.self, strerror(problem));
    return;
  }
  mch_platform_nonblocking(fds[1]);
  session->slots = fds[1];
  session->share = 0;
  fleet->count++;
  share_out(fleet);
  fprintf(stderr, "mantichora-amqp: session %.8s began, %u run\n", text, (unsigned)fleet->count);
}

static void bury_sessions(struct fleet *fleet) {
  size_t i, before = fleet->count;
  for (i = 0; i < fleet->count;) {
    struct session *session = &fleet->sessions[i];
    if (waitpid(session->pid, NULL, WNOHANG) == 0) {
      i++;
      continue;
    }
    close(session->slots);
    fleet->count--;
    memmove(session, session + 1, (fleet->count - i) * sizeof *session);
  }
  if (fleet->count == before)
    return;
  fprintf(stderr, "mantichora-amqp: a session ended, %u run\n", (unsigned)fleet->count);
  share_out(fleet);
}

static void heed_word(struct fleet *fleet, uint8_t kind, char *text) {
  if (kind == MCH_CARRY_CALL)
    offer(fleet);
  else if (kind == MCH_CARRY_CONNECT)
    begin_session(fleet, text);
}

static void handle_signals(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = note_signal;
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
}

/* The sessions' processes take their supervisors along, and these their workers. */
static void end_sessions(struct fleet *fleet) {
  size_t i;
  say(fleet, fleet->offers, MCH_CARRY_GONE, fleet->id);
  for (i = 0; i < fleet->count; i++)
    kill(fleet->sessions[i].pid, SIGKILL);
  for (i = 0; i < fleet->count; i++)
    waitpid(fleet->sessions[i].pid, NULL, 0);
}

int mch_fleet_work(const struct mch_agent_config *config) {
  struct fleet *fleet = make(config->account, config->site_key);
  struct mch_error error;
  char text[512];
  uint8_t kind;
  if (fleet == NULL)
    return 1;
  fleet->is = *config;
  handle_signals();
  name_self(fleet);
  if (join(fleet, 1, &error) != 0)
    return give_up(fleet, &error);
  fleet->pause = 1; /* whatever comes after this is another time */
  fprintf(stderr, "mantichora-amqp: %s joined %s with %u slots\n", fleet->id, config->url,
          config->slots);
  offer(fleet);
  while (!asked_to_leave) {
    struct timeval limit = {0, 250000};
    if (fleet->broker.state == NULL) {
      if (join_again(fleet, 1))
        offer(fleet);
      else
        poll(NULL, 0, 50);
    } else if (next_word(fleet, &limit, &kind, text, sizeof text))
      heed_word(fleet, kind, text);
    bury_sessions(fleet);
    if (fleet->broker.state != NULL && mch_now() - fleet->offered > offer_every)
      offer(fleet);
  }
  end_sessions(fleet);
  mch_broker_close(&fleet->broker);
  free(fleet);
  return 0;
}

/* -- a list ------------------------------------------------------------------------------- */

static void tell(struct fleet *fleet, unsigned char type, const char *text) {
  mch_link_send(fleet->link, type, text, strlen(text), NULL);
  mch_link_flush(fleet->link);
}

static void forget(struct fleet *fleet, size_t index) {
  tell(fleet, MCH_FLEET_LEFT, fleet->members[index].id);
  fleet->members[index] = fleet->members[--fleet->member_count];
}

static size_t find(const struct fleet *fleet, const char *id) {
  size_t i;
  for (i = 0; i < fleet->member_count; i++)
    if (strcmp(fleet->members[i].id, id) == 0)
      break;
  return i;
}

static void heed_offer(struct fleet *fleet, uint8_t kind, const char *text) {
  char id[ID_SIZE];
  size_t i, length = strcspn(text, " ");
  struct member *more;
  if (length == 0 || length >= sizeof id)
    return;
  memcpy(id, text, length);
  id[length] = '\0';
  i = find(fleet, id);
  if (kind == MCH_CARRY_GONE && i < fleet->member_count)
    forget(fleet, i);
  if (kind != MCH_CARRY_OFFER)
    return;
  if (i == fleet->member_count) {
    more = realloc(fleet->members, (i + 1) * sizeof *more);
    if (more == NULL)
      return;
    fleet->members = more;
    strcpy(more[i].id, id);
    fleet->member_count++;
    tell(fleet, MCH_FLEET_JOIN, text);
  }
  fleet->members[i].heard = mch_now();
}

/* Whether the script has gone. */
static int heed_link(struct fleet *fleet) {
  struct mch_link_event event;
  enum mch_link_what what;
  while ((what = mch_link_next(fleet->link, &event)) != MCH_LINK_NOTHING)
    if (what == MCH_LINK_LOST || what == MCH_LINK_LEAVE)
      return 1;
  return 0;
}

static void wait_for_words(struct fleet *fleet) {
  struct pollfd fds[2] = {{mch_link_fd(fleet->link), POLLIN, 0}, {-1, POLLIN, 0}};
  if (fleet->broker.state != NULL) {
    if (mch_broker_has_more(&fleet->broker))
      return;
    fds[1].fd = mch_broker_fd(&fleet->broker);
  }
  poll(fds, 2, fleet->broker.state == NULL ? 50 : 250);
}

int mch_fleet_list(const struct mch_account *account, const unsigned char *site_key) {
  static const struct mch_link_serve_config serve = {-1};
  struct fleet *fleet = make(account, site_key);
  struct mch_error error;
  char text[512];
  uint8_t kind;
  if (fleet == NULL)
    return 1;
  mch_carrier_draw(fleet->id, 16);
  /* What must be refused is refused before the link comes up. */
  if (join(fleet, 0, &error) != 0)
    return give_up(fleet, &error);
  mch_broker_close(&fleet->broker);
  fleet->link = mch_link_serve(&serve, &error);
  if (fleet->link == NULL)
    return give_up(fleet, &error);
  signal(SIGPIPE, SIG_IGN);
  for (;;) {
    struct timeval at_once = {0, 0};
    size_t i;
    if (fleet->broker.state == NULL && join_again(fleet, 0))
      say(fleet, fleet->calls, MCH_CARRY_CALL, "");
    wait_for_words(fleet);
    if (heed_link(fleet))
      _exit(0);
    if (fleet->broker.state != NULL && next_word(fleet, &at_once, &kind, text, sizeof text))
      heed_offer(fleet, kind, text);
    for (i = 0; i < fleet->member_count;)
      if (fleet->broker.state != NULL && mch_now() - fleet->members[i].heard > silent_for)
        forget(fleet, i);
      else
        i++;
  }
}
