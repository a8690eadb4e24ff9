/* Runs in: parent.
 *
 * libmicrohttpd, loaded when a page is to be served and not before: the program links nothing for
 * it, starts no slower for it, and runs on machines that do not have it. */
#ifndef MCH_WEB_MICROHTTPD_H
#define MCH_WEB_MICROHTTPD_H

#ifdef MANTICHORA_MICROHTTPD

#include <microhttpd.h>

#include "runtime/base/error.h"

/* Name, result and arguments of what we call, as in microhttpd.h. */
#define MCH_MICROHTTPD_FUNCTIONS(X)                                                                \
  X(start_daemon, struct MHD_Daemon *,                                                             \
    (unsigned flags, uint16_t port, MHD_AcceptPolicyCallback apc, void *apc_cls,                   \
     MHD_AccessHandlerCallback dh, void *dh_cls, ...))                                             \
  X(stop_daemon, void, (struct MHD_Daemon * daemon))                                               \
  X(get_daemon_info, const union MHD_DaemonInfo *,                                                 \
    (struct MHD_Daemon * daemon, enum MHD_DaemonInfoType info, ...))                               \
  X(get_fdset2, enum MHD_Result,                                                                   \
    (struct MHD_Daemon * daemon, fd_set * read_fd_set, fd_set * write_fd_set,                      \
     fd_set * except_fd_set, MHD_socket * max_fd, unsigned int fd_setsize))                        \
  X(get_timeout, enum MHD_Result, (struct MHD_Daemon * daemon, MHD_UNSIGNED_LONG_LONG * timeout))  \
  X(run_from_select, enum MHD_Result,                                                              \
    (struct MHD_Daemon * daemon, const fd_set *read_fd_set, const fd_set *write_fd_set,            \
     const fd_set *except_fd_set))                                                                 \
  X(lookup_connection_value, const char *,                                                         \
    (struct MHD_Connection * connection, enum MHD_ValueKind kind, const char *key))                \
  X(get_connection_values, int,                                                                    \
    (struct MHD_Connection * connection, enum MHD_ValueKind kind, MHD_KeyValueIterator iterator,   \
     void *iterator_cls))                                                                          \
  X(create_response_from_buffer, struct MHD_Response *,                                            \
    (size_t size, void *buffer, enum MHD_ResponseMemoryMode mode))                                 \
  X(create_response_from_callback, struct MHD_Response *,                                          \
    (uint64_t size, size_t block_size, MHD_ContentReaderCallback crc, void *crc_cls,               \
     MHD_ContentReaderFreeCallback crfc))                                                          \
  X(add_response_header, enum MHD_Result,                                                          \
    (struct MHD_Response * response, const char *header, const char *content))                     \
  X(queue_response, enum MHD_Result,                                                               \
    (struct MHD_Connection * connection, unsigned int status_code, struct MHD_Response *response)) \
  X(destroy_response, void, (struct MHD_Response * response))                                      \
  X(suspend_connection, void, (struct MHD_Connection * connection))                                \
  X(resume_connection, void, (struct MHD_Connection * connection))

struct mch_microhttpd {
#define MEMBER(name, result, arguments) result(*name) arguments;
  MCH_MICROHTTPD_FUNCTIONS(MEMBER)
#undef MEMBER
};

/* Load the library and fill `functions`. It stays loaded until the process ends. 0, or MCH_SYSTEM
 * with the package that is missing. */
int mch_microhttpd_load(struct mch_microhttpd *functions, struct mch_error *error);

#endif

#endif
