/* Drives the tap as libfuse and the kernel do, over a socket pair, with good, cut and random messages.
 * Built and run by tests/t1_stores/test_native.py under AddressSanitizer, UndefinedBehaviorSanitizer and valgrind. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "directories.h"
#include "inflight.h"
#include "replies.h"
#include "tap.h"

#undef NDEBUG
#define HEADER 40
#define BUFFER 4096

static int kernel, daemon_side;
static _Alignas(8) char request[BUFFER], reply[BUFFER];

static void put32(char *at, uint32_t value) { memcpy(at, &value, 4); }
static void put64(char *at, uint64_t value) { memcpy(at, &value, 8); }
static uint32_t get32(const char *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static uint64_t get64(const char *at) { uint64_t v; memcpy(&v, at, 8); return v; }

/* The kernel sends a request with `argument`; what tap_read returns. */
static ssize_t ask(uint32_t opcode, uint64_t unique, const void *argument, size_t length) {
    char message[BUFFER] = {0};
    put32(message, (uint32_t)(HEADER + length));
    put32(message + 4, opcode);
    put64(message + 8, unique);
    if (length) memcpy(message + HEADER, argument, length);
    assert(send(kernel, message, HEADER + length, 0) == (ssize_t)(HEADER + length));
    return tap_read(daemon_side, request, sizeof request, NULL);
}

/* libfuse answers with `payload`; the kernel receives into `reply`. */
static ssize_t answer(uint64_t unique, int error, void *payload, size_t length) {
    char header[16] = {0};
    put32(header, (uint32_t)(16 + length));
    put32(header + 4, (uint32_t)error);
    put64(header + 8, unique);
    struct iovec iov[2] = {{header, sizeof header}, {payload, length}};
    assert(tap_writev(daemon_side, iov, length ? 2 : 1, NULL) == (ssize_t)(16 + length));
    return recv(kernel, reply, sizeof reply, 0);
}

static void negotiate(uint32_t flags, uint32_t flags2, bool passthrough) {
    char in[64] = {0}, out[64] = {0};
    tap_configure(&(struct tap_limits){passthrough, true, false, 1024, 1 << 20, 3600});
    put32(in, 7), put32(in + 4, 41), put32(in + 8, 131072), put32(in + 12, flags), put32(in + 16, flags2);
    assert(ask(26, 2, in, sizeof in) == HEADER + 64);
    put32(out, 7), put32(out + 4, 38), put32(out + 8, 131072), put32(out + 12, flags & 0xff);
    assert(answer(2, 0, out, sizeof out) == 80);
}

static void test_init(void) {
    negotiate(1u << 30 | 1u << 28 | 1, 1u << 5, true);
    assert(get32(reply + 16 + 12) == (1u << 30 | 1u << 28 | 1));
    assert(get32(reply + 16 + 32) == 1u << 5 && get32(reply + 16 + 36) == 1);
    assert(get32(reply + 16 + 16) == (1024u | 1024u << 16) && get32(reply + 16 + 8) == 1 << 20);
    assert(tap_granted() >> 37 & 1);
    tap_reset();
    negotiate(1, 1u << 5, true); /* without INIT_EXT flags2 means nothing */
    assert(get32(reply + 16 + 12) == 1 && get32(reply + 16 + 32) == 0 && !(tap_granted() >> 37 & 1));
    tap_reset();
    negotiate(1u << 30 | 1u << 28, 1u << 5, false);
    assert(get32(reply + 16 + 32) == 0 && get32(reply + 16 + 36) == 0);
    tap_reset();
    char cut[8] = {0}, out[24] = {0};
    assert(ask(26, 4, cut, sizeof cut) == HEADER + 8 && answer(4, 0, out, sizeof out) == 40);
    tap_reset();
}

static void test_open(void) {
    negotiate(1u << 30, 1u << 5, true);
    char in[8] = {0}, out[16] = {0}, entry[144] = {0};
    ask(14, 6, in, sizeof in);
    put64(out, (uint64_t)7 << 32 | 3), put32(out + 8, 1 << 1);
    answer(6, 0, out, sizeof out);
    assert(get64(reply + 16) == ((uint64_t)7 << 32 | 3) && get32(reply + 24) == 1 << 7 && get32(reply + 28) == 7);
    ask(14, 8, in, sizeof in);
    memset(out, 0, sizeof out), put64(out, 3), put32(out + 8, 1 << 1); /* no backing id: as it was */
    answer(8, 0, out, sizeof out);
    assert(get32(reply + 24) == 1 << 1 && get32(reply + 28) == 0);
    ask(35, 10, in, sizeof in);
    put64(entry + 128, (uint64_t)9 << 32 | 4);
    answer(10, 0, entry, sizeof entry);
    assert(get32(reply + 16 + 136) == 1 << 7 && get32(reply + 16 + 140) == 9);
    ask(27, 12, in, sizeof in);
    memset(out, 0, sizeof out);
    answer(12, 0, out, sizeof out);
    assert(get32(reply + 24) == (1u << 3 | 1u << 1));
    ask(14, 14, in, sizeof in), answer(14, -ENOENT, NULL, 0);
    ask(14, 16, in, sizeof in);
    char tiny[4] = {0};
    assert(answer(16, 0, tiny, sizeof tiny) == 20);
    for (uint64_t unique = 100; unique < 900; unique += 2) ask(14, unique, in, sizeof in);
    for (uint64_t unique = 898; unique >= 100; unique -= 2) {
        put64(out, (uint64_t)5 << 32 | 1), put32(out + 8, 0), put32(out + 12, 0);
        answer(unique, 0, out, sizeof out);
        assert(get32(reply + 28) == 5);
    }
    tap_reset();
}

static void test_answers(void) {
    char path[] = "/tmp/tap-XXXXXX";
    int fd = mkstemp(path);
    assert(fd >= 0 && !unlink(path) && !ftruncate(fd, 1 << 16));
    assert(tap_attach(3, 90 + 3, fd, 0, true) && tap_attach(500, 90 + 500, -1, 100, true));
    char in[56] = {0};
    put64(in, (uint64_t)77 << 32 | 3), put64(in + 8, 1 << 16), put64(in + 16, 4096); /* fallocate */
    assert(ask(43, 2, in, 32) == -1 && errno == EINTR);
    assert(recv(kernel, reply, sizeof reply, 0) == 16 && get32(reply + 4) == 0 && lseek(fd, 0, SEEK_END) == 69632);
    memset(in, 0, sizeof in), put64(in, 500), put64(in + 8, 40), put32(in + 16, SEEK_HOLE); /* a cold file */
    assert(ask(46, 4, in, 24) == -1);
    assert(recv(kernel, reply, sizeof reply, 0) == 24 && get64(reply + 16) == 100);
    put64(in + 8, 100);
    assert(ask(46, 6, in, 24) == -1);
    assert(recv(kernel, reply, sizeof reply, 0) == 16 && (int32_t)get32(reply + 4) == -ENXIO);
    memset(in, 0, sizeof in), put64(in, 3), put64(in + 24, 500), put64(in + 40, 10); /* hot to cold: not here */
    assert(ask(47, 8, in, 56) == -1);
    assert(recv(kernel, reply, sizeof reply, 0) == 16 && (int32_t)get32(reply + 4) == -EOPNOTSUPP);
    put64(in + 24, 3), put64(in + 32, 1 << 15);
    assert(ask(53, 10, in, 56) == -1);
    assert(recv(kernel, reply, sizeof reply, 0) == 24 && get64(reply + 16) == 10);
    static const uint32_t answered[] = {43, 46, 47, 53, 39};
    for (size_t i = 0; i < 5; i++) /* cut short, and on a handle that does not exist */
        for (size_t length = 0; length < 56; length += 8) {
            memset(in, 0xff, sizeof in);
            assert(ask(answered[i], 12, in, length) == -1);
            assert(recv(kernel, reply, sizeof reply, 0) == 16 && (int32_t)get32(reply + 4) < 0);
        }
    assert(tap_read(daemon_side, request, sizeof request, NULL) == -1 && errno == EINTR); /* gone before it was read */
    tap_detach(3), tap_detach(3), tap_detach(4000000000u);
    close(fd);
    tap_reset();
}

/* A request about node `nodeid`; whether it was answered, by the tap itself, into `reply`. */
static bool asked(uint32_t opcode, uint64_t nodeid, const char *argument, size_t length) {
    char message[BUFFER] = {0};
    put32(message, (uint32_t)(HEADER + length));
    put32(message + 4, opcode);
    put64(message + 8, 20);
    put64(message + 16, nodeid);
    memcpy(message + HEADER, argument, length);
    assert(send(kernel, message, HEADER + length, 0) == (ssize_t)(HEADER + length));
    bool reached = tap_read(daemon_side, request, sizeof request, NULL) > 0;
    assert(reached || errno == EINTR);
    return recv(kernel, reply, sizeof reply, MSG_DONTWAIT) > 0 && !reached;
}

static void test_directories(void) {
    char path[] = "/tmp/tap-XXXXXX", getattr[16] = {0}, unended[] = {'x', 'y'}, broken[] = {'x', 0, 'y', 0};
    assert(mkdtemp(path));
    int fd = open(path, O_PATH | O_DIRECTORY);
    struct stat st;
    assert(fd >= 0 && !mkdirat(fd, "there", 0700) && !fstat(fd, &st));
    negotiate(1, 0, false);
    assert(!asked(3, 5, getattr, 16) && !asked(1, 5, "not", 4));
    directory_keep(5, fd);
    assert(asked(3, 5, getattr, 16) && get32(reply) == 120 && get64(reply + 16) == 3600 && get64(reply + 32) == 5);
    assert(get32(reply + 32 + 60) == st.st_mode && get32(reply + 32 + 64) == st.st_nlink);
    assert(asked(1, 5, "not", 4) && get32(reply) == 144 && get64(reply + 16) == 0 && get64(reply + 32) == 3600);
    assert(!asked(1, 5, "there", 6)); /* what is there is Python's */
    directory_keep(1, dup(fd));       /* so is the control directory, which is not there, in the root alone */
    assert(asked(1, 1, "not", 4) && !asked(1, 1, ".tierfs", 8) && asked(1, 5, ".tierfs", 8));
    assert(asked(1, 1, ".tierf", 7) && asked(1, 1, ".tierfsx", 9) && !asked(1, 1, ".tierfs", 7));
    directory_drop(1);
    assert(!asked(1, 5, unended, sizeof unended) && !asked(1, 5, broken, sizeof broken) && !asked(1, 5, "", 0));
    assert(!asked(3, 5 + 256, getattr, 16) && !asked(3, 0, getattr, 16) && !asked(1, ~0ull, "not", 4));
    directory_drop(5 + 256), directory_drop(0);
    assert(asked(3, 5, getattr, 0));
    directory_keep(5 + 256, dup(fd)); /* takes the place of the other, whose descriptor is closed */
    assert(!asked(3, 5, getattr, 16) && asked(3, 5 + 256, getattr, 16) && fcntl(fd, F_GETFD) == -1);
    directories_drop(), directories_drop();
    assert(!asked(3, 5 + 256, getattr, 16));
    directory_keep(5, open(path, O_PATH | O_DIRECTORY));
    assert(!rmdir(strcat(strcpy(request, path), "/there")) && !rmdir(path));
    assert(asked(3, 5, getattr, 16) && asked(1, 5, "there", 6)); /* a directory that was removed has no names */
    tap_reset();
    assert(!asked(3, 5, getattr, 16));
    tap_reset();
}

/* Attributes, and capabilities of the program, of a node come from whichever handle of it is on a hot file. */
static void test_open_nodes(void) {
    static const char capability[20] = {0, 0, 0, 2, 1}; /* VFS_CAP_REVISION_2 */
    char path[] = "/tmp/tap-XXXXXX", getattr[16] = {0}, getxattr[8 + 20] = {0};
    strcpy(getxattr + 8, "security.capability");
    int fd = mkstemp(path);
    assert(fd >= 0 && !unlink(path) && !ftruncate(fd, 77));
    negotiate(1, 0, false);
    const uint64_t node = 11, other = 11 + 4096; /* of one chain */
    assert(tap_attach(1, node, -1, 5, true) && !asked(3, node, getattr, 16) && !asked(22, node, getxattr, 28));
    assert(tap_attach(2, node, fd, 0, true) && tap_attach(200, other, -1, 5, true));
    assert(asked(3, node, getattr, 16) && get64(reply + 32) == node && get64(reply + 40) == 77);
    assert(!asked(3, other, getattr, 16) && !asked(3, 12, getattr, 16) && !asked(3, node, getattr, 15));
    assert(asked(22, node, getxattr, 28) && (int32_t)get32(reply + 4) == -ENODATA);
    if (!fsetxattr(fd, "security.capability", capability, sizeof capability, 0)) { /* needs privileges */
        assert(asked(22, node, getxattr, 28) && get32(reply) == 16 + 8 && get32(reply + 16) == sizeof capability);
        put32(getxattr, 64);
        assert(asked(22, node, getxattr, 28) && get32(reply) == 16 + 20 && !memcmp(reply + 16, capability, 20));
        put32(getxattr, 3);
        assert(asked(22, node, getxattr, 28) && (int32_t)get32(reply + 4) == -ERANGE);
    }
    assert(!asked(22, node, getxattr, 27) && !asked(22, node, getxattr, 7) && !asked(22, other, getxattr, 28));
    getxattr[9] = 'a'; /* another name */
    assert(!asked(22, node, getxattr, 28));
    getxattr[9] = 'e';
    assert(tap_attach(2, other, fd, 0, true)); /* the number of a handle is used again */
    assert(!asked(3, node, getattr, 16) && asked(3, other, getattr, 16));
    assert(tap_attach(3, other, fd, 0, true));
    tap_detach(2), tap_detach(2), tap_detach(9999);
    assert(asked(3, other, getattr, 16) && asked(22, other, getxattr, 28));
    tap_detach(3), tap_detach(200), tap_detach(1);
    assert(!asked(3, other, getattr, 16));
    tap_reset();
    assert(tap_attach(2, node, fd, 0, true) && !asked(3, node, getattr, 16)); /* others may change files */
    close(fd);
    tap_reset();
}

static void test_privileges(void) {
    char in[40] = {0};
    put32(in + 20, 1u << 2); /* FUSE_WRITE_KILL_SUIDGID */
    assert(ask(16, 2, in, sizeof in) == HEADER + 40 && tap_kills_privileges());
    assert(ask(16, 4, in, 20) == HEADER + 20 && !tap_kills_privileges());
    put32(in + 20, 1u << 1);
    assert(ask(16, 6, in, sizeof in) == HEADER + 40 && !tap_kills_privileges());
    tap_reset();
}

/* A writer's passthrough handle that changed the file is announced before its RELEASE; any other is not. */
static void test_release(void) {
    char path[] = "/tmp/tap-XXXXXX", in[24] = {0};
    int fd = mkstemp(path);
    assert(fd >= 0 && !unlink(path) && tap_attach(3, 90 + 3, fd, 0, true) && tap_attach(4, 90 + 4, -1, 100, true));
    const uint64_t passed = (uint64_t)7 << 32 | 3;
    put64(in, passed), put32(in + 8, O_RDWR);
    assert(ask(18, 2, in, sizeof in) == HEADER + 24);
    while (usleep(10000), pwrite(fd, "x", 1, 0) == 1) {
        put64(in, passed), put32(in + 8, O_RDWR);
        assert(ask(18, 4, in, sizeof in) == HEADER + 24);
        if (recv(kernel, reply, sizeof reply, MSG_DONTWAIT) > 0) break;
    }
    assert(get32(reply) == 40 && get32(reply + 4) == 2 && get64(reply + 8) == 0 && (int64_t)get64(reply + 24) == -1);
    const struct { uint64_t fh; uint32_t flags; size_t length; } silent[] = {
        {passed, O_RDWR, 8}, {passed, O_RDONLY, 24}, {3, O_RDWR, 24}, {(uint64_t)7 << 32 | 4, O_RDWR, 24}, {~0ull, O_RDWR, 24}};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
        put64(in, silent[i].fh), put32(in + 8, silent[i].flags);
        assert(ask(18, 6, in, silent[i].length) == (ssize_t)(HEADER + silent[i].length));
        assert(recv(kernel, reply, sizeof reply, MSG_DONTWAIT) == -1);
    }
    close(fd);
    tap_reset();
}

static void test_noise(unsigned seed) {
    srand(seed);
    negotiate(1u << 30, 1u << 5, true);
    for (int round = 0; round < 20000; round++) {
        char message[256], payload[200];
        size_t length = (size_t)rand() % sizeof message, answered = (size_t)rand() % sizeof payload;
        for (size_t i = 0; i < sizeof message; i++) message[i] = (char)rand();
        for (size_t i = 0; i < sizeof payload; i++) payload[i] = (char)rand();
        if (length >= 8 && rand() % 4) put32(message, (uint32_t)length);
        if (length >= 8 && rand() % 4) put32(message + 4, (uint32_t)rand() % 60);
        if (send(kernel, message, length, 0) < 0) continue;
        ssize_t n = tap_read(daemon_side, request, sizeof request, NULL);
        assert(n == (ssize_t)length || (n == -1 && errno == EINTR));
        while (recv(kernel, reply, sizeof reply, MSG_DONTWAIT) > 0) {}
        if (n >= HEADER) answer(get64(request + 8), rand() % 3 ? 0 : -EIO, payload, answered);
    }
    tap_reset();
}

#define LARGE 50000
#define AT_ONCE 999
static char large[2][LARGE], got[16 + 2 * LARGE];

static void *receive_large(void *unused) {
    (void)unused;
    for (int i = 0; i < AT_ONCE; i++) assert(recv(kernel, got, sizeof got, 0) == sizeof got);
    return NULL;
}

/* libfuse answers a READ with what begins where the first piece does. */
static void answer_large(uint64_t unique, int *owner, int count) {
    struct iovec pieces[2] = {{large[0], LARGE}, {large[1], LARGE}};
    reply_offer(pieces, count, owner);
    char header[16] = {0};
    put32(header, 16 + LARGE), put64(header + 8, unique);
    struct iovec iov[2] = {{header, sizeof header}, {large[0], LARGE}};
    assert(tap_writev(daemon_side, iov, 2, NULL) == 16 + LARGE);
}

/* Offered replies come from another thread, whole and in order, and each owner is given back once. */
static void test_large_replies(void) {
    int owners[AT_ONCE];
    memset(large[0], 1, LARGE), memset(large[1], 2, LARGE);
    for (int i = 0; i < 40; i++) {
        int count = 1 + i % 2;
        answer_large((uint64_t)i, owners + i, count);
        assert(recv(kernel, got, sizeof got, 0) == 16 + count * LARGE);
        assert(get32(got) == (uint32_t)(16 + count * LARGE) && get64(got + 8) == (uint64_t)i);
        for (int byte = 0; byte < count * LARGE; byte++) assert(got[16 + byte] == 1 + byte / LARGE);
        void *owner;
        while (!(owner = replies_done())) {}
        assert(owner == owners + i && !replies_done());
    }
    struct iovec piece = {large[0], LARGE};
    reply_offer(&piece, 1, owners); /* and the answer is another one */
    char other_bytes[100] = {0};
    assert(answer(92, 0, other_bytes, sizeof other_bytes) == 116 && answer(94, -EIO, NULL, 0) == 16);
    assert(replies_done() == owners && !replies_done());
    int flags = fcntl(daemon_side, F_GETFL); /* more at once than the ring takes */
    assert(!fcntl(daemon_side, F_SETFL, flags & ~O_NONBLOCK));
    pthread_t other;
    assert(!pthread_create(&other, NULL, receive_large, NULL));
    int back = 0;
    for (int i = 0; i < AT_ONCE; i++) {
        answer_large((uint64_t)i, owners + i, 2);
        if (i % 3 == 0)
            while (replies_done()) back++;
        else if (replies_done()) /* or the next offer would forget one that was written at once */
            back++;
    }
    assert(!pthread_join(other, NULL));
    assert(!fcntl(daemon_side, F_SETFL, flags));
    tap_reset();
    while (replies_done()) back++;
    assert(back == AT_ONCE);
}

static void test_syncs(void) {
    char path[] = "/tmp/tap-XXXXXX";
    int fd = mkstemp(path);
    assert(fd >= 0 && !unlink(path) && tap_attach(3, 90 + 3, fd, 0, true) && tap_attach(4, 90 + 4, -1, 100, true));
    int pipes[2];
    assert(!pipe(pipes) && tap_attach(5, 90 + 5, pipes[0], 0, true)); /* cannot be synced */
    char in[16] = {0};
    for (uint64_t unique = 2; unique < 202; unique += 2) { /* many at once, each is answered once */
        put64(in, unique % 20 ? 3 : 5), put32(in + 8, unique % 4 == 0);
        assert(ask(20, unique, in, sizeof in) == -1 && errno == EINTR);
    }
    bool seen[202] = {0};
    for (int i = 0; i < 100; i++) {
        assert(recv(kernel, reply, sizeof reply, 0) == 16);
        uint64_t unique = get64(reply + 8);
        assert(unique < 202 && !seen[unique] && (int32_t)get32(reply + 4) == (unique % 20 ? 0 : -EINVAL));
        seen[unique] = true;
    }
    put64(in, 4);
    assert(ask(20, 300, in, sizeof in) == HEADER + 16); /* of a cold file, an unknown one, cut short: not here */
    put64(in, 77);
    assert(ask(20, 302, in, sizeof in) == HEADER + 16);
    assert(ask(20, 304, in, 8) == HEADER + 8);
    put64(in, 3);
    for (uint64_t unique = 400; unique < 420; unique += 2) assert(ask(20, unique, in, sizeof in) == -1);
    tap_reset(); /* what was begun is finished */
    for (int i = 0; i < 10; i++) assert(recv(kernel, reply, sizeof reply, MSG_DONTWAIT) == 16);
    close(fd), close(pipes[0]), close(pipes[1]);
}

/* Reads and writes of hot files are done and answered here; those of cold ones are not. */
static void test_bytes(void) {
    char path[] = "/tmp/tap-XXXXXX";
    int fd = mkstemp(path), pipes[2];
    assert(fd >= 0 && !unlink(path) && tap_attach(3, 90 + 3, fd, 0, true) && tap_attach(4, 90 + 4, -1, 100, true));
    assert(!pipe(pipes) && tap_attach(5, 90 + 5, pipes[0], 0, true));
    assert(!fchmod(fd, 06755));
    char in[40 + 2000] = {0};
    memset(in + 40, 'a', 2000);
    put64(in, 3), put64(in + 8, 1000), put32(in + 16, 2000), put32(in + 20, 1 << 2); /* takes set-user-ID away */
    assert(ask(16, 2, in, sizeof in) == -1 && errno == EINTR);
    assert(recv(kernel, reply, sizeof reply, 0) == 24 && !get32(reply + 4) && get32(reply + 16) == 2000);
    struct stat st;
    assert(!fstat(fd, &st) && st.st_size == 3000 && (st.st_mode & 07777) == 0755);
    assert(ask(16, 4, in, sizeof in - 1) == HEADER + (ssize_t)sizeof in - 1); /* fewer bytes than it says */
    put64(in, 4);
    assert(ask(16, 6, in, sizeof in) == HEADER + (ssize_t)sizeof in); /* a cold file */
    put64(in, 5);
    assert(ask(16, 8, in, sizeof in) == -1 && recv(kernel, reply, sizeof reply, 0) == 16);
    assert((int32_t)get32(reply + 4) == -ESPIPE);
    char out[40] = {0};
    put64(out, 3), put64(out + 8, 900), put32(out + 16, 4000); /* over the end, with a hole before it */
    assert(ask(15, 10, out, sizeof out) == -1 && recv(kernel, reply, sizeof reply, 0) == 16 + 2100);
    assert(get64(reply + 8) == 10 && !reply[16 + 99] && reply[16 + 100] == 'a' && reply[16 + 2099] == 'a');
    put64(out + 8, 3000);
    assert(ask(15, 12, out, sizeof out) == -1 && recv(kernel, reply, sizeof reply, 0) == 16); /* at the end */
    put64(out + 8, 900), put32(out + 16, 100000); /* in a thread */
    for (uint64_t unique = 14; unique < 74; unique += 2) {
        assert(ask(15, unique, out, sizeof out) == -1 && errno == EINTR);
        assert(recv(kernel, reply, sizeof reply, 0) == 16 + 2100 && get64(reply + 8) == unique && reply[116] == 'a');
    }
    put32(out + 16, (1 << 20) + 1); /* more than the kernel asks for */
    assert(ask(15, 80, out, sizeof out) == HEADER + 40);
    put64(out, 5), put32(out + 16, 10);
    assert(ask(15, 82, out, sizeof out) == -1 && recv(kernel, reply, sizeof reply, 0) == 16);
    assert((int32_t)get32(reply + 4) == -ESPIPE);
    put64(out, 4);
    assert(ask(15, 84, out, sizeof out) == HEADER + 40 && ask(15, 86, out, 16) == HEADER + 16);
    put64(out, 3), put64(out + 8, UINT64_MAX), put32(out + 16, 10); /* no such place in a file */
    assert(ask(15, 88, out, sizeof out) == HEADER + 40);
    close(fd), close(pipes[0]), close(pipes[1]);
    tap_reset();
}

/* What the next process does with the INIT request of the one before: it is read first, and its answer goes nowhere. */
static void test_resume(void) {
    char kept[1024], out[64] = {0}, in[8] = {0};
    size_t length;
    assert(!tap_init_request(&length) && !length && !tap_has_request());
    negotiate(1u << 30 | 1u << 28, 1u << 5, true);
    assert(tap_init_request(&length) && length == HEADER + 64);
    memcpy(kept, tap_init_request(&length), length);
    uint64_t granted = tap_granted();
    tap_reset();

    assert(!tap_resume(kept, HEADER - 1) && !tap_resume(kept, length - 1) && !tap_resume(kept, 1025));
    put32(kept + 4, 3);
    assert(!tap_resume(kept, length)); /* another request */
    put32(kept + 4, 26);
    tap_configure(&(struct tap_limits){true, true, true, 1024, 1 << 20, 3600});
    assert(tap_resume(kept, length) && tap_has_request());
    assert(tap_read(daemon_side, request, 100, NULL) == -1 || !tap_has_request());
    assert(tap_resume(kept, length));
    assert(tap_read(daemon_side, request, sizeof request, NULL) == (ssize_t)length && !memcmp(request, kept, length));
    assert(!tap_has_request() && tap_request() == 2);
    char header[16] = {0};
    put32(header, 80), put64(header + 8, 2);
    put32(out, 7), put32(out + 4, 38);
    struct iovec iov[2] = {{header, sizeof header}, {out, sizeof out}};
    assert(tap_writev(daemon_side, iov, 2, NULL) == 80 && tap_granted() == granted);
    assert(recv(kernel, reply, sizeof reply, MSG_DONTWAIT) < 0); /* the kernel has had its answer */
    ask(14, (uint64_t)1 << 63 | 6, in, sizeof in);
    assert(tap_request() == ((uint64_t)1 << 63 | 6));
    assert(answer((uint64_t)1 << 63 | 6, -ENOENT, NULL, 0) == 16 && get64(reply + 8) == ((uint64_t)1 << 63 | 6));
    tap_reset();
}

static size_t unanswered(const uint64_t *slots, size_t count) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += slots[i] != 0;
    return found;
}

static void test_inflight(void) {
    static uint64_t slots[128];
    char in[16] = {0};
    negotiate(1u << 30, 1u << 5, true);
    inflight_track(slots, 128);
    ask(1, 6, "x", 2), ask(2, 8, in, sizeof in), ask(42, 10, in, sizeof in), ask(36, 12, in, sizeof in);
    assert(unanswered(slots, 128) == 1); /* nobody answers FORGET and INTERRUPT */
    answer(6, -ENOENT, NULL, 0);
    assert(!unanswered(slots, 128));
    ask(39, 14, in, sizeof in); /* answered by the tap */
    recv(kernel, reply, sizeof reply, 0);
    assert(!unanswered(slots, 128));
    for (uint64_t unique = 20; unique < 20 + 2 * 64; unique += 2) inflight_add(unique, 15);
    for (uint64_t unique = 340; unique < 340 + 2 * 64; unique += 2) inflight_add(unique, 15); /* half of the places again */
    assert(unanswered(slots, 128) == 128);
    inflight_add(2000, 15); /* no room: it is not written down */
    for (uint64_t unique = 20; unique < 340 + 2 * 64; unique += 2) inflight_done(unique);
    inflight_done(2000);
    assert(!unanswered(slots, 128));
    tap_reset();
    inflight_add(2, 15); /* nowhere */
    inflight_done(2);
    assert(!unanswered(slots, 128));
}

int main(void) {
    int pair[2];
    assert(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    kernel = pair[0], daemon_side = pair[1];
    assert(!fcntl(daemon_side, F_SETFL, O_NONBLOCK)); /* as the real one */
    test_init();
    test_open();
    test_answers();
    test_directories();
    test_open_nodes();
    test_privileges();
    test_release();
    test_large_replies();
    test_syncs();
    test_bytes();
    test_resume();
    test_inflight();
    test_noise(1);
    close(kernel), close(daemon_side);
    puts("ok");
    return 0;
}
