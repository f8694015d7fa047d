/* Large replies leave in a thread of their own. See replies.c. */
#ifndef TIERFS_REPLIES_H
#define TIERFS_REPLIES_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Write a reply soon, in a thread: its bytes are copied before this returns. False when too much waits already, or
 * there is no memory: the caller writes it then. */
bool reply_soon(int fd, const struct iovec *iov, int count);

/* Write what waits, and end the thread. */
void replies_finish(void);

#endif
