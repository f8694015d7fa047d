/* Large replies leave in a thread of their own.
 *
 * The kernel copies the bytes of a READ into fresh pages of its cache while the reply is written: up to a millisecond
 * for a mebibyte, in which nobody else would be answered. Copying them once more, into memory that is used over and
 * over, takes a small part of that time.
 *
 * One thread, started when it is first needed; a queue under a lock; buffers that stay. Write errors mean that nobody
 * waits for the reply any more.
 */
#define _GNU_SOURCE
#include "replies.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_WAITING 16 /* a mebibyte each, as a rule */

struct reply {
    int fd;
    size_t size, room;
    char *bytes;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool runs, is_ending;
    size_t first, count; /* of the ring */
    struct reply ring[MOST_WAITING];
} replies = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *write_replies(void *unused) {
    (void)unused;
    pthread_mutex_lock(&replies.lock);
    while (true) {
        while (!replies.count && !replies.is_ending) pthread_cond_wait(&replies.changed, &replies.lock);
        if (!replies.count) break;
        struct reply *next = &replies.ring[replies.first]; /* the other thread does not touch it while it is counted */
        pthread_mutex_unlock(&replies.lock);
        (void)!write(next->fd, next->bytes, next->size);
        pthread_mutex_lock(&replies.lock);
        replies.first = (replies.first + 1) % MOST_WAITING;
        replies.count--;
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

static bool fill(struct reply *reply, int fd, const struct iovec *iov, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) size += iov[i].iov_len;
    if (size > reply->room) {
        char *larger = realloc(reply->bytes, size);
        if (!larger) return false;
        reply->bytes = larger;
        reply->room = size;
    }
    reply->fd = fd;
    reply->size = 0;
    for (int i = 0; i < count; i++) {
        memcpy(reply->bytes + reply->size, iov[i].iov_base, iov[i].iov_len);
        reply->size += iov[i].iov_len;
    }
    return true;
}

bool reply_soon(int fd, const struct iovec *iov, int count) {
    pthread_mutex_lock(&replies.lock);
    size_t waiting = replies.count, free_one = (replies.first + replies.count) % MOST_WAITING;
    pthread_mutex_unlock(&replies.lock);
    if (waiting == MOST_WAITING || (!replies.runs && !start())) return false;
    if (!fill(&replies.ring[free_one], fd, iov, count)) return false;
    pthread_mutex_lock(&replies.lock);
    replies.count++;
    pthread_cond_signal(&replies.changed);
    pthread_mutex_unlock(&replies.lock);
    return true;
}

void replies_finish(void) {
    if (replies.runs) {
        pthread_mutex_lock(&replies.lock);
        replies.is_ending = true;
        pthread_cond_signal(&replies.changed);
        pthread_mutex_unlock(&replies.lock);
        pthread_join(replies.thread, NULL);
        replies.runs = replies.is_ending = false;
    }
    for (size_t i = 0; i < MOST_WAITING; i++) {
        free(replies.ring[i].bytes);
        replies.ring[i] = (struct reply){0};
    }
}
