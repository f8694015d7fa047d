/* Large replies leave in a thread of their own, from where their bytes are. See replies.c. */
#ifndef TIERFS_REPLIES_H
#define TIERFS_REPLIES_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

#define MOST_PIECES 16

/* The next reply whose payload begins where the first piece does is to consist of all of them (1 to MOST_PIECES).
 * `owner` is who keeps their bytes; replies_done() gives it back. */
void reply_offer(const struct iovec *pieces, int count, void *owner);

/* Whether a reply of libfuse is the one that was offered; then it is written soon, in a thread, or now when too much
 * waits already. */
bool reply_take(int fd, const struct iovec *iov, int count);

/* An owner whose bytes are not needed any more, or NULL. */
void *replies_done(void);

/* Write what waits, and end the thread; all owners are done then. */
void replies_finish(void);

#endif
