/* Large replies leave in a thread of their own, from where their bytes are.
 *
 * The kernel copies the bytes of a READ into fresh pages of its cache while the reply is written: up to a millisecond
 * for a mebibyte, in which nobody else would be answered. pyfuse3 can say neither that a reply has several pieces nor
 * that somebody else writes it, so it is given the first piece, and the reply is known again by where that lies: its
 * owner keeps it, so nothing else can lie there.
 *
 * One thread, started when it is first needed; a ring under a lock. Write errors mean that nobody waits for the reply
 * any more.
 */
#define _GNU_SOURCE
#include "replies.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "inflight.h"
#include "protocol.h"

#define MOST_WAITING 256 /* more than readers keep busy, as a rule: then the loop writes itself */

struct reply {
    int fd, count;
    struct out_header header;
    struct iovec iov[1 + MOST_PIECES];
    void *owner;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool runs, is_ending;
    size_t first, waiting, done; /* of the ring: `done` ones before `first`, whose owners were not asked for yet */
    struct reply ring[MOST_WAITING];
    struct reply offered; /* by the thread that also takes it; no lock */
} replies = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *write_replies(void *unused) {
    (void)unused;
    pthread_mutex_lock(&replies.lock);
    while (true) {
        while (!replies.waiting && !replies.is_ending) pthread_cond_wait(&replies.changed, &replies.lock);
        if (!replies.waiting) break;
        struct reply *next = &replies.ring[replies.first]; /* nobody else touches it while it waits */
        pthread_mutex_unlock(&replies.lock);
        inflight_done(next->header.unique);
        (void)!writev(next->fd, next->iov, next->count);
        pthread_mutex_lock(&replies.lock);
        replies.first = (replies.first + 1) % MOST_WAITING;
        replies.waiting--;
        replies.done++;
    }
    pthread_mutex_unlock(&replies.lock);
    return NULL;
}

/* Without signals: they are for the threads of Python. */
static bool start(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    replies.runs = !pthread_create(&replies.thread, NULL, write_replies, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return replies.runs;
}

void reply_offer(const struct iovec *pieces, int count, void *owner) {
    replies.offered.owner = owner;
    replies.offered.count = 1 + count;
    memcpy(replies.offered.iov + 1, pieces, (size_t)count * sizeof *pieces);
}

bool reply_take(int fd, const struct iovec *iov, int count) {
    struct reply *offered = &replies.offered;
    if (!offered->owner || count != 2 || iov[0].iov_len != sizeof offered->header) return false;
    if (iov[1].iov_base != offered->iov[1].iov_base || iov[1].iov_len != offered->iov[1].iov_len) return false;
    size_t size = iov[0].iov_len;
    for (int i = 1; i < offered->count; i++) size += offered->iov[i].iov_len;
    offered->fd = fd;
    memcpy(&offered->header, iov[0].iov_base, sizeof offered->header);
    offered->header.len = (uint32_t)size;
    pthread_mutex_lock(&replies.lock);
    bool is_queued = replies.waiting + replies.done < MOST_WAITING && (replies.runs || start());
    if (is_queued) {
        struct reply *last = &replies.ring[(replies.first + replies.waiting) % MOST_WAITING];
        *last = *offered;
        last->iov[0] = (struct iovec){&last->header, sizeof last->header};
        offered->owner = NULL;
        replies.waiting++;
        pthread_cond_signal(&replies.changed);
    }
    pthread_mutex_unlock(&replies.lock);
    if (!is_queued) { /* the owner is given back when another reply is offered */
        offered->iov[0] = (struct iovec){&offered->header, sizeof offered->header};
        inflight_done(offered->header.unique);
        (void)!writev(fd, offered->iov, offered->count);
        offered->iov[1].iov_base = NULL;
    }
    return true;
}

void *replies_done(void) {
    void *owner = replies.offered.owner; /* one that was never taken, or was written at once */
    replies.offered.owner = NULL;
    if (owner) return owner;
    pthread_mutex_lock(&replies.lock);
    if (replies.done) {
        owner = replies.ring[(replies.first + MOST_WAITING - replies.done) % MOST_WAITING].owner;
        replies.done--;
    }
    pthread_mutex_unlock(&replies.lock);
    return owner;
}

void replies_finish(void) {
    if (!replies.runs) return;
    pthread_mutex_lock(&replies.lock);
    replies.is_ending = true;
    pthread_cond_signal(&replies.changed);
    pthread_mutex_unlock(&replies.lock);
    pthread_join(replies.thread, NULL);
    replies.runs = replies.is_ending = false;
}
