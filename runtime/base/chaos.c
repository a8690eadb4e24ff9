/* Runs in: both. Purpose: chaos.h. */
#define _POSIX_C_SOURCE 200809L
#include "chaos.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "decimal.h"
#include "mix.h"

static const double usual_rate = 0.01;
static const uint64_t longest_rest = 2000000u; /* 2 ms */

uint64_t mch_chaos_number(uint64_t *stream) {
  uint64_t number = mch_mix(*stream);
  *stream += 0x9e3779b97f4a7c15u;
  return number;
}

int mch_chaos_draw(const struct mch_chaos *chaos, uint64_t *stream) {
  return mch_chaos_number(stream) >> 32 < chaos->rate;
}

static void set_streams(struct mch_chaos *chaos, uint64_t seed) {
  chaos->seed = seed;
  chaos->noise = mch_mix(seed ^ 1);
  chaos->fate = mch_mix(seed ^ 2);
}

int mch_chaos_parse(struct mch_chaos *chaos, const char *text, struct mch_error *error) {
  double rate = usual_rate;
  long long seed;
  char *end;
  memset(chaos, 0, sizeof *chaos);
  if (text == NULL || *text == '\0')
    return 0;
  errno = 0;
  seed = strtoll(text, &end, 10);
  if (end == text || errno != 0)
    goto unclear;
  if (*end == ',') {
    size_t length;
    for (end++; *end == ' ';)
      end++;
    length = mch_decimal_parse(end, &rate);
    if (length == 0)
      goto unclear;
    end += length;
  }
  if (*end != '\0' || !(rate >= 0 && rate <= 1))
    goto unclear;
  chaos->rate = (uint64_t)(rate * 4294967296.0);
  set_streams(chaos, mch_mix((uint64_t)seed));
  return 0;
unclear:
  return mch_error_set(error, MCH_LIMIT,
                       "MANTICHORA_CHAOS must be seed[,rate], an integer and a number from 0 to 1: "
                       "\"%.100s\" is given",
                       text);
}

struct mch_chaos mch_chaos_split(const struct mch_chaos *chaos, uint64_t number) {
  struct mch_chaos own = *chaos;
  /* The seed stays, since a task's fate is made of it wherever the task runs. */
  own.noise = mch_mix(chaos->noise ^ mch_mix(number));
  return own;
}

struct mch_chaos mch_chaos_nest(struct mch_chaos *chaos) {
  struct mch_chaos own = *chaos;
  set_streams(&own, mch_chaos_number(&chaos->fate));
  return own;
}

void mch_chaos_begin_task(struct mch_chaos *chaos, uint64_t runid, uint32_t attempt) {
  if (chaos->rate != 0)
    chaos->fate = mch_mix(chaos->seed ^ mch_mix(runid ^ (uint64_t)attempt << 48));
}

void mch_chaos_rest(struct mch_chaos *chaos) {
  struct timespec moment = {0, 0};
  if (!mch_chaos_draw(chaos, &chaos->noise))
    return;
  moment.tv_nsec = (long)(mch_chaos_number(&chaos->noise) % longest_rest);
  nanosleep(&moment, NULL);
}

void mch_chaos_die(void) {
  kill(getpid(), SIGKILL);
}

int mch_chaos_spoil(struct mch_chaos *chaos, size_t *count, int may_refuse) {
  uint64_t number;
  if (!mch_chaos_draw(chaos, &chaos->noise))
    return 0;
  number = mch_chaos_number(&chaos->noise);
  if (number % 4 == 0)
    return EINTR;
  if (number % 4 == 1 && may_refuse)
    return EAGAIN;
  number = 1 + (number >> 8) % 32; /* a header and a little are 32 */
  if (number < *count)
    *count = (size_t)number;
  return 0;
}
