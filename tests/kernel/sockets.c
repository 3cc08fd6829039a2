/* SPDX-License-Identifier: Apache-2.0 */
/* Use TCP and UDP sockets in unusual ways, to be counted:
 *
 *	sockets CASE
 *
 * Each case is a function below; the test has what it must count. Both ends of every connection are in this process, at
 * 127.0.0.1. The program makes no other network calls than those of the case, and checks the result of each. At the end
 * it prints one line of names and values: pid PID, and the local ports of the case's servers. A case that waits prints
 * "ready" first, and goes on when its stdin ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif

static char data[1 << 16];

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	_exit(1);
}

/* Check that a call returns a value, or that it fails with an errno. */
#define RETURNS(value, call) check((call) == (value), #call)
#define FAILS(code, call) check((call) == -1 && errno == (code), #call)

static int check_fd(int fd)
{
	check(fd >= 0, "socket, accept");
	return fd;
}

static struct sockaddr_in at(in_port_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static struct sockaddr_in name_of(int fd)
{
	struct sockaddr_in name;

	RETURNS(0, getsockname(fd, &name, &(socklen_t){ sizeof(name) }));
	return name;
}

/* Bind a socket to a port that another socket may have had. */
static int bound(int fd, in_port_t port)
{
	struct sockaddr_in name = at(port);

	RETURNS(0, setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
	RETURNS(0, bind(fd, &name, sizeof(name)));
	return fd;
}

static int client(void)
{
	return check_fd(socket(AF_INET, SOCK_DGRAM, 0));
}

/* Return a UDP server, and print its port. */
static int server(const char *name)
{
	int fd = bound(client(), 0);

	printf("%s %d ", name, ntohs(name_of(fd).sin_port));
	return fd;
}

static void send_to(int fd, int size, struct sockaddr_in to)
{
	RETURNS(size, sendto(fd, data, size, 0, &to, sizeof(to)));
}

/* Receive a datagram, and return who sent it. */
static struct sockaddr_in receive(int fd, int size)
{
	struct sockaddr_in from;

	RETURNS(size, recvfrom(fd, data, sizeof(data), 0, &from, &(socklen_t){ sizeof(from) }));
	return from;
}

static void wait_for_test(void)
{
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
}

/* Send a datagram from a client to each of three servers, and receive it there. */
static struct sockaddr_in call_all(int fd, const int *servers)
{
	struct sockaddr_in from;

	for (int i = 0; i < 3; i++) {
		send_to(fd, 11, name_of(servers[i]));
		from = receive(servers[i], 11);
	}
	return from;
}

static void do_splice_udp(void)
{
	int fd = server("server"), other = client(), ends[2];

	RETURNS(0, pipe(ends));
	send_to(other, 1000, name_of(fd));
	RETURNS(1000, splice(fd, 0, ends[1], 0, 4096, 0));
}

/* A pair of connected TCP sockets; the second is the accepted one. */
static void connect_tcp(int *ends, int listener, int protocol)
{
	struct sockaddr_in name = name_of(listener);

	ends[0] = check_fd(socket(AF_INET, SOCK_STREAM, protocol));
	RETURNS(0, connect(ends[0], &name, sizeof(name)));
	ends[1] = check_fd(accept(listener, 0, 0));
}

static int listener_of(const char *name, int protocol)
{
	struct sockaddr_in any = at(0);
	int fd = check_fd(socket(AF_INET, SOCK_STREAM, protocol));

	RETURNS(0, bind(fd, &any, sizeof(any)));
	RETURNS(0, listen(fd, 64));
	printf("%s %d ", name, ntohs(name_of(fd).sin_port));
	return fd;
}

static void send_tcp(const int *ends, int size)
{
	RETURNS(size, send(ends[0], data, size, 0));
	RETURNS(size, recv(ends[1], data, size, MSG_WAITALL));
}

static void do_raw(void)
{
	int raw = check_fd(socket(AF_INET, SOCK_RAW, IPPROTO_TCP)), fd = listener_of("server", 0), ends[2], seen = 0;
	struct { struct udphdr header; char payload[92]; } datagram = { { .dest = htons(9), .len = htons(100) } };
	struct sockaddr_in to = at(0);

	connect_tcp(ends, fd, 0);
	send_tcp(ends, 10000);
	while (recv(raw, data, sizeof(data), MSG_DONTWAIT) > 0)
		seen++;
	check(seen > 0, "the raw socket");
	raw = check_fd(socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
	RETURNS(sizeof(datagram), sendto(raw, &datagram, sizeof(datagram), 0, &to, sizeof(to)));
}

static void do_reuse(void)
{
	int called = server("called"), caller = client(), fd = server("fixed");
	in_port_t fixed = name_of(fd).sin_port;

	for (int i = 0; i < 20; i++) {
		/* The kernel reuses the memory of a closed socket for the next socket. In the last ten rounds, the next
		 * socket exists before this one is closed, so its memory is elsewhere. */
		int next = i < 10 ? -1 : client();

		close(fd);
		fd = bound(next < 0 ? client() : next, fixed);
		send_to(fd, 100, name_of(called));
		close(fd);
		fd = bound(client(), fixed);
		send_to(caller, 100, at(fixed));
		receive(fd, 100);
	}
}

static struct mmsghdr *messages(const int *servers)
{
	static struct sockaddr_in names[3];
	static struct iovec parts[3];
	static struct mmsghdr made[3];

	for (int i = 0; i < 3; i++) {
		names[i] = name_of(servers[i]);
		parts[i] = (struct iovec){ data, 100 * (i + 1) };
		made[i].msg_hdr = (struct msghdr){ .msg_iov = parts + i, .msg_iovlen = 1, .msg_name = names + i,
						   .msg_namelen = sizeof(*names) };
	}
	return made;
}

static void do_sendmmsg(void)
{
	int servers[3] = { server("one"), server("two"), server("three") }, fd = client();
	struct mmsghdr *many = messages(servers);

	for (int i = 0; i < 20; i++)
		RETURNS(i % 2 ? 3 : 1, sendmmsg(fd, many, i % 2 ? 3 : 1, 0));
	((struct sockaddr_in *)many[1].msg_hdr.msg_name)->sin_port = 0;
	for (int i = 0; i < 5; i++)
		RETURNS(1, sendmmsg(fd, many, 3, 0));
}

static void do_recvmmsg(void)
{
	int servers[3] = { server("one"), server("two"), server("three") }, fd = client();
	struct mmsghdr *many = messages(servers);
	struct sockaddr_in own = call_all(fd, servers);
	int error;

	for (int i = 0; i < 7; i++) {
		for (int n = 0; n < 3; n++)
			send_to(servers[n], 100 * (n + 1), own);
		RETURNS(3, recvmmsg(fd, many, 3, 0, 0));
		/* The address of the third cannot be stored. The datagram is gone all the same. */
		many[2].msg_hdr.msg_name = (void *)1;
		for (int n = 0; n < 3; n++)
			send_to(servers[n], 100 * (n + 1), own);
		RETURNS(2, recvmmsg(fd, many, 3, 0, 0));
		RETURNS(0, getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof(error) })); /* clears it */
		messages(servers);
	}
}

static void do_efault(void)
{
	int servers[3] = { server("one"), server("two"), server("three") }, fd = client();
	struct msghdr *unwritable = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sockaddr_in own = call_all(fd, servers), wrong;
	static struct iovec part = { data, sizeof(data) };

	check(unwritable != MAP_FAILED, "mmap");
	*unwritable = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1, .msg_name = &wrong, .msg_namelen = sizeof(wrong) };
	RETURNS(0, mprotect(unwritable, 4096, PROT_READ));
	for (int i = 0; i < 7; i++) {
		wrong = name_of(servers[0]);
		send_to(servers[2], 101, own);
		FAILS(EFAULT, recvfrom(fd, data, sizeof(data), 0, &wrong, 0));
		send_to(servers[2], 103, own);
		RETURNS(103, recvfrom(fd, data, sizeof(data), 0, &wrong, &(socklen_t){ 4 }));
		wrong = name_of(servers[0]);
		send_to(servers[2], 107, own);
		FAILS(EFAULT, recvmsg(fd, unwritable, 0));
	}
}

static void do_efault_inbound(void)
{
	int fd = server("server"), other = client();
	struct sockaddr_in from;

	for (int i = 0; i < 7; i++) {
		send_to(other, 101, name_of(fd));
		FAILS(EFAULT, recvfrom(fd, data, sizeof(data), 0, &from, 0));
	}
}

static struct {
	unsigned *tail;
	int here, there, later;
	struct sockaddr_in there_name, later_name;
} ring;

static void *answer(void *unused)
{
	unsigned before = *ring.tail;

	send_to(ring.here, 100, ring.there_name);
	while (__atomic_load_n(ring.tail, __ATOMIC_ACQUIRE) == before)
		usleep(1000);
	send_to(ring.there, 140, ring.later_name);
	return unused;
}

/* Wait in recvfrom(2) on one socket while io_uring receives on another. */
static void receive_both(int by_ring, int by_call, int from_ring, int from_call, struct sockaddr_in *names)
{
	struct io_uring_params parameters = {};
	int fd = syscall(SYS_io_uring_setup, 4, &parameters);
	static char into[200];
	struct io_uring_sqe *entry;
	pthread_t thread;
	char *rings;

	if (fd < 0) {
		printf("skipped %d ", errno);
		return;
	}
	rings = mmap(0, parameters.cq_off.cqes + 8 * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	entry = mmap(0, 4 * sizeof(*entry), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	check(rings != MAP_FAILED && (void *)entry != MAP_FAILED, "mmap");
	*entry = (struct io_uring_sqe){ .opcode = IORING_OP_RECV, .fd = by_ring, .addr = (uintptr_t)into, .len = 200 };
	*(unsigned *)(rings + parameters.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(rings + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
	RETURNS(1, syscall(SYS_io_uring_enter, fd, 1, 0, 0, 0, 0));
	ring.tail = (unsigned *)(rings + parameters.cq_off.tail);
	ring.here = from_ring;
	ring.there = from_call;
	ring.there_name = names[0];
	ring.later_name = names[1];
	RETURNS(0, pthread_create(&thread, 0, answer, 0));
	receive(by_call, 140);
	RETURNS(0, pthread_join(thread, 0));
	close(fd);
}

static void do_uring(void)
{
	int one = server("one"), two = server("two"), a = client(), b = client();
	struct sockaddr_in names[2], to = name_of(two);

	for (int i = 0; i < 5; i++) {
		send_to(a, 11, name_of(one));
		names[0] = receive(one, 11);
		send_to(b, 13, name_of(two));
		names[1] = receive(two, 13);
		if (i == 3)
			RETURNS(0, connect(b, &to, sizeof(to)));
		receive_both(a, b, one, two, names);
	}
}

static void do_client_socket(void)
{
	int one = server("server"), fd, other = client(), next = client();
	struct sockaddr_in name = name_of(one), from;

	/* A server that makes a socket for each client: one receives first, another one sends first. */
	send_to(other, 101, name);
	from = receive(one, 101);
	fd = bound(client(), name.sin_port);
	RETURNS(0, connect(fd, &from, sizeof(from)));
	for (int i = 0; i < 7; i++) {
		send_to(other, 103, name);
		RETURNS(103, recv(fd, data, sizeof(data), 0));
		RETURNS(107, send(fd, data, 107, 0));
		receive(other, 107);
	}
	send_to(next, 109, name);
	from = receive(one, 109);
	fd = bound(client(), name.sin_port);
	RETURNS(0, connect(fd, &from, sizeof(from)));
	RETURNS(113, send(fd, data, 113, 0));
	receive(next, 113);
}

/* A socket of UDP-Lite, which is not counted, shares its functions with UDP. */
static void do_udplite(void)
{
	int lite = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE), one = server("server"), other = client();
	struct sockaddr_in any = at(0);

	if (lite < 0) {
		printf("skipped %d ", errno);
		return;
	}
	RETURNS(0, bind(lite, &any, sizeof(any)));
	for (int i = 0; i < 7; i++) {
		send_to(lite, 101, name_of(lite));
		receive(lite, 101);
		send_to(other, 103, name_of(one));
		receive(one, 103);
	}
}

/* A datagram that is larger than the buffer: MSG_TRUNC returns its size. */
static void do_truncated(void)
{
	int fd = server("server"), other = client();

	for (int i = 0; i < 7; i++) {
		send_to(other, 1009, name_of(fd));
		RETURNS(11, recv(fd, data, 11, 0));
		send_to(other, 1009, name_of(fd));
		RETURNS(1009, recv(fd, data, 11, MSG_TRUNC));
		send_to(other, 0, name_of(fd));
		receive(fd, 0);
	}
}

static void do_cork(void)
{
	int one = server("one"), two = server("two"), fd = client();
	struct sockaddr_in to = name_of(one);

	send_to(fd, 11, name_of(two));
	RETURNS(101, sendto(fd, data, 101, MSG_MORE, &to, sizeof(to)));
	RETURNS(103, send(fd, data, 103, 0));
	receive(one, 204);
}

static void do_reconnect(void)
{
	int one = server("one"), two = server("two"), fd = client();
	struct sockaddr_in to[2] = { name_of(one), name_of(two) }, nobody = { .sin_family = AF_UNSPEC };

	for (int i = 0; i < 2; i++) {
		RETURNS(0, connect(fd, to + i, sizeof(*to)));
		RETURNS(101, send(fd, data, 101, 0));
		RETURNS(0, connect(fd, &nobody, sizeof(nobody)));
		send_to(fd, 103, to[!i]);
	}
}

static void do_disconnect(void)
{
	int one = server("one"), two = server("two"), fd = bound(client(), 0);
	struct sockaddr_in to = name_of(two), own = name_of(fd), nobody = { .sin_family = AF_UNSPEC };

	send_to(fd, 11, name_of(one));
	RETURNS(0, connect(fd, &to, sizeof(to)));
	RETURNS(101, send(fd, data, 101, 0));
	receive(two, 101);
	RETURNS(0, connect(fd, &nobody, sizeof(nobody)));
	bound(fd, own.sin_port); /* The kernel has taken the port back. */
	for (int i = 0; i < 7; i++) {
		send_to(two, 103, own);
		RETURNS(103, recv(fd, data, sizeof(data), 0));
	}
}

static void do_no_data(void)
{
	int fd = listener_of("server", 0), datagrams = server("datagrams"), other = client(), ends[2];

	connect_tcp(ends, fd, 0);
	send_tcp(ends, 101);
	for (int i = 0; i < 7; i++)
		RETURNS(0, send(ends[0], data, 0, 0));
	close(ends[0]);
	for (int i = 0; i < 11; i++)
		RETURNS(0, recv(ends[1], data, sizeof(data), 0));
	for (int i = 0; i < 13; i++) {
		send_to(other, 0, name_of(datagrams));
		receive(datagrams, 0);
	}
}

static void do_mptcp(void)
{
	int one = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), fd, ends[2];

	if (one < 0) {
		printf("skipped %d ", errno);
		return;
	}
	close(one);
	fd = listener_of("server", IPPROTO_MPTCP);
	for (int i = 0; i < 7; i++) {
		connect_tcp(ends, fd, IPPROTO_MPTCP);
		send_tcp(ends, 1009);
		close(ends[0]);
		close(ends[1]);
	}
	for (int i = 0; i < 3; i++) {
		connect_tcp(ends, fd, 0);
		send_tcp(ends, 101);
		close(ends[0]);
		close(ends[1]);
	}
	close(fd);
}

/* A child gets two accepted sockets, as from inetd(8). It uses one, and closes both. */
static void do_inetd(void)
{
	int fd = listener_of("server", 0), used[2], unused[2], handed_over[2], status;
	pid_t child;

	connect_tcp(used, fd, 0);
	connect_tcp(unused, fd, 0);
	RETURNS(101, send(used[0], data, 101, 0));
	RETURNS(0, pipe(handed_over));
	child = fork();
	check(child >= 0, "fork");
	if (!child) {
		RETURNS(1, read(handed_over[0], data, 1));
		RETURNS(101, recv(used[1], data, 101, MSG_WAITALL));
		RETURNS(103, send(used[1], data, 103, 0));
		_exit(close(used[1]) || close(unused[1]));
	}
	check(!close(used[1]) && !close(unused[1]), "close");
	RETURNS(1, write(handed_over[1], data, 1));
	check(waitpid(child, &status, 0) == child && !status, "the child");
	RETURNS(103, recv(used[0], data, 103, MSG_WAITALL));
	check(!close(used[0]) && !close(unused[0]) && !close(fd), "close");
	printf("child %d ", child);
}

/* Close a connection, and then change the process's name and use another one. */
static void do_rename(void)
{
	int fd = listener_of("server", 0), first[2], second[2];

	RETURNS(0, prctl(PR_SET_NAME, "before"));
	connect_tcp(first, fd, 0);
	connect_tcp(second, fd, 0);
	wait_for_test();
	check(!close(first[0]) && !close(first[1]), "close");
	RETURNS(0, prctl(PR_SET_NAME, "after"));
	send_tcp(second, 50000);
	check(!close(second[0]) && !close(second[1]) && !close(fd), "close");
}

#ifdef __x86_64__
/* Make a system call as 32-bit programs do. */
static long compat(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r8 __asm__("r8") = f;
	long result;

	__asm__ volatile("push %%rbp; mov %%r8, %%rbp; int $0x80; pop %%rbp"
			 : "=a"(result), "+r"(r8) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "r9", "r10", "r11");
	return result;
}

static void *low;	/* memory with a 32-bit address */

static long socketcall(int call, long a, long b, long c, long d, long e, long f)
{
	uint32_t *args = low + 4096;

	memcpy(args, (uint32_t[]){ a, b, c, d, e, f }, 24);
	return compat(102, call, (long)args, 0, 0, 0, 0);
}

struct msghdr32 {
	uint32_t name, name_length, iov, iov_length, control, control_length, flags, length;
};

static struct msghdr32 *messages32(const int *servers)
{
	struct msghdr32 *made = low;
	struct sockaddr_in *names = low + 512;
	uint32_t *parts = low + 1024;

	for (int i = 0; i < 3; i++) {
		names[i] = name_of(servers[i]);
		parts[2 * i] = (uintptr_t)(low + 8192);
		parts[2 * i + 1] = 100 * (i + 1);
		made[i] = (struct msghdr32){ .name = (uintptr_t)(names + i), .name_length = sizeof(*names),
					     .iov = (uintptr_t)(parts + 2 * i), .iov_length = 1 };
	}
	return made;
}

static int has_32_bit_calls(void)
{
	low = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	check(low != MAP_FAILED, "mmap");
	return compat(20, 0, 0, 0, 0, 0, 0) == getpid();
}

static void do_accept32(void)
{
	int fd = listener_of("server", 0), ends[10];
	struct sockaddr_in name = name_of(fd);

	for (int way = 0; way < 3; way++) {
		for (int i = 0; i < 10; i++) {
			ends[i] = check_fd(socket(AF_INET, SOCK_STREAM, 0));
			RETURNS(0, connect(ends[i], &name, sizeof(name)));
			check_fd(way == 0 ? compat(364, fd, 0, 0, 0, 0, 0) :
				 way == 1 ? socketcall(5, fd, 0, 0, 0, 0, 0) : socketcall(18, fd, 0, 0, 0, 0, 0));
		}
	}
}

/* Send datagrams to three servers by each of the 32-bit calls, and receive their answers. */
static void do_datagrams32(void)
{
	int servers[3] = { server("one"), server("two"), server("three") }, fd = client();
	struct msghdr32 *many = messages32(servers);
	struct sockaddr_in own, *name = low + 2048;
	uint32_t *length = low + 2560;
	long bytes = (long)low + 8192, from = (long)name, to = (long)length;

	own = call_all(fd, servers);
	for (int i = 0; i < 5; i++) {
		*name = name_of(servers[0]);
		RETURNS(101, compat(369, fd, bytes, 101, 0, from, 16));
		RETURNS(101, socketcall(11, fd, bytes, 101, 0, from, 16));
		RETURNS(200, compat(370, fd, (long)(many + 1), 0, 0, 0, 0));
		RETURNS(200, socketcall(16, fd, (long)(many + 1), 0, 0, 0, 0));
		RETURNS(3, compat(345, fd, (long)many, 3, 0, 0, 0));
		RETURNS(1, compat(345, fd, (long)many, 1, 0, 0, 0));
		RETURNS(3, socketcall(20, fd, (long)many, 3, 0, 0, 0));
		for (int n = 0; n < 2; n++) {
			*length = sizeof(*name);
			send_to(servers[0], 107, own);
			RETURNS(107, n ? socketcall(12, fd, bytes, 4096, 0, from, to) : compat(371, fd, bytes, 4096, 0, from, to));
			send_to(servers[1], 109, own);
			RETURNS(109, n ? socketcall(17, fd, (long)(many + 1), 0, 0, 0, 0) : compat(372, fd, (long)(many + 1), 0, 0, 0, 0));
			for (int i = 0; i < 3; i++)
				send_to(servers[i], 50 * (i + 1), own);
			RETURNS(3, n ? socketcall(19, fd, (long)many, 3, 0, 0, 0) : compat(337, fd, (long)many, 3, 0, 0, 0));
			messages32(servers);
		}
	}
}

static void do_splice32(void)
{
	int fd = listener_of("server", 0), ends[2], pipes[2];

	RETURNS(0, pipe(pipes));
	connect_tcp(ends, fd, 0);
	for (int i = 0; i < 7; i++) {
		RETURNS(101, send(ends[0], data, 101, 0));
		RETURNS(101, compat(313, ends[1], 0, pipes[1], 0, 101, 0));
	}
}
#endif

/* ---- sockets that are older than ebpfmon ---- */

/* Return a UDP server outside the ephemeral ports, and print its port. */
static int old_server(const char *name)
{
	struct sockaddr_in at_port = at(0);
	int fd = client();

	for (int port = 20000; port < 30000; port++) {
		at_port.sin_port = htons(port);
		if (!bind(fd, &at_port, sizeof(at_port)))
			break;
	}
	printf("%s %d ", name, ntohs(name_of(fd).sin_port));
	return fd;
}

static void do_older_client(void)
{
	int one = old_server("server"), fd = client();
	struct sockaddr_in to = name_of(one), own;

	RETURNS(0, connect(fd, &to, sizeof(to)));
	RETURNS(101, send(fd, data, 101, 0));
	own = receive(one, 101);
	wait_for_test();
	for (int i = 0; i < 7; i++) {
		send_to(one, 103, own);
		RETURNS(103, recv(fd, data, sizeof(data), 0));
	}
}

static void do_older_server(void)
{
	int other = server("called"), fd = old_server("fixed"), caller = client();
	in_port_t fixed = name_of(fd).sin_port;

	wait_for_test();
	/* The server sends first, and then ends. A client uses its port. */
	send_to(caller, 11, name_of(other));
	send_to(fd, 101, receive(other, 11));
	receive(caller, 101);
	close(fd);
	fd = bound(client(), fixed);
	for (int i = 0; i < 7; i++)
		send_to(fd, 103, name_of(other));
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "splice_udp", do_splice_udp },
	{ "raw", do_raw },
	{ "reuse", do_reuse },
	{ "sendmmsg", do_sendmmsg },
	{ "recvmmsg", do_recvmmsg },
	{ "efault", do_efault },
	{ "efault_inbound", do_efault_inbound },
	{ "uring", do_uring },
	{ "client_socket", do_client_socket },
	{ "cork", do_cork },
	{ "udplite", do_udplite },
	{ "truncated", do_truncated },
	{ "reconnect", do_reconnect },
	{ "disconnect", do_disconnect },
	{ "no_data", do_no_data },
	{ "mptcp", do_mptcp },
	{ "inetd", do_inetd },
	{ "rename", do_rename },
#ifdef __x86_64__
	{ "accept32", do_accept32 },
	{ "datagrams32", do_datagrams32 },
	{ "splice32", do_splice32 },
#endif
	{ "older_client", do_older_client },
	{ "older_server", do_older_server },
};

int main(int argc, char **argv)
{
	check(argc == 2, "sockets CASE");
	printf("pid %d ", getpid());
	for (int i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (strcmp(cases[i].name, argv[1]))
			continue;
#ifdef __x86_64__
		if (strstr(argv[1], "32") && !has_32_bit_calls()) {
			printf("skipped 0\n");
			return 0;
		}
#endif
		cases[i].run();
		printf("\n");
		return 0;
	}
	fprintf(stderr, "no such case: %s\n", argv[1]);
	return 1;
}
