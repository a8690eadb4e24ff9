/* Runs in: a helper process. Purpose: relay.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "lease.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"
#include "tub.h"
#include "words.h"

enum {
  PIECE = 256 * 1024,     /* room of what comes in and goes out at once */
  PULL_BELOW = 96 * 1024, /* more is not put before the next beat */
  GREETING = 64 * 1024,   /* at most, before the preamble */
  SAID = 4 * 1024,        /* kept of a greeting and of what the carrier says */
  NOTES = 64 * 1024       /* of them wait for an end that is stopped, beside a window of frames */
};
static const uint64_t hello_within = 60000000000u;  /* a machine waits so long to be greeted */
static const uint64_t end_within = 1000000000u;     /* for a process to end by itself */
static const uint64_t leave_within = 1500000000u;   /* for a supervisor that was told to leave */
static const uint64_t goodbye_within = 2000000000u; /* for the machine that was told so */
static const uint64_t look_every = 20000000u; /* at a child that is watched; it may be stopped */
static const uint64_t deadman_late = 200000000u, deadman_slack = 2000000000u;

enum phase {
  AWAIT_PREAMBLE, /* the script's side begins here */
  AWAIT_HELLO,    /* the machine's side begins here */
  OPEN,
  OVER /* the other side, or this one's child, has gone: what there still is to say is said */
};

struct mch_relay {
  struct mch_relay_config is;
  char name[64];
  enum phase phase;
  struct mch_lease lease;
  struct mch_deadman deadman;
  uint64_t now, started, armed, look;
  uint64_t stopped; /* since when the child is; 0: it is not */
  uint64_t give_up; /* when patience with the child, or the other side, ends; MCH_NEVER */
  int watch;        /* of the child */
  int child_gone, status, end_gone, end_drained, in_ended, silent;
  int leaving;                 /* the end has asked for an orderly end, or the other side has */
  uint64_t sent, theirs_taken; /* bytes of DATA frames, to the other side */
  uint64_t received, told_taken;
  struct mch_frame_order from_them, from_us;
  struct mch_tub from_end, to_carrier, from_carrier, to_end;
  struct mch_tub greeting, said, news; /* news: said since the end was told */
  unsigned char slots[4];
  size_t slots_length;
  unsigned char memory[];
};

/* -- memory ------------------------------------------------------------------------------- */

static unsigned char *carve(struct mch_tub *tub, unsigned char *at, size_t room) {
  tub->bytes = at;
  tub->room = room;
  return at + room;
}

struct mch_relay *mch_relay_make(const struct mch_relay_config *config) {
  static const size_t to_end = 2 * MCH_LINK_WINDOW + NOTES;
  struct mch_relay *relay = mch_platform_share(sizeof *relay + 3 * PIECE + to_end + 3 * SAID);
  unsigned char *at;
  if (relay == NULL)
    return NULL;
  relay->is = *config;
  strncpy(relay->name, config->name, sizeof relay->name - 1);
  relay->phase = config->script ? AWAIT_PREAMBLE : AWAIT_HELLO;
  relay->lease.length = config->lease;
  relay->give_up = MCH_NEVER;
  relay->watch = -1;
  at = carve(&relay->from_end, relay->memory, PIECE);
  at = carve(&relay->to_carrier, at, PIECE);
  at = carve(&relay->from_carrier, at, PIECE);
  at = carve(&relay->to_end, at, to_end);
  at = carve(&relay->greeting, at, SAID);
  at = carve(&relay->said, at, SAID);
  carve(&relay->news, at, SAID);
  return relay;
}

/* -- saying ------------------------------------------------------------------------------- */

static void add_frame(struct mch_tub *tub, enum mch_frame_kind kind, uint8_t type,
                      const void *bytes, size_t length) {
  unsigned char head[MCH_FRAME_HEAD];
  struct mch_frame frame = {(uint8_t)kind, type, 0, (uint32_t)length, 0};
  if (mch_tub_space(tub) < sizeof head + length)
    return; /* only what is repeated, or comes when there is nothing else, is sent in this way */
  mch_frame_write(head, &frame);
  mch_tub_add(tub, head, sizeof head);
  mch_tub_add(tub, bytes, length);
}

static void note(struct mch_relay *relay, enum mch_note what, const void *bytes, size_t length) {
  if (!relay->end_gone)
    add_frame(&relay->to_end, MCH_FRAME_NOTE, (uint8_t)what, bytes, length);
}

/* Whether an end that may be stopped has few notes waiting. */
static int end_listens(const struct mch_relay *relay) {
  return mch_tub_unread(&relay->to_end) < NOTES / 4;
}

static void send_hello(struct mch_relay *relay) {
  unsigned char hello[16];
  mch_store_u32(hello, MCH_LINK_VERSION);
  mch_store_u32(hello + 4, 0);
  mch_store_u64(hello + 8, relay->is.script ? relay->lease.length : 0);
  add_frame(&relay->to_carrier, MCH_FRAME_HELLO, 0, hello, sizeof hello);
}

static void send_beat(struct mch_relay *relay) {
  unsigned char beat[MCH_BEAT_SIZE];
  mch_lease_make_beat(&relay->lease, relay->now, beat);
  /* A carrier that takes nothing gets no more beats either: those that wait say less and less. */
  if (mch_tub_unread(&relay->to_carrier) < PULL_BELOW + MCH_FRAME_ROOM)
    add_frame(&relay->to_carrier, MCH_FRAME_BEAT, 0, beat, sizeof beat);
}

static void quote_all(const struct mch_relay *relay, struct mch_words *words, int greeting) {
  size_t before = words->length;
  mch_words_say(words, ": ");
  mch_words_quote(words, relay->said.bytes + relay->said.read, mch_tub_unread(&relay->said));
  if (words->length == before + 2)
    words->length = before;
  if (!greeting || mch_tub_unread(&relay->greeting) == 0)
    return;
  mch_words_say(words, words->length == before ? ": it said: " : "; it said: ");
  mch_words_quote(words, relay->greeting.bytes + relay->greeting.read,
                  mch_tub_unread(&relay->greeting));
}

/* The script's side: nothing more comes from this machine. */
static void lose(struct mch_relay *relay, enum mch_lost_how how, struct mch_words *words) {
  unsigned char bytes[MCH_FRAME_TEXT];
  struct mch_words text = {(char *)bytes + 9, 0, sizeof bytes - 9};
  int refused = relay->phase != OPEN;
  if (relay->phase == OVER)
    return;
  mch_words_quote(&text, (unsigned char *)words->text, words->length);
  quote_all(relay, &text, refused);
  bytes[0] = (unsigned char)(refused ? MCH_LOST_REFUSED : how);
  mch_store_u64(bytes + 1, relay->lease.heard);
  note(relay, MCH_NOTE_LOST, bytes, 9 + text.length);
  relay->phase = OVER;
  relay->give_up = relay->now + end_within;
  if (relay->is.out >= 0)
    close(relay->is.out);
  relay->is.out = -1;
}

static void lose_saying(struct mch_relay *relay, enum mch_lost_how how, const char *why) {
  char text[512];
  struct mch_words words = {text, 0, sizeof text};
  mch_words_say(&words, why);
  lose(relay, how, &words);
}

void mch_relay_refuse(struct mch_relay *relay, const char *program, int problem) {
  char text[512];
  struct mch_words words = {text, 0, sizeof text};
  mch_words_say(&words, "cannot run '");
  mch_words_say(&words, program);
  mch_words_say(&words, "': ");
  mch_words_say(&words, strerror(problem)); /* there still is memory */
  relay->child_gone = 1;
  lose(relay, MCH_LOST_REFUSED, &words);
}

static void say_status(struct mch_words *words, const char *name, int status) {
  mch_words_say(words, name);
  if (WIFSIGNALED(status)) {
    mch_words_say(words, " was killed by signal ");
    mch_words_number(words, (uint64_t)WTERMSIG(status));
  } else {
    mch_words_say(words, " ended with status ");
    mch_words_number(words, (uint64_t)WEXITSTATUS(status));
  }
}

/* -- the end of it ------------------------------------------------------------------------ */

/* The script's helper leads a group of its own, in which the carrier and its children are. */
static void leave(const struct mch_relay *relay, int status) __attribute__((noreturn));
static void leave(const struct mch_relay *relay, int status) {
  if (relay->is.script)
    kill(0, SIGKILL);
  _exit(status);
}

static void look_at_child(struct mch_relay *relay) {
  pid_t got;
  if (relay->child_gone || (relay->watch >= 0 && relay->now < relay->look))
    return;
  relay->look = relay->now + look_every;
  got = waitpid(relay->is.child, &relay->status, WNOHANG | (relay->is.script ? 0 : WUNTRACED));
  if (got == 0 || (got < 0 && errno == EINTR))
    return;
  if (got > 0 && WIFSTOPPED(relay->status)) { /* where no timer of its own kills it */
    relay->stopped = relay->now;
    return;
  }
  relay->child_gone = 1;
  if (relay->watch >= 0)
    close(relay->watch);
  relay->watch = -1;
}

static void kill_child(struct mch_relay *relay) {
  if (!relay->child_gone)
    kill(relay->is.child, SIGKILL);
}

/* The machine's side: the other has gone. The supervisor goes at once, and with it its workers. */
static void abandon(struct mch_relay *relay, const char *why) __attribute__((noreturn));
static void abandon(struct mch_relay *relay, const char *why) {
  char text[256];
  struct mch_words words = {text, 0, sizeof text};
  kill_child(relay);
  while (!relay->child_gone && waitpid(relay->is.child, &relay->status, 0) < 0 && errno == EINTR)
    ;
  if (why != NULL) {
    mch_words_say(&words, "mantichora worker: ");
    mch_words_say(&words, why);
    mch_words_say(&words, "\n");
    if (write(2, text, words.length) < 0) /* nobody reads it any more */
      leave(relay, 1);
  }
  leave(relay, 1);
}

/* -- frames from the carrier -------------------------------------------------------------- */

static void broke_protocol(struct mch_relay *relay, const char *why) {
  if (!relay->is.script)
    abandon(relay, why);
  lose_saying(relay, MCH_LOST_UNKNOWN, why);
}

static void tell_up(struct mch_relay *relay) {
  char text[2 * SAID];
  struct mch_words words = {text, 0, sizeof text};
  mch_words_quote(&words, relay->greeting.bytes + relay->greeting.read,
                  mch_tub_unread(&relay->greeting));
  if (words.length > 0 && mch_tub_unread(&relay->said) > 0)
    mch_words_say(&words, "\n");
  mch_words_quote(&words, relay->said.bytes + relay->said.read, mch_tub_unread(&relay->said));
  mch_tub_drop(&relay->news, mch_tub_unread(&relay->news));
  note(relay, MCH_NOTE_UP, text, words.length);
}

static void tell_lease(struct mch_relay *relay) {
  unsigned char until[8];
  mch_deadman_arm(&relay->deadman, relay->lease.until + deadman_late);
  mch_store_u64(until, relay->lease.until + deadman_late);
  if (end_listens(relay)) /* else it has many of them to read */
    note(relay, MCH_NOTE_LEASE, until, sizeof until);
}

static void take_hello(struct mch_relay *relay, const unsigned char *hello) {
  uint32_t version = mch_load_u32(hello);
  if (version != MCH_LINK_VERSION) {
    char text[256];
    struct mch_words words = {text, 0, sizeof text};
    mch_words_say(&words, "mantichora there speaks version ");
    mch_words_number(&words, version);
    mch_words_say(&words, " of the wire between machines, this one version ");
    mch_words_number(&words, MCH_LINK_VERSION);
    if (!relay->is.script)
      abandon(relay, "the script speaks another version of the wire between machines");
    lose(relay, MCH_LOST_REFUSED, &words);
    return;
  }
  relay->phase = OPEN;
  relay->lease.heard = relay->now;
  atomic_store(&relay->is.board->heard, relay->now);
  if (relay->is.script)
    send_hello(relay);
  else {
    relay->lease.length = mch_load_u64(hello + 8);
    if (relay->lease.length == 0 || relay->lease.length > MCH_NEVER / 4)
      abandon(relay, "the script gave no lease");
    relay->lease.until = relay->started + relay->lease.length;
    tell_lease(relay);
  }
  tell_up(relay);
  if (relay->is.script)
    send_beat(relay);
}

static void take_beat(struct mch_relay *relay, const unsigned char *beat) {
  uint64_t until = relay->lease.until;
  mch_lease_take_beat(&relay->lease, relay->now, beat);
  atomic_store(&relay->is.board->heard, relay->now);
  atomic_store(&relay->is.board->rtt, relay->lease.rtt);
  if (!relay->is.script && relay->lease.until > until)
    tell_lease(relay);
}

static void take_bye(struct mch_relay *relay, const unsigned char *text, size_t length) {
  char bytes[MCH_FRAME_TEXT];
  struct mch_words words = {bytes, 0, sizeof bytes};
  if (relay->is.script) {
    mch_words_quote(&words, text, length);
    lose(relay, MCH_LOST_PROVEN, &words);
    return;
  }
  relay->leaving = 1;
  relay->give_up = relay->now + leave_within;
  note(relay, MCH_NOTE_LEAVE, NULL, 0);
}

static void take_frame(struct mch_relay *relay, const struct mch_frame *frame,
                       const unsigned char *bytes) {
  if (relay->phase == AWAIT_HELLO && frame->kind == MCH_FRAME_HELLO)
    take_hello(relay, bytes);
  else if (relay->phase != OPEN || frame->kind == MCH_FRAME_HELLO || frame->kind == MCH_FRAME_NOTE)
    broke_protocol(relay, "the other side sent what may not come here");
  else if (frame->kind == MCH_FRAME_BEAT)
    take_beat(relay, bytes);
  else if (frame->kind == MCH_FRAME_BYE)
    take_bye(relay, bytes, frame->length);
  else {
    uint64_t taken = mch_load_u64(bytes);
    if (taken > relay->sent)
      broke_protocol(relay, "the other side took more than was sent");
    else if (taken > relay->theirs_taken)
      relay->theirs_taken = taken;
  }
}

/* Hand DATA frames on to the end: at once what its socket takes. */
static void hand_on(struct mch_relay *relay, const unsigned char *bytes, size_t count) {
  relay->received += count;
  if (relay->end_gone)
    return;
  if (mch_tub_unread(&relay->to_end) == 0) {
    ssize_t wrote = mch_platform_send(relay->is.end, bytes, count, 0);
    if (wrote > 0)
      bytes += wrote, count -= (size_t)wrote;
  }
  if (mch_tub_space(&relay->to_end) < count + NOTES / 2)
    broke_protocol(relay, "the other side sent more than its window");
  else
    mch_tub_add(&relay->to_end, bytes, count);
}

/* All whole frames in from_carrier; runs of DATA in one piece. */
static void take_frames(struct mch_relay *relay) {
  struct mch_tub *tub = &relay->from_carrier;
  int whole = 1;
  while (whole == 1 && (relay->phase == AWAIT_HELLO || relay->phase == OPEN)) {
    size_t run = 0, unread = mch_tub_unread(tub);
    const unsigned char *bytes = tub->bytes + tub->read;
    struct mch_frame frame;
    while ((whole = mch_frame_next(&relay->from_them, bytes + run, unread - run, &frame)) == 1 &&
           frame.kind == MCH_FRAME_DATA && relay->phase == OPEN)
      run += MCH_FRAME_HEAD + frame.length;
    if (run > 0)
      hand_on(relay, bytes, run);
    if (whole == 1) {
      take_frame(relay, &frame, bytes + run + MCH_FRAME_HEAD);
      run += MCH_FRAME_HEAD + frame.length;
    }
    mch_tub_drop(tub, run);
  }
  if (whole < 0)
    broke_protocol(relay, "the other side sent bytes that are no frame, or out of order");
}

/* What comes before the preamble is kept for refusals. */
static void take_greeting(struct mch_relay *relay) {
  struct mch_tub *tub = &relay->from_carrier;
  size_t unread = mch_tub_unread(tub);
  const unsigned char *bytes = tub->bytes + tub->read;
  size_t place = mch_frame_find_preamble(bytes, unread);
  if (place == unread && unread < GREETING + MCH_PREAMBLE_SIZE && !relay->in_ended)
    return;
  mch_tub_add_last(&relay->greeting, bytes, place);
  if (place == unread && !relay->in_ended)
    lose_saying(relay, MCH_LOST_REFUSED,
                "what answers is not mantichora: it said more than 64 KiB");
  else if (place < unread) {
    relay->phase = AWAIT_HELLO;
    mch_tub_drop(tub, place + MCH_PREAMBLE_SIZE);
  }
}

/* -- reading ------------------------------------------------------------------------------ */

/* Read what there is room for. 1: something came; 0: nothing now; -1: the end, or an error. */
static int fill(struct mch_tub *tub, int fd, size_t least) {
  ssize_t got;
  if (tub->room - tub->length < least)
    mch_tub_make_room(tub, mch_tub_space(tub));
  do
    got = read(fd, tub->bytes + tub->length, tub->room - tub->length);
  while (got < 0 && errno == EINTR);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return 0;
  if (got <= 0)
    return -1;
  tub->length += (size_t)got;
  return 1;
}

static void read_carrier(struct mch_relay *relay) {
  if (relay->phase == OVER || relay->end_gone) /* so that it is not held up */
    mch_tub_drop(&relay->from_carrier, mch_tub_unread(&relay->from_carrier));
  if (fill(&relay->from_carrier, relay->is.in, MCH_FRAME_ROOM) < 0) {
    relay->in_ended = 1;
    close(relay->is.in);
    relay->is.in = -1;
  }
  if (relay->phase == AWAIT_PREAMBLE)
    take_greeting(relay);
  take_frames(relay);
  if (!relay->in_ended)
    return;
  if (!relay->is.script)
    abandon(relay, NULL);
  if (relay->phase != OVER && relay->give_up == MCH_NEVER)
    relay->give_up = relay->now + end_within;
}

/* Whether something came. */
static int read_said(struct mch_relay *relay) {
  unsigned char bytes[SAID];
  ssize_t got = relay->is.err < 0 ? -1 : read(relay->is.err, bytes, sizeof bytes);
  if (got > 0) {
    mch_tub_add_last(&relay->said, bytes, (size_t)got);
    mch_tub_add_last(&relay->news, bytes, (size_t)got);
    return 1;
  }
  if (relay->is.err >= 0 && (got == 0 || (errno != EAGAIN && errno != EINTR))) {
    close(relay->is.err);
    relay->is.err = -1;
  }
  return 0;
}

static void tell_news(struct mch_relay *relay) {
  size_t count = mch_tub_unread(&relay->news);
  if (relay->phase != OPEN || count == 0 || !end_listens(relay))
    return;
  note(relay, MCH_NOTE_SAID, relay->news.bytes + relay->news.read, count);
  mch_tub_drop(&relay->news, count);
}

static void read_slots(struct mch_relay *relay) {
  ssize_t got = read(relay->is.slots, relay->slots + relay->slots_length,
                     sizeof relay->slots - relay->slots_length);
  if (got <= 0) {
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      close(relay->is.slots);
      relay->is.slots = -1;
    }
    return;
  }
  relay->slots_length += (size_t)got;
  if (relay->slots_length == sizeof relay->slots) {
    note(relay, MCH_NOTE_SLOTS, relay->slots, sizeof relay->slots);
    relay->slots_length = 0;
  }
}

static void read_end(struct mch_relay *relay) {
  int came;
  if (!relay->is.script && mch_tub_space(&relay->from_end) == 0)
    return; /* of a script that left nothing more is wanted */
  came = fill(&relay->from_end, relay->is.end, 1);
  if (atomic_exchange(&relay->is.board->waits, 0) != 0)
    note(relay, MCH_NOTE_ROOM, NULL, 0);
  if (came > 0)
    return;
  if (came == 0) {
    relay->end_drained = relay->child_gone; /* its workers may hold the other end open */
    return;
  }
  relay->end_drained = 1;
  if (relay->give_up == MCH_NEVER || relay->is.script)
    relay->give_up = relay->now + end_within;
  if (!relay->is.script)
    return;
  relay->end_gone = 1;
  if (relay->is.out >= 0)
    close(relay->is.out);
  relay->is.out = -1;
}

/* -- frames to the carrier ---------------------------------------------------------------- */

/* Move whole frames from the end to the carrier, as far as the other side's window allows. */
static void pull(struct mch_relay *relay) {
  struct mch_tub *tub = &relay->from_end;
  while (relay->phase == OPEN && mch_tub_unread(&relay->to_carrier) < PULL_BELOW) {
    const unsigned char *bytes = tub->bytes + tub->read;
    struct mch_frame frame = {0, 0, 0, 0, 0};
    size_t size;
    int whole = mch_frame_read(bytes, mch_tub_unread(tub), &frame);
    if (whole == 0)
      return;
    size = MCH_FRAME_HEAD + frame.length;
    if (whole > 0 && frame.kind == MCH_FRAME_DATA &&
        relay->sent + size - relay->theirs_taken > MCH_LINK_WINDOW)
      return;
    whole = mch_frame_next(&relay->from_us, bytes, mch_tub_unread(tub), &frame);
    if (whole == 0)
      return;
    if (whole < 0 || (frame.kind != MCH_FRAME_DATA && frame.kind != MCH_FRAME_BYE)) {
      relay->end_gone = 1; /* that would be a fault of ours */
      relay->give_up = relay->now;
      return;
    }
    if (frame.kind == MCH_FRAME_DATA)
      relay->sent += size;
    else {
      relay->leaving = 1;
      relay->give_up = relay->now + (relay->is.script ? goodbye_within : leave_within);
    }
    if (frame.kind == MCH_FRAME_DATA || relay->is.script)
      mch_tub_add(&relay->to_carrier, bytes, size);
    mch_tub_drop(tub, size);
  }
}

/* The machine's side says its last word once all has been sent that the supervisor left. */
static void say_bye(struct mch_relay *relay) {
  char text[128];
  struct mch_words words = {text, 0, sizeof text};
  struct mch_frame frame = {0, 0, 0, 0, 0};
  const struct mch_tub *tub = &relay->from_end;
  if (relay->is.script || relay->phase != OPEN || !relay->child_gone || !relay->end_drained ||
      (mch_frame_read(tub->bytes + tub->read, mch_tub_unread(tub), &frame) == 1 &&
       mch_tub_unread(tub) >= MCH_FRAME_HEAD + frame.length) ||
      mch_tub_space(&relay->to_carrier) < MCH_FRAME_ROOM)
    return;
  if (WIFEXITED(relay->status) && WEXITSTATUS(relay->status) == 0)
    mch_words_say(&words, "it ended");
  else
    say_status(&words, "its supervisor", relay->status);
  add_frame(&relay->to_carrier, MCH_FRAME_BYE, 0, text, words.length);
  relay->phase = OVER;
}

static void tell_taken(struct mch_relay *relay) {
  uint64_t waiting = mch_tub_unread(&relay->to_end);
  uint64_t taken = waiting < relay->received ? relay->received - waiting : 0;
  unsigned char bytes[8];
  if (relay->phase != OPEN || taken < relay->told_taken + MCH_LINK_WINDOW / 4 ||
      mch_tub_space(&relay->to_carrier) < MCH_FRAME_ROOM)
    return;
  mch_store_u64(bytes, taken);
  add_frame(&relay->to_carrier, MCH_FRAME_TAKEN, 0, bytes, sizeof bytes);
  relay->told_taken = taken;
}

/* -- writing ------------------------------------------------------------------------------ */

/* Whether the carrier took all there was. */
static int write_carrier(struct mch_relay *relay) {
  struct mch_tub *tub = &relay->to_carrier;
  ssize_t wrote;
  if (relay->is.out < 0) {
    mch_tub_drop(tub, mch_tub_unread(tub));
    return 0;
  }
  do
    wrote = write(relay->is.out, tub->bytes + tub->read, mch_tub_unread(tub));
  while (wrote < 0 && errno == EINTR);
  if (wrote > 0) {
    mch_tub_drop(tub, (size_t)wrote);
    return mch_tub_unread(tub) == 0;
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK)
    return 0;
  if (!relay->is.script)
    abandon(relay, NULL);
  close(relay->is.out);
  relay->is.out = -1;
  if (relay->give_up == MCH_NEVER)
    relay->give_up = relay->now + end_within;
  return 0;
}

static void write_end(struct mch_relay *relay) {
  struct mch_tub *tub = &relay->to_end;
  ssize_t wrote = mch_platform_send(relay->is.end, tub->bytes + tub->read, mch_tub_unread(tub), 0);
  if (wrote > 0)
    mch_tub_drop(tub, (size_t)wrote);
  else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
    mch_tub_drop(tub, mch_tub_unread(tub)); /* its end is read below */
}

/* -- time --------------------------------------------------------------------------------- */

/* The script's side: the carrier has ended, or is not to be waited for any longer. */
static void carrier_ended(struct mch_relay *relay) {
  char text[256];
  struct mch_words words = {text, 0, sizeof text};
  enum mch_lost_how how = MCH_LOST_BROKEN;
  int reads;
  for (reads = 0; reads < 64 && read_said(relay); reads++) /* its last words */
    ;
  if (relay->child_gone)
    say_status(&words, relay->name, relay->status);
  else {
    mch_words_say(&words, "the connection by ");
    mch_words_say(&words, relay->name);
    mch_words_say(&words, relay->leaving ? " did not end in time" : " was closed");
  }
  /* ssh ends so when it has lost the other side, which may not know that; but also when the program
   * there was killed, and then it has no word to say about it. */
  if (!relay->child_gone || (WIFEXITED(relay->status) && WEXITSTATUS(relay->status) == 255 &&
                             mch_tub_unread(&relay->said) > 0))
    how = MCH_LOST_UNKNOWN;
  lose(relay, how, &words);
}

static void check_script_side(struct mch_relay *relay) {
  char text[128];
  struct mch_words words = {text, 0, sizeof text};
  if (relay->end_gone && (relay->child_gone || relay->now >= relay->give_up))
    leave(relay, 0);
  if (relay->phase == OVER) {
    if (relay->now >= relay->give_up)
      kill_child(relay);
    if (relay->child_gone && mch_tub_unread(&relay->to_end) == 0)
      leave(relay, 0);
    return;
  }
  if (relay->phase < OPEN && relay->now - relay->started > relay->is.connect_timeout) {
    mch_words_say(&words, "no answer within ");
    mch_words_seconds(&words, relay->is.connect_timeout);
    mch_tub_add_last(&relay->greeting, relay->from_carrier.bytes + relay->from_carrier.read,
                     mch_tub_unread(&relay->from_carrier));
    lose(relay, MCH_LOST_REFUSED, &words);
  } else if (relay->phase == OPEN && mch_lease_is_over(&relay->lease, relay->now)) {
    mch_words_say(&words, "it was silent for ");
    mch_words_seconds(&words, relay->lease.length);
    lose(relay, MCH_LOST_UNKNOWN, &words);
  } else if (relay->now >= relay->give_up || (relay->child_gone && relay->in_ended))
    carrier_ended(relay);
  else if (relay->child_gone && relay->give_up == MCH_NEVER)
    relay->give_up = relay->now + end_within / 5; /* something it started has its stdout */
}

static void check_machine_side(struct mch_relay *relay) {
  if (relay->phase == OVER && mch_tub_unread(&relay->to_carrier) == 0)
    leave(relay, 0);
  if (relay->phase == AWAIT_HELLO && relay->now - relay->started > hello_within)
    abandon(relay, "nobody asked for anything");
  if (relay->phase == AWAIT_HELLO && relay->child_gone)
    abandon(relay, "its supervisor ended at once");
  if (relay->phase != AWAIT_HELLO && relay->now >= relay->lease.until)
    abandon(relay, "the script was not heard for as long as its lease; its tasks here were ended");
  if (relay->now >= relay->give_up ||
      (relay->stopped != 0 && relay->now - relay->stopped > relay->lease.length))
    kill_child(relay);
}

static void check_suspicion(struct mch_relay *relay) {
  int silent = relay->phase == OPEN && mch_lease_is_suspect(&relay->lease, relay->now);
  if (!relay->is.script || relay->phase != OPEN || silent == relay->silent || !end_listens(relay))
    return;
  relay->silent = silent;
  note(relay, silent ? MCH_NOTE_SILENT : MCH_NOTE_AGAIN, NULL, 0);
}

static void tick(struct mch_relay *relay) {
  uint64_t step;
  relay->now = mch_process_clock();
  look_at_child(relay);
  if (relay->phase == OPEN && relay->now >= mch_lease_due(&relay->lease))
    send_beat(relay);
  check_suspicion(relay);
  if (!relay->is.script) {
    check_machine_side(relay);
    return;
  }
  check_script_side(relay);
  step = mch_lease_interval(&relay->lease);
  if (relay->now >= relay->armed + step) { /* a helper that is stopped must not be waited for */
    mch_deadman_arm(&relay->deadman, relay->now + relay->lease.length + deadman_slack);
    relay->armed = relay->now;
  }
}

/* Milliseconds that may be slept. */
static int patience(const struct mch_relay *relay) {
  uint64_t wake = relay->now + 1000000000u;
  if (!relay->is.script && relay->child_gone && !relay->end_drained &&
      mch_tub_space(&relay->from_end) > 0)
    return 0;
  if (!relay->is.script && relay->child_gone && relay->end_drained && relay->phase == OPEN &&
      mch_tub_unread(&relay->from_end) == 0 && mch_tub_space(&relay->to_carrier) >= MCH_FRAME_ROOM)
    return 0; /* the last word is to be said */
  if (relay->lease.length > 0)
    wake = mch_sooner(wake, relay->now + mch_lease_interval(&relay->lease));
  if (relay->phase == OPEN)
    wake = mch_sooner(wake, mch_lease_due(&relay->lease));
  if (relay->phase == OPEN && !relay->is.script)
    wake = mch_sooner(wake, relay->lease.until);
  if (relay->phase < OPEN && relay->is.script)
    wake = mch_sooner(wake, relay->started + relay->is.connect_timeout);
  wake = mch_sooner(wake, relay->give_up > relay->now ? relay->give_up : MCH_NEVER);
  if (!relay->child_gone && relay->watch < 0)
    wake = mch_sooner(wake, relay->now + 50000000u);
  return wake <= relay->now ? 0 : (int)((wake - relay->now) / 1000000u) + 1;
}

/* -- the loop ----------------------------------------------------------------------------- */

enum { END, IN, OUT, ERR, SLOTS, CHILD, SOURCES };

static void wait_for_work(const struct mch_relay *relay, struct pollfd fds[SOURCES]) {
  int reads = !relay->end_gone && mch_tub_space(&relay->from_end) >= MCH_FRAME_ROOM;
  int writes = !relay->end_gone && mch_tub_unread(&relay->to_end) > 0;
  int i;
  for (i = 0; i < SOURCES; i++) {
    fds[i].fd = -1;
    fds[i].events = POLLIN;
    fds[i].revents = 0;
  }
  if (relay->end_drained)
    reads = 0;
  if (reads || writes || (relay->is.script && !relay->end_drained))
    fds[END].fd = relay->is.end;
  fds[END].events = (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
  fds[IN].fd = relay->is.in;
  if (mch_tub_unread(&relay->to_carrier) > 0)
    fds[OUT].fd = relay->is.out;
  fds[OUT].events = POLLOUT;
  fds[ERR].fd = relay->is.err;
  fds[SLOTS].fd = relay->is.slots;
  fds[CHILD].fd = relay->watch;
  poll(fds, SOURCES, patience(relay));
}

static void work(struct mch_relay *relay) {
  struct pollfd fds[SOURCES];
  wait_for_work(relay, fds);
  relay->now = mch_process_clock();
  if (fds[CHILD].revents)
    relay->look = 0;
  if (fds[ERR].revents) /* before what was written after it */
    read_said(relay);
  if (fds[IN].revents)
    read_carrier(relay);
  if (fds[SLOTS].revents)
    read_slots(relay);
  if ((fds[END].revents & ~POLLOUT) || (relay->child_gone && !relay->end_drained))
    read_end(relay);
  tell_news(relay);
  if (!relay->end_gone && mch_tub_unread(&relay->to_end) > 0)
    write_end(relay);
  do { /* until one of them waits for something that wakes this */
    pull(relay);
    tell_taken(relay);
    say_bye(relay);
  } while (mch_tub_unread(&relay->to_carrier) > 0 && write_carrier(relay));
}

void mch_relay_run(struct mch_relay *relay) {
  relay->now = relay->started = relay->lease.heard = mch_process_clock();
  mch_deadman_make(&relay->deadman);
  if (!relay->child_gone)
    relay->watch = mch_platform_watch_process(relay->is.child);
  if (!relay->is.script) {
    mch_tub_add(&relay->to_carrier, MCH_PREAMBLE, MCH_PREAMBLE_SIZE);
    send_hello(relay);
    mch_deadman_arm(&relay->deadman, relay->now + 2 * hello_within);
  }
  for (;;) {
    tick(relay);
    work(relay);
  }
}
