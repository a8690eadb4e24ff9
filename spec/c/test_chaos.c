/* Chaos: what its words mean, how often it strikes, and that a seed brings the same again. */
#include "runtime/base/chaos.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                      \
    }                                                                                              \
  } while (0)

static struct mch_chaos parsed(const char *text) {
  struct mch_chaos chaos;
  struct mch_error error;
  CHECK(mch_chaos_parse(&chaos, text, &error) == 0);
  return chaos;
}

static void test_words(void) {
  static const char *const unclear[] = {
      "x", "1,", ",1", "1,2", "1,-0.1", "1,nan", "1 ", "1,0.1x", "99999999999999999999"};
  struct mch_chaos chaos;
  size_t i;
  for (i = 0; i < sizeof unclear / sizeof *unclear; i++) {
    struct mch_error error;
    CHECK(mch_chaos_parse(&chaos, unclear[i], &error) == MCH_LIMIT);
    CHECK(strstr(error.text, unclear[i]) != NULL);
    CHECK(chaos.rate == 0);
  }
  CHECK(parsed(NULL).rate == 0);
  CHECK(parsed("").rate == 0);
  CHECK(parsed("7,0").rate == 0);
  CHECK(parsed("7,1").rate == UINT64_C(1) << 32);
  CHECK(parsed("7").rate == parsed("8,0.01").rate);
  CHECK(parsed("7").seed != parsed("8").seed);
  CHECK(parsed("-7").seed != parsed("7").seed);
}

static void test_rates(void) {
  struct mch_chaos never = parsed("1,0"), always = parsed("1,1"), some = parsed("1,0.1");
  unsigned i, count = 0;
  for (i = 0; i < 10000; i++) {
    CHECK(!mch_chaos_strikes(&never) && !mch_chaos_dooms(&never));
    CHECK(mch_chaos_strikes(&always) && mch_chaos_dooms(&always));
    count += (unsigned)mch_chaos_strikes(&some);
  }
  CHECK(count > 900 && count < 1100);
}

/* Bit i: the task's i-th point is its last. */
static unsigned fate(struct mch_chaos *chaos, uint64_t runid, uint32_t attempt) {
  unsigned bits = 0;
  int i;
  mch_chaos_begin_task(chaos, runid, attempt);
  for (i = 0; i < 32; i++)
    bits = bits << 1 | (unsigned)mch_chaos_dooms(chaos);
  return bits;
}

static void test_fates(void) {
  struct mch_chaos pool = parsed("3,0.5"), other = parsed("4,0.5");
  struct mch_chaos one = mch_chaos_split(&pool, 1), two = mch_chaos_split(&pool, 2);
  CHECK(one.noise != two.noise);
  mch_chaos_strikes(&one); /* what happened before has no part in it */
  CHECK(fate(&one, 17, 0) == fate(&two, 17, 0));
  CHECK(fate(&one, 17, 0) != fate(&one, 17, 1));
  CHECK(fate(&one, 17, 0) != fate(&one, 18, 0));
  CHECK(fate(&one, 17, 0) != fate(&other, 17, 0));
}

static void test_nests(void) {
  struct mch_chaos worker = parsed("3,0.5"), first, second, again;
  mch_chaos_begin_task(&worker, 5, 0);
  first = mch_chaos_nest(&worker);
  second = mch_chaos_nest(&worker);
  mch_chaos_begin_task(&worker, 5, 0);
  again = mch_chaos_nest(&worker);
  CHECK(first.seed != second.seed && first.seed != worker.seed && first.rate == worker.rate);
  CHECK(memcmp(&first, &again, sizeof first) == 0);
}

static void test_io(void) {
  struct mch_chaos chaos = parsed("5,1"), never = parsed("5,0");
  unsigned eintr = 0, eagain = 0, small = 0, i;
  for (i = 0; i < 1000; i++) {
    size_t count = 1000;
    int code = mch_chaos_io(&chaos, &count, i % 2 == 0);
    CHECK(code == 0 || code == EINTR || (code == EAGAIN && i % 2 == 0));
    CHECK(code != 0 || (count >= 1 && count <= 32));
    eintr += code == EINTR;
    eagain += code == EAGAIN;
    small += code == 0;
    count = 1;
    CHECK(mch_chaos_io(&chaos, &count, 0) == EINTR || count == 1);
    CHECK(mch_chaos_io(&never, &count, 1) == 0 && mch_chaos_io(NULL, &count, 1) == 0);
  }
  CHECK(eintr > 150 && eagain > 50 && small > 400);
}

int main(void) {
  test_words();
  test_rates();
  test_fates();
  test_nests();
  test_io();
  return failures != 0;
}
