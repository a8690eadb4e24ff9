/* runtime/facts: the wire form to the byte, and what is refused; the label of HELLO. */
#include "runtime/wire/facts.h"

#include <string.h>

#include "bindings/pool/ltask.h"
#include "bindings/values/graph.h"
#include "check.h"

static void test_wire_form(void) {
  struct mch_facts facts = {.kind = MCH_KIND_ERROR,
                            .elapsed = 0x0102030405060708u,
                            .maxrss = 9,
                            .started = 0x22,
                            .cpu = 0x33,
                            .stdout_position = MCH_POSITION_UNKNOWN,
                            .stderr_position = 0x1100};
  static const char expected[] = "\1"
                                 "\10\7\6\5\4\3\2\1"
                                 "\11\0\0\0\0\0\0\0"
                                 "\42\0\0\0\0\0\0\0"
                                 "\63\0\0\0\0\0\0\0"
                                 "\377\377\377\377\377\377\377\377"
                                 "\0\21\0\0\0\0\0";
  unsigned char bytes[MCH_FACTS_SIZE];
  struct mch_facts back;
  CHECK(MCH_FACTS_SIZE == sizeof expected);
  mch_facts_store(&facts, bytes);
  CHECK(memcmp(bytes, expected, sizeof expected) == 0);
  CHECK(mch_facts_load(&back, bytes, sizeof bytes) == 0);
  CHECK(back.kind == facts.kind && back.elapsed == facts.elapsed && back.maxrss == 9);
  CHECK(back.started == 0x22 && back.cpu == 0x33);
  CHECK(back.stdout_position == MCH_POSITION_UNKNOWN && back.stderr_position == 0x1100);
}

static void test_refused(void) {
  unsigned char bytes[MCH_FACTS_SIZE] = {MCH_KIND_UNSENDABLE};
  struct mch_facts facts;
  CHECK(mch_facts_load(&facts, bytes, sizeof bytes) == 0);
  CHECK(mch_facts_load(&facts, bytes, sizeof bytes - 1) == -1);
  bytes[0] = MCH_KIND_EXITED; /* only the pool can report that */
  CHECK(mch_facts_load(&facts, bytes, sizeof bytes) == -1);
  bytes[0] = MCH_ITEM_OK;
  CHECK(mch_facts_load(&facts, bytes, sizeof bytes) == -1);
}

/* A worker with another graph format is refused, so the label names the format that it writes. */
static void test_label(void) {
  char label[64];
  snprintf(label, sizeof label, "Lua 5.4 graph %d", MCH_GRAPH_VERSION);
  CHECK(strcmp(mch_ltask_runner(NULL).format, label) == 0);
}

int main(void) {
  test_wire_form();
  test_refused();
  test_label();
  return check_report();
}
