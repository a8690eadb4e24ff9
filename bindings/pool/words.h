/* Runs in: parent.
 *
 * What those who observe a pool are told in words: where a task's function is defined, how it
 * failed. The same as tostring(failure) says, made without Lua, since it may be wanted on any
 * thread. */
#ifndef MCH_WORDS_H
#define MCH_WORDS_H

#include "runtime/pool/pool.h"

struct mch_words mch_words_of_pools(void);

#endif
