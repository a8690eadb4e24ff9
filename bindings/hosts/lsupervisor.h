/* Runs in: a supervisor.
 *
 * The program's word `worker`. */
#ifndef MCH_LSUPERVISOR_H
#define MCH_LSUPERVISOR_H

/* `words`: "worker" and what stands behind it. The exit status. To be called before anything else
 * is made in this process. */
int mch_lsupervisor_main(int count, char **words);

#endif
