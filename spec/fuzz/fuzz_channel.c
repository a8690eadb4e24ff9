/* Any bytes in a stream give messages, a wait for more, or a clean error: the reader of frames. The
 * bytes come through a socket in two pieces, so that frames are cut at any place. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/wire/channel.h"

enum { MOST_BYTES = 60000 }; /* what a socket takes without anybody reading */

/* The records of an open message are whole, and nothing else is in it. */
static void walk_records(const struct mch_message_in *message) {
  size_t at = 0;
  uint32_t i;
  for (i = 0; i < message->records; i++)
    at += 1 + (size_t)message->body[at];
  if (message->records > 0 && at != message->length)
    abort();
}

/* Read messages until no more come; returns 0 when the stream is broken. */
static int read_messages(struct mch_channel *channel) {
  struct mch_message_in message;
  unsigned char last = 0;
  int status;
  while ((status = mch_channel_next(channel, &message, NULL)) == 1) {
    if (message.length > 0) /* its body can be read from end to end */
      last = (unsigned char)(last ^ message.body[0] ^ message.body[message.length - 1]);
    walk_records(&message);
  }
  return status == 0 && last <= 255;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct mch_channel channel;
  int ends[2], fine = 1;
  size_t sent, piece;
  if (size < 2 || size > MOST_BYTES || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
    return 0;
  mch_channel_open(&channel, ends[0]);
  channel.trusted = 64;
  piece = 1 + (size_t)data[0] * size / 256;
  for (sent = 1; fine && sent < size; sent += piece) {
    if (piece > size - sent)
      piece = size - sent;
    if (write(ends[1], data + sent, piece) != (ssize_t)piece)
      abort();
    while (fine && mch_channel_fill(&channel, 0, NULL) > 0)
      fine = read_messages(&channel);
  }
  close(ends[1]);
  while (fine && !channel.ended && mch_channel_fill(&channel, 1, NULL) >= 0)
    fine = read_messages(&channel);
  mch_channel_close(&channel);
  return 0;
}
