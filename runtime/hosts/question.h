/* Runs in: child, on a machine of a pool of many.
 *
 * A worker asks its supervisor for a module (supervisor_ask.c answers). */
#ifndef MCH_HOSTS_QUESTION_H
#define MCH_HOSTS_QUESTION_H

#include "hosts.h"

struct mch_question {
  int fd;
  struct mch_buf answer;
};

/* Ask by the socket that all workers share. 0 or -1. */
int mch_question_ask(struct mch_question *question, int socket, const char *name);

/* Wait for the answer: 1, it is there, or will not come; 0: a signal came before. */
int mch_question_hear(struct mch_question *question);

/* What it is; the texts are the question's. */
enum mch_module_kind mch_question_answer(const struct mch_question *question, const char **chunk,
                                         size_t *chunk_length, const char **source, size_t *length);
void mch_question_free(struct mch_question *question);

/* The two ends of the socket for questions: [0] the supervisor's. 0 or -1. */
int mch_question_sockets(int sockets[2]);

#endif
