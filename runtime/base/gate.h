/* Runs in: parent.
 *
 * A fork copies every lock in its present state, also those inside the C library. So threads of
 * ours do all their work between mch_gate_hold_off() and mch_gate_let_go(), and a fork waits in
 * mch_gate_close() until no thread is between them. */
#ifndef MCH_GATE_H
#define MCH_GATE_H

/* From here on no fork happens, until the same number of calls of mch_gate_let_go(), from whatever
 * thread. Waits while a fork is under way. */
void mch_gate_hold_off(void);
void mch_gate_let_go(void);

/* Around a fork, in the process that forks: waits until nobody holds it off. */
void mch_gate_close(void);
void mch_gate_open(void);

/* In the new process, for C libraries that do not call handlers of pthread_atfork. */
void mch_gate_open_copied(void);

#endif
