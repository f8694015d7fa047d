/* tierfs.mount._native: the tap for Python, and the one symbol that puts it in place.
 *
 * Imported with RTLD_GLOBAL before pyfuse3, this library's fuse_session_mount() is found before libfuse's. It calls
 * libfuse's and then installs the tap as the session's custom I/O: the official door, opened from the side, because
 * pyfuse3 does not give its session away. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define FUSE_USE_VERSION 313
#include <Python.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "directories.h"
#include "hotfiles.h"
#include "inflight.h"
#include "replies.h"
#include "tap.h"

static bool is_enabled, is_in_place;

__attribute__((visibility("default"))) int fuse_session_mount(struct fuse_session *session, const char *mountpoint) {
    static const struct fuse_custom_io io = {.read = tap_read, .writev = tap_writev};
    int (*mount)(struct fuse_session *, const char *) =
        (int (*)(struct fuse_session *, const char *))dlsym(RTLD_NEXT, "fuse_session_mount");
    if (!mount) {
        fprintf(stderr, "tierfs: libfuse has no fuse_session_mount\n");
        return -1;
    }
    int status = mount(session, mountpoint);
    if (status || !is_enabled) return status;
    int fd = fuse_session_fd(session);
    /* A request may be gone between poll(2) and read(2), with the process that made it: never wait for the next one. */
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)) return -1;
    status = fuse_session_custom_io(session, &io, fd);
    is_in_place = status == 0;
    return status;
}

static PyObject *configure(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"passthrough", "cache_directories", "keep_pages", "max_background", "max_readahead",
                            "cache_seconds", NULL};
    int passthrough, cache_directories, keep_pages;
    unsigned int max_background, max_readahead, cache_seconds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$pppIII", names, &passthrough, &cache_directories, &keep_pages,
                                     &max_background, &max_readahead, &cache_seconds))
        return NULL;
    if (max_background > UINT16_MAX) return PyErr_Format(PyExc_ValueError, "max_background has 16 bits");
    tap_configure(&(struct tap_limits){
        .passthrough = passthrough,
        .cache_directories = cache_directories,
        .keep_pages = keep_pages,
        .max_background = (uint16_t)max_background,
        .max_readahead = max_readahead,
        .cache_seconds = cache_seconds,
    });
    is_enabled = true;
    Py_RETURN_NONE;
}

static PyObject *attach(PyObject *self, PyObject *args) {
    (void)self;
    unsigned int handle;
    unsigned long long nodeid;
    int fd;
    int is_known;
    long long size;
    if (!PyArg_ParseTuple(args, "IKiLp", &handle, &nodeid, &fd, &size, &is_known)) return NULL;
    if (!tap_attach(handle, nodeid, fd, size, is_known)) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *resume(PyObject *self, PyObject *bytes) {
    (void)self;
    char *request;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(bytes, &request, &length)) return NULL;
    if (!tap_resume(request, (size_t)length)) return PyErr_Format(PyExc_ValueError, "this is no INIT request");
    Py_RETURN_NONE;
}

static PyObject *init_request(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    size_t length;
    const char *request = tap_init_request(&length);
    return PyBytes_FromStringAndSize(request, (Py_ssize_t)length);
}

static PyObject *request(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromUnsignedLongLong(tap_request());
}

/* The memory is kept for good: answers are written down in it until the process ends. */
static PyObject *track(PyObject *self, PyObject *memory) {
    (void)self;
    static Py_buffer view;
    if (view.obj) return PyErr_Format(PyExc_ValueError, "requests are written down already");
    if (PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)) return NULL;
    size_t count = (size_t)view.len / sizeof(uint64_t);
    if (!count || count & (count - 1)) {
        PyBuffer_Release(&view);
        return PyErr_Format(PyExc_ValueError, "a power of two of words is needed");
    }
    inflight_track(view.buf, count);
    Py_RETURN_NONE;
}

/* The buffers of one reply; freed when it was written. */
struct pieces {
    Py_ssize_t count;
    Py_buffer views[MOST_PIECES];
};

static void let_go(struct pieces *pieces) {
    while (pieces->count) PyBuffer_Release(&pieces->views[--pieces->count]);
    PyMem_Free(pieces);
}

static void let_go_of_written(void) {
    struct pieces *pieces;
    while ((pieces = replies_done())) let_go(pieces);
}

static PyObject *reply_with(PyObject *self, PyObject *list) {
    (void)self;
    let_go_of_written();
    if (!PyList_Check(list) || PyList_GET_SIZE(list) < 1 || PyList_GET_SIZE(list) > MOST_PIECES)
        return PyErr_Format(PyExc_ValueError, "a reply has 1 to %d pieces", MOST_PIECES);
    struct pieces *pieces = PyMem_Malloc(sizeof *pieces);
    if (!pieces) return PyErr_NoMemory();
    struct iovec iov[MOST_PIECES];
    for (pieces->count = 0; pieces->count < PyList_GET_SIZE(list); pieces->count++) {
        Py_buffer *view = &pieces->views[pieces->count];
        if (PyObject_GetBuffer(PyList_GET_ITEM(list, pieces->count), view, PyBUF_SIMPLE)) {
            let_go(pieces);
            return NULL;
        }
        iov[pieces->count] = (struct iovec){view->buf, (size_t)view->len};
    }
    reply_offer(iov, (int)pieces->count, pieces);
    return Py_NewRef(PyList_GET_ITEM(list, 0));
}

static PyObject *finish_replies(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS;
    replies_finish();
    Py_END_ALLOW_THREADS;
    let_go_of_written();
    Py_RETURN_NONE;
}

static PyObject *detach(PyObject *self, PyObject *handle) {
    (void)self;
    unsigned long value = PyLong_AsUnsignedLong(handle);
    if (value == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    tap_detach((uint32_t)value);
    let_go_of_written();
    Py_RETURN_NONE;
}

static PyObject *keep_directory(PyObject *self, PyObject *args) {
    (void)self;
    unsigned long long nodeid;
    int fd;
    if (!PyArg_ParseTuple(args, "Ki", &nodeid, &fd)) return NULL;
    directory_keep(nodeid, fd);
    Py_RETURN_NONE;
}

static PyObject *drop_directory(PyObject *self, PyObject *nodeid) {
    (void)self;
    unsigned long long value = PyLong_AsUnsignedLongLong(nodeid);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    directory_drop(value);
    Py_RETURN_NONE;
}

static PyObject *drop_directories(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    directories_drop();
    Py_RETURN_NONE;
}

static PyObject *counts(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *found = PyDict_New();
    for (int opcode = 0; found && opcode < TAP_OPCODES; opcode++) {
        if (!tap_counts()[opcode]) continue;
        PyObject *key = PyLong_FromLong(opcode), *value = PyLong_FromUnsignedLongLong(tap_counts()[opcode]);
        if (!key || !value || PyDict_SetItem(found, key, value)) Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return found;
}

static PyObject *bytes_moved(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    struct hot_bytes moved = hot_bytes();
    return Py_BuildValue("(KK)", (unsigned long long)moved.read, (unsigned long long)moved.written);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Giving the processor away for a moment is the way to the next request only while nobody else wants it: else the
 * kernel takes the whole time slice, and milliseconds pass. Whoever has seen that goes through epoll for a while. */
#define CROWDED_NS INT64_C(100000)
#define WARY_NS INT64_C(1000000000)

static bool wait_readable(struct pollfd *wanted, int64_t patience_ns) {
    static int64_t wary_until;
    int64_t now = now_ns(), deadline = now + patience_ns;
    if (now < wary_until) return false;
    while (now < deadline) {
        sched_yield();
        int64_t before = now;
        now = now_ns();
        if (now - before > CROWDED_NS) wary_until = now + WARY_NS;
        if (poll(wanted, 1, 0) > 0) return true;
    }
    return false;
}

static PyObject *is_readable(PyObject *self, PyObject *args) {
    (void)self;
    int fd;
    unsigned int patience_us;
    if (!PyArg_ParseTuple(args, "iI", &fd, &patience_us)) return NULL;
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    bool found = tap_has_request() || poll(&wanted, 1, 0) != 0;
    if (!found && patience_us) {
        Py_BEGIN_ALLOW_THREADS;
        found = wait_readable(&wanted, patience_us * INT64_C(1000));
        Py_END_ALLOW_THREADS;
    }
    return PyBool_FromLong(found);
}

/* sched_setattr(2), which C libraries lack, in its first version. */
struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period; /* runtime: the time slice of an ordinary thread, since Linux 6.12 */
};

static PyObject *take_precedence(PyObject *self, PyObject *args) {
    (void)self;
    int nice;
    unsigned long long slice_ns;
    if (!PyArg_ParseTuple(args, "iK", &nice, &slice_ns)) return NULL;
    struct sched_attributes wanted = {.size = sizeof wanted, .nice = nice, .runtime = slice_ns};
    wanted.flags = SCHED_FLAG_RESET_ON_FORK;
    if (syscall(SYS_sched_setattr, 0, &wanted, 0)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *in_place(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(is_in_place);
}

static PyObject *kills_privileges(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(tap_kills_privileges());
}

static PyObject *offered(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromUnsignedLongLong(tap_offered());
}

static PyObject *granted(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromUnsignedLongLong(tap_granted());
}

static PyMethodDef methods[] = {
    {"configure", (PyCFunction)(void (*)(void))configure, METH_VARARGS | METH_KEYWORDS,
     "Put the tap into the session that is made next, and say what its INIT reply asks for."},
    {"attach", attach, METH_VARARGS,
     "attach(handle, fd, size, is_known): answer FALLOCATE, LSEEK and COPY_FILE_RANGE on a file handle; fd -1 for a cold "
     "file. is_known: the kernel has seen its times as they are."},
    {"resume", resume, METH_O, "resume(request): go on with a connection; the INIT request that the kernel sent then."},
    {"init_request", init_request, METH_NOARGS, "The INIT request of the connection; empty before there was one."},
    {"request", request, METH_NOARGS, "The number of the request that was read last."},
    {"track", track, METH_O, "track(memory): write down in 64-bit words which requests are not answered yet."},
    {"reply_with", reply_with, METH_O,
     "reply_with(pieces): the reply that begins with the first piece, which is returned, consists of all of them."},
    {"finish_replies", finish_replies, METH_NOARGS, "Write the replies that wait, before their descriptor is closed."},
    {"detach", detach, METH_O, "detach(handle): the file handle is closed."},
    {"keep_directory", keep_directory, METH_VARARGS,
     "keep_directory(node, fd): answer for this directory, whose names are all on disk; the descriptor is taken over."},
    {"drop_directory", drop_directory, METH_O, "drop_directory(node): do not answer for this directory any more."},
    {"drop_directories", drop_directories, METH_NOARGS, "Do not answer for any directory any more."},
    {"counts", counts, METH_NOARGS, "Requests read so far, by opcode."},
    {"bytes_moved", bytes_moved, METH_NOARGS, "Bytes of hot files that were read and written here until now."},
    {"is_readable", is_readable, METH_VARARGS,
     "is_readable(fd, patience): whether a request is there, or comes within so many microseconds."},
    {"take_precedence", take_precedence, METH_VARARGS,
     "take_precedence(nice, slice_ns): schedule this thread so, and those that it starts as usual."},
    {"in_place", in_place, METH_NOARGS, "Whether the tap stands between the session and /dev/fuse."},
    {"kills_privileges", kills_privileges, METH_NOARGS,
     "Whether the request that was read last takes set-user-ID and set-group-ID away."},
    {"offered", offered, METH_NOARGS, "The INIT flags that the kernel offered."},
    {"granted", granted, METH_NOARGS, "The INIT flags that were asked for, of those that the kernel offered."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "What pyfuse3 does not expose; see tap.c.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntMacro(module, MOST_PIECES)) Py_CLEAR(module);
    return module;
}
