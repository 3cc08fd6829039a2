/* SPDX-License-Identifier: Apache-2.0 */
/* Do the steps of a plan, and report what each call returned: random_work ACTOR FD
 *
 * FD is a memory file with a struct shared, which random_work.py fills in with the plan and reads back. Each step names
 * its actor, which is a thread of one of the processes that the plan creates. The steps run one after the other: an
 * actor waits, without a system call that is counted, until its next step has its turn. Therefore a plan always does
 * the same. A step makes exactly one call that may be counted, unless the table below says otherwise.
 *
 * Files and sockets are in slots. A slot has the same number in every process, like a descriptor after a fork, and the
 * descriptor behind it is in the shared memory, where a program finds it again after execve(2). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ACTORS 32
#define SLOTS 64
#define STEPS 1024
#define NAMES 16
#define NO_CHILDREN 8	/* out[] holds the result, and the ids of up to 7 processes */

struct step {
	int32_t actor, op, in[8];
	int64_t out[8];	/* the result or the negative errno, then what the operation adds */
};

struct shared {
	uint32_t turn;		/* the step that runs now */
	uint32_t steps;
	uint32_t continued;	/* the pauses that the test has ended */
	int32_t process_of[ACTORS];	/* a process has the number of the actor that is its first thread */
	int32_t tid_of[ACTORS];
	int32_t fd[ACTORS][SLOTS];	/* by process, or -1 */
	int32_t family[SLOTS];	/* 4, 6, or 0 for a socket of both */
	uint16_t port[SLOTS];
	char names[NAMES][16];
	char directory[256];
	char cgroups[4][256];	/* their files cgroup.procs */
	struct step step[STEPS];
};

static struct shared *shared;
static char data[1 << 16];
static char *low;	/* memory that 32-bit calls can address */
static __thread int actor;

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	_exit(99);
}

static int process(void)
{
	return shared->process_of[actor];
}

static int fd_of(int slot)
{
	return slot < 0 ? -1 : shared->fd[process()][slot];
}

static long keep(int slot, long fd)
{
	if (fd >= 0)
		shared->fd[process()][slot] = fd;
	return fd;
}

static long or_errno(long result)
{
	return result < 0 ? -errno : result;
}

/* ---- addresses ---- */

union name {
	struct sockaddr base;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* The address at which the socket in slot `from` reaches the one in slot `to`. */
static socklen_t name_of(union name *name, int from, int to)
{
	uint16_t port = htons(shared->port[to]);

	memset(name, 0, sizeof(*name));
	if (shared->family[from] == 4) {
		name->v4.sin_family = AF_INET;
		name->v4.sin_port = port;
		name->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(name->v4);
	}
	name->v6.sin6_family = AF_INET6;
	name->v6.sin6_port = port;
	if (shared->family[to] == 6 || (shared->family[from] == 6 && !shared->family[to]))
		name->v6.sin6_addr = in6addr_loopback;
	else
		check(inet_pton(AF_INET6, "::ffff:127.0.0.1", &name->v6.sin6_addr) == 1, "inet_pton");
	return sizeof(name->v6);
}

static void keep_port(int slot)
{
	union name name = {};
	socklen_t size = sizeof(name);

	if (slot >= 0 && !getsockname(fd_of(slot), &name.base, &size) &&
	    (name.base.sa_family == AF_INET || name.base.sa_family == AF_INET6))
		shared->port[slot] = ntohs(name.v4.sin_port); /* sin6_port is at the same offset. */
}

static int port_of_name(const union name *name)
{
	return ntohs(name->v4.sin_port);
}

/* ---- 32-bit calls ---- */

/* Make a system call as 32-bit programs do. Its fourth and fifth arguments are 0. */
static long compat(long nr, long a, long b, long c)
{
	long result = -ENOSYS;

#ifdef __x86_64__
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(0L), "D"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
#endif
	return result;
}

/* ---- files ---- */

static const char *path_of(int n)
{
	static __thread char path[300];

	if (n < 0)
		snprintf(path, sizeof(path), n == -1 ? "/dev/zero" : "/dev/null");
	else
		snprintf(path, sizeof(path), "%s/file%d", shared->directory, n);
	return path;
}

enum { OPEN, OPENAT, OPENAT2, CREAT, COMPAT_OPEN };

static long do_open(struct step *s)
{
	const char *path = path_of(s->in[2]);
	int flags = s->in[3];
	struct open_how how = { .flags = flags, .mode = flags & O_CREAT ? 0666 : 0 };
	long fd = -1;

	switch (s->in[1]) {
	case OPEN: fd = or_errno(syscall(SYS_open, path, flags, 0666)); break;
	case OPENAT: fd = or_errno(syscall(SYS_openat, AT_FDCWD, path, flags, 0666)); break;
	case OPENAT2: fd = or_errno(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how))); break;
	case CREAT: fd = or_errno(syscall(SYS_creat, path, 0666)); break;
	case COMPAT_OPEN: strcpy(low, path); fd = compat(5, (long)low, flags, 0666); break;
	}
	return keep(s->in[0], fd);
}

enum { CLOSE, CLOSE_RANGE, COMPAT_CLOSE };

static long do_close(struct step *s)
{
	int fd = fd_of(s->in[0]);

	if (s->in[0] >= 0)
		shared->fd[process()][s->in[0]] = -1;
	switch (s->in[1]) {
	case CLOSE_RANGE: return or_errno(syscall(SYS_close_range, fd < 0 ? 5000 : fd, fd < 0 ? 5001 : fd, 0));
	case COMPAT_CLOSE: return compat(6, fd, 0, 0);
	default: return or_errno(syscall(SYS_close, fd));
	}
}

/* Two parts of `size` bytes. */
static struct iovec *parts_of(int size)
{
	static __thread struct iovec parts[2];

	parts[0] = (struct iovec){ data, size / 3 };
	parts[1] = (struct iovec){ data + size / 3, size - size / 3 };
	return parts;
}

enum { PLAIN, AT, VECTOR, VECTOR_AT, VECTOR_AT2, COMPAT, NO_MEMORY };

static long do_read(struct step *s)
{
	int fd = fd_of(s->in[0]), size = s->in[2];

	switch (s->in[1]) {
	case AT: return or_errno(pread(fd, data, size, s->in[3]));
	case VECTOR: return or_errno(readv(fd, parts_of(size), 2));
	case VECTOR_AT: return or_errno(preadv(fd, parts_of(size), 2, s->in[3]));
	case VECTOR_AT2: return or_errno(preadv2(fd, parts_of(size), 2, s->in[3], 0));
	case COMPAT: return compat(3, fd, (long)low, size);
	case NO_MEMORY: return or_errno(syscall(SYS_read, fd, (void *)8, size));
	default: return or_errno(read(fd, data, size));
	}
}

static long do_write(struct step *s)
{
	int fd = fd_of(s->in[0]), size = s->in[2];

	data[0] = low[0] = s->in[0] + 1;
	switch (s->in[1]) {
	case AT: return or_errno(pwrite(fd, data, size, s->in[3]));
	case VECTOR: return or_errno(writev(fd, parts_of(size), 2));
	case VECTOR_AT: return or_errno(pwritev(fd, parts_of(size), 2, s->in[3]));
	case VECTOR_AT2: return or_errno(pwritev2(fd, parts_of(size), 2, s->in[3], 0));
	case COMPAT: return compat(4, fd, (long)low, size);
	case NO_MEMORY: return or_errno(syscall(SYS_write, fd, (void *)8, size));
	default: return or_errno(write(fd, data, size));
	}
}

enum { UNLINK, UNLINKAT, REMOVE_DIRECTORY, COMPAT_UNLINK };

static long do_unlink(struct step *s)
{
	const char *path = path_of(s->in[1]);

	switch (s->in[0]) {
	case UNLINKAT: return or_errno(unlinkat(AT_FDCWD, path, 0));
	case REMOVE_DIRECTORY: return or_errno(unlinkat(AT_FDCWD, path, AT_REMOVEDIR));
	case COMPAT_UNLINK: strcpy(low, path); return compat(10, (long)low, 0, 0);
	default: return or_errno(unlink(path));
	}
}

static long do_seek(struct step *s)
{
	return or_errno(lseek(fd_of(s->in[0]), s->in[1], SEEK_SET));
}

/* Read and write a file through memory. */
static long do_map(struct step *s)
{
	int fd = fd_of(s->in[0]);
	struct stat stat;
	char *at;

	if (fstat(fd, &stat) || !S_ISREG(stat.st_mode) || !stat.st_size)
		return -1;
	at = mmap(0, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	at[0]++;
	return or_errno(munmap(at, 1));
}

enum { PIPE, SOCKETPAIR };

static long do_pair(struct step *s)
{
	int two[2], result;

	result = s->in[2] == PIPE ? pipe2(two, O_NONBLOCK) : socketpair(AF_UNIX, s->in[3] | SOCK_NONBLOCK, 0, two);

	if (result)
		return -errno;
	keep(s->in[0], two[0]);
	keep(s->in[1], two[1]);
	return 0;
}

static long do_memory(struct step *s)
{
	return keep(s->in[0], or_errno(memfd_create("random_work", 0)));
}

/* dup(2), or, if the second slot is in use, dup2(2), which closes what was there. */
static long do_dup(struct step *s)
{
	int to = fd_of(s->in[1]);

	return keep(s->in[1], or_errno(to < 0 ? dup(fd_of(s->in[0])) : dup2(fd_of(s->in[0]), to)));
}

enum { COPY_FILE_RANGE, SENDFILE, SPLICE, TEE, VMSPLICE };

/* out[1] is whether the first file has something to read, out[2] whether there is room in the second. */
static long do_copy(struct step *s)
{
	int from = fd_of(s->in[0]), to = fd_of(s->in[1]), size = s->in[3];
	struct pollfd ready[2] = { { from, POLLIN }, { to, POLLOUT } };

	poll(ready, 2, 0);
	s->out[1] = !!(ready[0].revents & POLLIN);
	s->out[2] = !!(ready[1].revents & POLLOUT);
	switch (s->in[2]) {
	case COPY_FILE_RANGE: return or_errno(copy_file_range(from, 0, to, 0, size, 0));
	case SENDFILE: return or_errno(sendfile(to, from, 0, size));
	case SPLICE: return or_errno(splice(from, 0, to, 0, size, SPLICE_F_NONBLOCK));
	case TEE: return or_errno(tee(from, to, size, SPLICE_F_NONBLOCK));
	default: return or_errno(vmsplice(to, parts_of(size), 2, SPLICE_F_NONBLOCK));
	}
}

/* Send the file in slot in[1] to another process, over the Unix socket in slot in[0]. */
static long do_pass(struct step *s)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec byte = { data, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = fd_of(s->in[1]);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return or_errno(sendmsg(fd_of(s->in[0]), &message, MSG_DONTWAIT));
}

static long do_take(struct step *s)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec byte = { data, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	long result = or_errno(recvmsg(fd_of(s->in[0]), &message, MSG_DONTWAIT));
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd;

	if (result < 0 || !header)
		return result < 0 ? result : -ENOMSG;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return keep(s->in[1], fd);
}

/* ---- tasks ---- */

static void run(int as);

static void *run_thread(void *as)
{
	run((long)as);
	return 0;
}

static void start_process(int as)
{
	shared->process_of[as] = as;
	memcpy(shared->fd[as], shared->fd[process()], sizeof(shared->fd[as]));
}

static const char *program_named(int name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%.15s", shared->directory, shared->names[name]);
	return path;
}

static void start_program(int as, int name)
{
	static char number[16], memory[16];
	char *arguments[] = { shared->names[name], number, memory, 0 }, *none[] = { 0 };

	snprintf(number, sizeof(number), "%d", as);
	snprintf(memory, sizeof(memory), "%d", shared->fd[0][SLOTS - 1]);
	execve(program_named(name), arguments, none);
}

static long do_fork(struct step *s)
{
	pid_t child;

	start_process(s->in[0]);
	child = fork();
	if (!child) {
		/* The next step may be this process's. */
		run(s->in[0]);
		_exit(0);
	}
	if (child > 0)
		shared->tid_of[s->in[0]] = child;
	return or_errno(child);
}

static long do_vfork(struct step *s)
{
	pid_t child;

	start_process(s->in[0]);
	child = vfork();
	if (!child) {
		start_program(s->in[0], s->in[1]);
		_exit(98);
	}
	if (child > 0)
		shared->tid_of[s->in[0]] = child;
	return or_errno(child);
}

/* Fork processes that end at once, one after the other. Each reads as many bytes as there were processes before it. */
static long do_chain(struct step *s)
{
	int zero = fd_of(s->in[1]), status;

	for (int i = 0; i < s->in[0] && i < NO_CHILDREN - 1; i++) {
		pid_t child = fork();

		if (!child)
			_exit(read(zero, data, i) != i);
		check(child > 0, "fork");
		s->out[1 + i] = child;
		check(waitpid(child, &status, 0) == child && !status, "a child of a chain");
	}
	return s->in[0];
}

static long do_thread(struct step *s)
{
	pthread_attr_t detached;
	pthread_t thread;

	shared->process_of[s->in[0]] = process();
	shared->tid_of[s->in[0]] = 0;
	check(!pthread_attr_init(&detached) && !pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED), "detach");
	check(!pthread_create(&thread, &detached, run_thread, (void *)(long)s->in[0]), "pthread_create");
	while (!__atomic_load_n(&shared->tid_of[s->in[0]], __ATOMIC_ACQUIRE))
		sched_yield();
	return shared->tid_of[s->in[0]];
}

/* Wait until a thread of this process is gone. */
static long do_join(struct step *s)
{
	while (!syscall(SYS_tgkill, getpid(), shared->tid_of[s->in[0]], 0))
		usleep(100);
	return 0;
}

/* Wait until a child is a zombie (in[1] = 0), or reap it. */
static long do_wait(struct step *s)
{
	siginfo_t info = {};

	return or_errno(waitid(P_PID, shared->tid_of[s->in[0]], &info, WEXITED | (s->in[1] ? 0 : WNOWAIT)));
}

enum { BAD_THREAD, BAD_PROCESS, BAD_CLONE3 };

/* A clone(2) with flags that the kernel rejects. */
static long do_bad_clone(struct step *s)
{
	uint64_t args[8] = { CLONE_THREAD };

	switch (s->in[0]) {
	case BAD_THREAD: return or_errno(syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0));
	case BAD_PROCESS: return or_errno(syscall(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0));
	default: return or_errno(syscall(SYS_clone3, args, sizeof(args)));
	}
}

static long do_name(struct step *s)
{
	return or_errno(prctl(PR_SET_NAME, shared->names[s->in[0]]));
}

/* Move this process to another cgroup: an open, a write and a close. out[1] is the result of the open. */
static long do_enter(struct step *s)
{
	int fd = open(shared->cgroups[s->in[0]], O_WRONLY);
	long result;

	s->out[1] = or_errno(fd);
	if (fd < 0)
		return -errno;
	result = or_errno(write(fd, "0", 1));
	check(!close(fd), "close");
	return result;
}

enum { SETEUID, SETRESUID, RAW_SETRESUID, RAW_SETUID };

/* Change the effective user. The real user stays root, so that it can be changed back; RAW_SETUID changes all three. */
static long do_user(struct step *s)
{
	switch (s->in[0]) {
	case SETEUID: return or_errno(seteuid(s->in[1]));
	case SETRESUID: return or_errno(setresuid(-1, s->in[1], -1));
	case RAW_SETUID: return or_errno(syscall(SYS_setuid, s->in[1]));
	default: return or_errno(syscall(SYS_setresuid, -1, s->in[1], -1));
	}
}

/* ---- sockets ---- */

static void set_up(int fd)
{
	struct timeval short_time = { 0, 20000 };
	int yes = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof(short_time));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &short_time, sizeof(short_time));
	/* With UDP, SO_REUSEADDR would let two sockets share a port. */
	if (!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)))
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

/* in: slot, family, type, protocol. */
static long do_socket(struct step *s)
{
	int family = s->in[1] == 4 ? AF_INET : AF_INET6, only = s->in[1] == 6;
	long fd = or_errno(socket(family, s->in[2], s->in[3]));

	if (fd < 0)
		return fd;
	set_up(fd);
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only));
	shared->family[s->in[0]] = s->in[1];
	shared->port[s->in[0]] = 0;
	return keep(s->in[0], fd);
}

/* Bind to a free port, or to the port of slot in[1]. out[1] is the port. */
static long do_bind(struct step *s)
{
	union name name;
	int slot = s->in[0], saved = shared->port[slot];
	socklen_t size;
	long result;

	shared->port[slot] = s->in[1] < 0 ? 0 : shared->port[s->in[1]];
	size = name_of(&name, slot, slot);
	if (!shared->family[slot])
		name.v6.sin6_addr = in6addr_any;
	shared->port[slot] = saved;
	result = or_errno(bind(fd_of(slot), &name.base, size));
	keep_port(slot);
	s->out[1] = shared->port[slot];
	return result;
}

static long do_listen(struct step *s)
{
	long result = or_errno(listen(fd_of(s->in[0]), 16));

	keep_port(s->in[0]); /* An unbound socket gets a port. */
	s->out[1] = shared->port[s->in[0]];
	return result;
}

/* in: slot, the slot of the peer, or -1 for a port where nothing listens (in[2]). out[1]: own port, out[2]: the peer's */
static long do_connect(struct step *s)
{
	int slot = s->in[0], saved = shared->port[slot], to = s->in[1];
	union name name;
	socklen_t size;
	long result;

	if (to < 0) {
		to = slot;
		shared->port[slot] = s->in[2];
	}
	size = name_of(&name, slot, to);
	shared->port[slot] = saved;
	result = or_errno(connect(fd_of(slot), &name.base, size));
	keep_port(slot);
	s->out[1] = shared->port[slot];
	s->out[2] = port_of_name(&name);
	return result;
}

enum { ACCEPT, ACCEPT4, COMPAT_ACCEPT };

static long do_accept(struct step *s)
{
	union name name = {};
	socklen_t size = sizeof(name);
	int fd = fd_of(s->in[0]);
	long result;

	if (s->in[2] == ACCEPT)
		result = or_errno(syscall(SYS_accept, fd, &name, &size));
	else if (s->in[2] == ACCEPT4)
		result = or_errno(syscall(SYS_accept4, fd, &name, &size, 0));
	else
		result = compat(364, fd, 0, 0); /* accept4 */
	if (result < 0)
		return result;
	set_up(result);
	shared->family[s->in[1]] = shared->family[s->in[0]];
	keep(s->in[1], result);
	keep_port(s->in[1]);
	s->out[1] = shared->port[s->in[1]];
	s->out[2] = port_of_name(&name);
	return result;
}

static long do_shutdown(struct step *s)
{
	return or_errno(shutdown(fd_of(s->in[0]), s->in[1]));
}

enum { SEND, SENDTO, SENDMSG, SENDMMSG, SEND_COMPAT };

/* in: slot, how, size, the slot to send to or -1, flags, messages. out[1]: own port, out[2]: the peer's, out[3]: bytes
 * of all messages. A sendmmsg() sends the messages with the numbers 0, 1, 2 ... to slot in[3] and to slot in[6] in turn,
 * each one byte longer than the one before. Message in[7] has no valid memory. */
static long do_send(struct step *s)
{
	int slot = s->in[0], fd = fd_of(slot), size = s->in[2], to = s->in[3], flags = s->in[4], count = s->in[5];
	union name names[2] = {};
	socklen_t sizes[2] = {};
	struct msghdr message = { .msg_iov = parts_of(size), .msg_iovlen = 2 };
	struct mmsghdr many[8] = {};
	struct iovec each[8];
	long result = -ENOSYS;

	data[0] = low[0] = slot + 1;
	if (to >= 0)
		sizes[0] = name_of(&names[0], slot, to);
	if (s->in[6] >= 0)
		sizes[1] = name_of(&names[1], slot, s->in[6]);
	if (to >= 0) {
		message.msg_name = &names[0];
		message.msg_namelen = sizes[0];
	}
	switch (s->in[1]) {
	case SEND:
	case SENDTO:
		result = or_errno(sendto(fd, s->in[7] == 0 ? (void *)8 : data, size, flags, to < 0 ? 0 : &names[0].base,
					 sizes[0]));
		break;
	case SENDMSG: result = or_errno(sendmsg(fd, &message, flags)); break;
	case SENDMMSG:
		for (int i = 0; i < count; i++) {
			each[i] = (struct iovec){ i == s->in[7] ? (char *)8 : data, size + i };
			many[i].msg_hdr.msg_iov = &each[i];
			many[i].msg_hdr.msg_iovlen = 1;
			if (to >= 0) {
				many[i].msg_hdr.msg_name = &names[i & 1 && sizes[1]];
				many[i].msg_hdr.msg_namelen = sizes[i & 1 && sizes[1]];
			}
		}
		result = or_errno(sendmmsg(fd, many, count, flags));
		for (int i = 0; i < result; i++)
			s->out[3] += many[i].msg_len;
		break;
	case SEND_COMPAT: result = compat(369, fd, (long)low, size); break; /* sendto */
	}
	keep_port(slot);
	s->out[1] = shared->port[slot];
	s->out[2] = to < 0 ? 0 : shared->port[to];
	return result;
}

enum { RECV, RECVFROM, RECVMSG, RECVMSG_NAMED, RECVMMSG, RECVMMSG_NAMED, RECV_COMPAT };

/* in: slot, how, size, flags, messages. out[1]: own port, out[2]: the sender's port if the call asked for it, out[3]:
 * bytes of all messages, out[4]: the first byte, which is the sender's slot + 1, and, for more messages, also the next. */
static long do_receive(struct step *s)
{
	int slot = s->in[0], fd = fd_of(slot), size = s->in[2], flags = s->in[3], count = s->in[4];
	union name names[4] = {};
	socklen_t length = sizeof(names[0]);
	struct msghdr message = { .msg_iov = parts_of(size), .msg_iovlen = 2 };
	struct mmsghdr many[4] = {};
	struct iovec each[4];
	long result = -ENOSYS;

	data[0] = low[0] = 0;
	switch (s->in[1]) {
	case RECV: result = or_errno(recv(fd, data, size, flags)); break;
	case RECVFROM: result = or_errno(recvfrom(fd, data, size, flags, &names[0].base, &length)); break;
	case RECVMSG_NAMED:
		message.msg_name = &names[0];
		message.msg_namelen = sizeof(names[0]);
		/* fall through */
	case RECVMSG: result = or_errno(recvmsg(fd, &message, flags)); break;
	case RECVMMSG:
	case RECVMMSG_NAMED:
		for (int i = 0; i < count; i++) {
			each[i] = (struct iovec){ data + i * 8192, size };
			data[i * 8192] = 0;
			many[i].msg_hdr.msg_iov = &each[i];
			many[i].msg_hdr.msg_iovlen = 1;
			if (s->in[1] == RECVMMSG_NAMED) {
				many[i].msg_hdr.msg_name = &names[i];
				many[i].msg_hdr.msg_namelen = sizeof(names[i]);
			}
		}
		result = or_errno(recvmmsg(fd, many, count, flags, 0));
		for (int i = 0; i < result; i++) {
			s->out[3] += many[i].msg_len;
			s->out[4 + i] = data[i * 8192] | (int64_t)many[i].msg_len << 8;
		}
		break;
	case RECV_COMPAT:
		result = compat(371, fd, (long)low, size); /* recvfrom */
		data[0] = low[0];
		break;
	}
	keep_port(slot);
	s->out[1] = shared->port[slot];
	s->out[2] = port_of_name(&names[0]);
	if (s->in[1] != RECVMMSG && s->in[1] != RECVMMSG_NAMED)
		s->out[4] = data[0];
	return result;
}

/* Wait until data or an end has arrived at a socket, without receiving it. */
static long do_arrive(struct step *s)
{
	struct pollfd one = { fd_of(s->in[0]), POLLIN };

	return or_errno(poll(&one, 1, 1000));
}

/* ---- io_uring ---- */

/* One operation through a ring: in: slot, IORING_OP_*, size, flags. The close of the ring is a call that counts. If an
 * accept or a read would have to wait, there is none, and out[5] is 1. */
static long do_ring(struct step *s)
{
	struct io_uring_params parameters = {};
	struct pollfd ready = { fd_of(s->in[0]), s->in[1] == IORING_OP_WRITE ? POLLOUT : POLLIN };
	size_t size = 4096;
	char *queues;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	long result;
	int ring;

	s->out[5] = s->in[1] != IORING_OP_SEND && s->in[1] != IORING_OP_RECV && poll(&ready, 1, 0) <= 0;
	if (s->out[5])
		return -EAGAIN;
	ring = syscall(SYS_io_uring_setup, 1, &parameters);
	check(ring >= 0, "io_uring_setup");
	queues = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	sqe = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	check(queues != MAP_FAILED && sqe != MAP_FAILED, "mmap");
	data[0] = s->in[1] == IORING_OP_RECV || s->in[1] == IORING_OP_READ ? 0 : s->in[0] + 1;
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = s->in[1];
	sqe->fd = fd_of(s->in[0]);
	sqe->addr = (uint64_t)data;
	sqe->len = s->in[2];
	sqe->msg_flags = s->in[3];
	if (s->in[1] == IORING_OP_READ || s->in[1] == IORING_OP_WRITE)
		sqe->off = -1;
	if (s->in[1] == IORING_OP_ACCEPT)
		sqe->addr = sqe->len = 0;
	((uint32_t *)(queues + parameters.sq_off.array))[0] = 0;
	__atomic_store_n((uint32_t *)(queues + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) == 1, "io_uring_enter");
	cqe = (void *)(queues + parameters.cq_off.cqes);
	result = cqe->res;
	munmap(queues, size);
	munmap(sqe, size);
	check(!close(ring), "close");
	if (s->in[1] == IORING_OP_ACCEPT && result >= 0) {
		set_up(result);
		shared->family[s->in[4]] = shared->family[s->in[0]];
		keep(s->in[4], result);
		keep_port(s->in[4]);
	}
	keep_port(s->in[0]);
	s->out[1] = shared->port[s->in[0]];
	s->out[4] = data[0];
	return result;
}

/* ---- the plan ---- */

/* Wait until the test has seen another interval end. */
static long do_pause(struct step *s)
{
	while (__atomic_load_n(&shared->continued, __ATOMIC_ACQUIRE) <= (uint32_t)s->in[0])
		syscall(SYS_futex, &shared->continued, FUTEX_WAIT, s->in[0], 0, 0, 0);
	return 0;
}

enum { EXIT, KILLED, SEGFAULT };

static void pass_turn(uint32_t turn)
{
	__atomic_store_n(&shared->turn, turn + 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &shared->turn, FUTEX_WAKE, ACTORS, 0, 0, 0);
}

static long do_exec(struct step *s)
{
	s->out[1] = 1; /* The program that starts then knows that this step is done. */
	start_program(actor, s->in[0]);
	check(0, "execve");
	return 0;
}

#define OPERATIONS(X) \
	X(open) X(close) X(read) X(write) X(unlink) X(seek) X(map) X(pair) X(memory) X(dup) X(copy) X(pass) X(take) \
	X(fork) X(vfork) X(chain) X(thread) X(join) X(wait) X(bad_clone) X(name) X(enter) X(user) \
	X(socket) X(bind) X(listen) X(connect) X(accept) X(shutdown) X(send) X(receive) X(arrive) X(ring) X(pause) X(exec)
#define FUNCTION(name) do_##name,
#define EXIT_OPERATION (sizeof(operations) / sizeof(*operations))	/* the last one: in[0] is how */

#define EXEC_OPERATION (EXIT_OPERATION - 1)

static long (*const operations[])(struct step *) = { OPERATIONS(FUNCTION) };

static void end(int how)
{
	if (how == KILLED)
		kill(getpid(), SIGKILL);
	if (how == SEGFAULT) {
		signal(SIGSEGV, SIG_DFL);
		kill(getpid(), SIGSEGV);
	}
	_exit(0);
}

/* Do the steps of an actor. Returns only in a thread, when that is to end. */
static void run(int as)
{
	actor = as;
	__atomic_store_n(&shared->tid_of[as], (int32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;) {
		uint32_t turn = __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE);
		struct step *s = &shared->step[turn];

		if (turn >= shared->steps)
			_exit(0);
		if (s->actor != as) {
			syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn, 0, 0, 0);
			continue;
		}
		if (s->op == EXIT_OPERATION) {
			pass_turn(turn);
			if (process() != as)
				return;
			end(s->in[0]);
		}
		s->out[0] = operations[s->op](s);
		pass_turn(turn);
	}
}

int main(int argc, char **argv)
{
	int memory, as;
	struct step *s;

	check(argc == 3, "random_work ACTOR FD");
	memory = atoi(argv[2]);
	shared = mmap(0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	low = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	check(shared != MAP_FAILED && low != MAP_FAILED, "mmap");
	shared->fd[0][SLOTS - 1] = memory;
	signal(SIGPIPE, SIG_IGN);
	umask(0);
	as = atoi(argv[1]);
	if (!as)
		prctl(PR_SET_CHILD_SUBREAPER, 1); /* The first process adopts the children of others that end. */
	s = &shared->step[shared->turn];
	if (s->actor == as && s->op == EXEC_OPERATION && s->out[1])
		pass_turn(shared->turn);
	run(as);
	return 0;
}
