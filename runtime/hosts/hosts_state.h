/* Runs in: parent.
 *
 * What the files of the engine for many machines share. All of it is used under the pool's lock.
 * The states of a machine:
 *
 *     IDLE --start--> CONNECTING --up, HELLO--> LOADING --START--> UP <--> SUSPECT
 *                       |   |                     |                 |         |
 *                       |   +--(its first attempt fails)            +--lost---+
 *                       |            v            v                      v
 *                       |          REFUSED <------+                    LOST --back-off-->
 * CONNECTING |            ^                                   | |            +-----------(five
 * attempts)---------+
 *                       +--quit--> LEAVING --> AWAY
 */
#ifndef MCH_HOSTS_STATE_H
#define MCH_HOSTS_STATE_H

#include "hosts.h"
#include "kept.h"
#include "runtime/links/link.h"
#include "runtime/show/output.h"
#include "wire.h"

enum machine_state { IDLE, CONNECTING, LOADING, UP, SUSPECT, LOST, REFUSED, LEAVING, AWAY };

/* A task that a machine has. */
struct held {
  struct held *next, *previous; /* in its list */
  struct mch_task *task;
  uint32_t ticket;
  int granted;
  int recalled;  /* it was asked for */
  int cancelled; /* of a batch: what has not begun ends as its `stop` says */
};

/* In the order in which they are to begin, whatever their tickets: what came back and went anew is
 * before what came later. */
struct held_list {
  struct held *first, *last;
};

struct machine {
  struct engine_hosts *engine;
  const struct mch_host *host;
  struct mch_host *own_host; /* of a machine of a fleet: `host`, which goes with it; or NULL */
  uint64_t alone_since;      /* a fleet's: none of its machines was there since */
  enum machine_state state;
  struct mch_link *link;
  int fd;               /* of the link, in the poller; -1: none */
  int deaf;             /* its connection has ended */
  unsigned cpus, share; /* slots that it was given of those that it has */
  unsigned told_share;
  struct held *held[MCH_HOSTS_PLACES]; /* by ticket */
  struct held_list waits, may;         /* not granted; granted */
  uint32_t last_ticket;
  unsigned outstanding, granted;
  int filled;           /* its window was full, and half of it is not over yet */
  size_t in_flight;     /* bytes of payload */
  unsigned char *codes; /* bits by id: it has them */
  uint32_t code_room;
  struct mch_kept kept;  /* what it has of large graphs */
  double run_time, trip; /* nanoseconds, smoothed; 0: not known */
  uint64_t last_end;     /* when a task of it ended last, or the first was granted */
  uint64_t asked_at;     /* when it was last asked for what it may have begun */
  uint64_t pinged;       /* when the last PING went; */
  int pong_due;
  uint64_t retry_at;
  unsigned losses; /* since it was last up for a while */
  int was_up;      /* ever */
  uint64_t up_since;
  char *why; /* it was lost or refused */
  struct mch_bar **bars;
  uint64_t *bar_keys;
  uint64_t *bar_runids;
  size_t bar_count, bar_room;
  struct mch_worker_info *workers;
  size_t worker_count, worker_room;
  unsigned *slots; /* the pool's number of each that it has, or 0 */
  size_t slot_room;
  uint64_t heard_owed; /* failures of careful tasks that HEARD is due for */
  uint64_t quit_at;
};

struct engine_hosts {
  struct mch_engine base;
  struct mch_engine_config config;
  struct mch_hosts *hosts;
  struct machine *machines;
  size_t count, room; /* machines; a fleet adds to them */
  unsigned wanted;    /* tasks at once at most; 0: as many as there are slots */
  int started, quitting;
  int log_level, listening;
  struct mch_task **doomed; /* accepted where no machine is left: they end at the next pump */
  size_t doomed_count, doomed_room;
  struct mch_buf scratch;
  uint64_t now; /* at the last pump */
  uint64_t first_start;
  uint64_t worked;   /* nanoseconds, of all */
  size_t queued;     /* tasks that waited in the pool at the last pump */
  uint64_t halve_at; /* when to look again whether a batch is to be shared with an idle machine */
  unsigned char *taken; /* by number: a machine has that slot */
  size_t taken_room;
};

/* hosts_machine.c: a machine comes and goes. */

void mch_machine_connect(struct machine *machine);
void mch_machine_refuse(struct machine *machine, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void mch_machine_lose(struct machine *machine, const char *why);
void mch_machine_serve(struct machine *machine);
void mch_machine_broken(struct machine *machine, const char *what);
void mch_machine_send(struct machine *machine, unsigned type, const void *bytes, size_t length);
void mch_machine_quit(struct machine *machine, int kill);
void mch_machine_drop(struct machine *machine);
void mch_machine_allot(struct engine_hosts *engine);
uint64_t mch_machine_deadline(const struct machine *machine);
int mch_machine_is_open(const struct machine *machine);
/* Whether it is time to connect anew, which the owner does. */
int mch_machine_is_due(const struct machine *machine);

/* hosts_slots.c: the pool's numbers of a machine's slots. */

unsigned mch_hslots_number(struct machine *machine, unsigned slot);
/* It has no more than its share, and those that somebody works in. */
void mch_hslots_trim(struct machine *machine);
void mch_hslots_release(struct machine *machine);

/* hosts_fleet.c: a list of machines, in the place of one. */

int mch_fleet_message(struct machine *fleet, unsigned type, const unsigned char *bytes,
                      size_t length);
void mch_fleet_serve(struct machine *fleet);
uint64_t mch_fleet_deadline(const struct machine *fleet);
void mch_fleet_drop(struct machine *machine);

/* hosts_feed.c: who gets which task. */

struct held *mch_hfeed_held(struct machine *machine, uint32_t ticket);
/* A task that is there, or comes there, as this ticket; 0, or MCH_NOMEM. */
int mch_hfeed_hold(struct machine *machine, struct mch_task *task, uint32_t ticket, int granted);
int mch_hfeed_send_codes(struct machine *machine, const unsigned char *ids, uint32_t count);
void mch_hfeed_settle(struct machine *machine, struct held *held);
void mch_hfeed_grant(struct machine *machine);
/* Ask for what was allowed to begin, and will not soon; when that is due. */
void mch_hfeed_ask_back(struct machine *machine);
uint64_t mch_hfeed_ask_at(const struct machine *machine);
int mch_hfeed_submit(struct mch_engine *base, struct mch_task *task, int owner,
                     struct mch_error *error);
void mch_hfeed_stop(struct mch_engine *base, struct mch_task *task);
int mch_hfeed_reclaim(struct mch_engine *base, struct mch_task *task);
void mch_hfeed_shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number);
void mch_hfeed_stop_item(struct mch_engine *base, struct mch_task *batch, uint32_t number);
void mch_hfeed_recall(struct mch_engine *base, int32_t priority);
int mch_hfeed_forget_code(struct mch_engine *base, uint32_t id);
void mch_hfeed_withdraw(struct mch_engine *base);
void mch_hfeed_steal(struct engine_hosts *engine);
int mch_hfeed_has_room(const struct machine *machine);
void mch_hfeed_take_back_all(struct machine *machine);
void mch_hfeed_fail_all(struct machine *machine, const char *why);

/* hosts_hear.c: what a supervisor says. 0, or -1: it may not say that. */

int mch_hhear_message(struct machine *machine, unsigned type, const unsigned char *bytes,
                      size_t length);
/* The task there that has this run ID, or the batch with its item; NULL: there is none. */
const struct mch_task *mch_hhear_task_with(const struct machine *machine, uint64_t runid);
void mch_hhear_end_bars(struct machine *machine, enum mch_bar_end how);

#endif
