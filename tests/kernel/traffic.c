/* SPDX-License-Identifier: Apache-2.0 */
/* Make a known amount of network traffic, to be counted:
 *
 *	traffic ADDRESS KEY=COUNT ... [server_ns=PATH] [client_ns=PATH]
 *
 * ADDRESS is a local IPv4 or IPv6 literal. For ::ffff:A.B.C.D, the server listens with both protocols on ::, and the
 * client connects an AF_INET6 socket to the mapped address. This process is the client. The server is a fork of it.
 * Each runs in a network namespace of its own if it is given one (/proc/PID/ns/net). Both run the same plan in lockstep
 * and wait for each other through pipes only. They make no other network calls than those below, and check the result
 * of each. At the end, the client prints one line of names and values: client PID server PID tcp_port PORT udp_port
 * PORT, and, if the plan has them: udp_port2 PORT udp_port3 PORT (udp_sendmmsg), refused_port PORT (tcp_refused), child
 * PID (shared).
 *
 * The table below shows what each key does once. A send is a call of inet_sendmsg() or inet6_sendmsg(), and a receive a
 * call of inet_recvmsg() or inet6_recvmsg(). Since Linux 6.5, the tracepoints sock_send_length and sock_recv_length are
 * reached once for each. sendfile(2) and splice(2) to a socket are one send there, and one sendpage before. splice(2)
 * from a socket is not a receive, but a call of tcp_splice_read(). Neither side receives an end of file. The client
 * receives nothing, and the server sends nothing. Both close what they opened, the client first.
 *
 * on the first TCP connection        the client                           the server
 * tcp_send          send             1 send of 97                         recv          1 receive of 97
 * tcp_sendto        sendto, named    1 send of 89                         recvfrom      1 receive of 89
 * tcp_sendmsg       sendmsg          1 send of 83                         recvmsg       1 receive of 83
 * tcp_sendmmsg      sendmmsg of 2    2 sends of 79                        2 recvmmsg    2 receives of 79
 * tcp_write         write            1 send of 73                         read          1 receive of 73
 * tcp_writev        writev           1 send of 71                         readv         1 receive of 71
 * tcp_sendfile      sendfile         1 send of 67                         recv          1 receive of 67
 * tcp_splice        splice           1 send of 59                         splice        1 splice read of 59
 * tcp_peek          send             1 send of 53                         2 recv        2 receives: 53 peeked, 53
 * shared            send, in a child 1 send of 47, none by the client     recv          1 receive of 47
 * tcp_eagain                         -                                    recv          1 receive: EAGAIN
 * tcp_epipe         send             1 send: EPIPE, after a shutdown(2)   -             -
 *
 * other TCP connections
 * (always)                           1 connect, the first connection      accept
 * tcp_connect                        1 connect                            accept
 * hold                               1 connect, all open at once         accept
 * tcp_refused                        1 connect: ECONNREFUSED              -
 *
 * UDP: the client has two sockets, the second connected (1 connect, always); the server's are not connected
 * udp_send          send, connected  1 send of 101                        recvfrom      1 receive of 101
 * udp_sendto        sendto           1 send of 103                        recvfrom      1 receive of 103
 * udp_sendmsg       sendmsg          1 send of 107                        recvmsg       1 receive of 107
 * udp_sendmmsg      sendmmsg of 3    3 sends of 109, to 3 ports           3 recvmmsg    3 receives of 109, at 3 ports
 * udp_recvmmsg      sendmmsg of 3    3 sends of 139                       recvmmsg of 3 3 receives of 139
 * udp_write         write, connected 1 send of 113                        read          1 receive of 113
 * udp_recv_unnamed  sendto           1 send of 127                        recv          1 receive of 127, no address
 * udp_peek          sendto           1 send of 131                        2 recvfrom    2 receives: 131 peeked, 131
 * udp_empty         sendto           1 send of 0                          recvfrom      1 receive of 0
 * udp_eagain                         -                                    recv          1 receive: EAGAIN
 * dest              sendto           1 send of 61, from a third socket, to port 9 of 127.1.0.0 + n, n = COUNT to 1 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char **plan, data[4096];
static int is_client, to_other, from_other;
/* Addresses of either family. A sockaddr_in has its port at the same offset, its address at that of sin6_flowinfo. */
static struct sockaddr_in6 server_name, udp_names[3];
static socklen_t address_size;
static struct {
	in_port_t tcp, refused, udp[3];
} ports; /* In network byte order. */
static pid_t child;

static const char *option(const char *key)
{
	for (char **arg = plan; *arg; arg++)
		if (!strncmp(*arg, key, strlen(key)) && (*arg)[strlen(key)] == '=')
			return *arg + strlen(key) + 1;
	return 0;
}

static long count_of(const char *key)
{
	return option(key) ? atol(option(key)) : 0;
}

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	_exit(1);
}

#define TIMES(key) for (long left = count_of(key); left > 0; left--)
/* Check that a call returns a value, or that it fails with an errno. */
#define RETURNS(value, call) check((call) == (value), #call)
#define FAILS(code, call) check((call) == -1 && errno == (code), #call)

#define NOTIFY() RETURNS(1, write(to_other, data, 1))
#define WAIT() RETURNS(1, read(from_other, data, 1))
/* The client and the server each do their part. The client then waits for the server. */
#define BOTH(client, server) \
	do { \
		if (is_client) { \
			client; \
			WAIT(); \
		} else { \
			server; \
			NOTIFY(); \
		} \
	} while (0)
#define EACH(key, client, server) TIMES(key) BOTH(client, server)
#define NOTHING

static struct sockaddr_in6 address_of(in_port_t port)
{
	struct sockaddr_in6 address = server_name;

	address.sin6_port = port;
	return address;
}

static int check_fd(int fd)
{
	check(fd >= 0, "socket, accept");
	return fd;
}

/* Return a new socket after connecting it, or after checking that connecting fails with this errno. */
static int connect_to(int type, in_port_t port, int code)
{
	struct sockaddr_in6 address = address_of(port);
	int fd = check_fd(socket(server_name.sin6_family, type, 0));

	RETURNS(code, connect(fd, &address, address_size) ? errno : 0);
	return fd;
}

static int bind_any(int type, in_port_t *port)
{
	struct sockaddr_in6 address = address_of(0);
	int fd = check_fd(socket(address.sin6_family, type, 0)), off = 0;

	if (address.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
		address.sin6_addr = in6addr_any;
		RETURNS(0, setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	}
	RETURNS(0, bind(fd, &address, address_size));
	RETURNS(0, getsockname(fd, &address, &(socklen_t){ sizeof(address) }));
	*port = address.sin6_port;
	return fd;
}

/* Return three messages of `size` bytes, in two parts each. */
static struct mmsghdr *messages(size_t size, struct sockaddr_in6 *names)
{
	static struct iovec parts[3][2];
	static struct mmsghdr made[3];

	for (int i = 0; i < 3; i++) {
		parts[i][0] = (struct iovec){ data, 40 };
		parts[i][1] = (struct iovec){ data + 40, size - 40 };
		made[i].msg_hdr = (struct msghdr){ .msg_iov = parts[i], .msg_iovlen = 2, .msg_name = names ? names + i : 0,
						   .msg_namelen = names ? address_size : 0 };
	}
	return made;
}

static void do_many(int fd, int count, size_t size, struct sockaddr_in6 *names)
{
	struct mmsghdr *many = messages(size, names);

	if (is_client)
		RETURNS(count, sendmmsg(fd, many, count, 0));
	else
		RETURNS(count, recvmmsg(fd, many, count, MSG_WAITALL, 0));
	for (int i = 0; i < count; i++)
		RETURNS(size, many[i].msg_len);
}

static void do_tcp(int fd)
{
	struct iovec two[2] = { { data, 40 }, { data + 40, 31 } };
	struct sockaddr_in6 name = address_of(ports.tcp);
	int memory = memfd_create("traffic", 0), ends[2];
	socklen_t size = sizeof(name);

	check(memory >= 0 && !ftruncate(memory, sizeof(data)) && !pipe(ends), "memfd_create, pipe");
	EACH("tcp_send", RETURNS(97, send(fd, data, 97, 0)), RETURNS(97, recv(fd, data, 97, MSG_WAITALL)));
	EACH("tcp_sendto", RETURNS(89, sendto(fd, data, 89, 0, &name, address_size)),
	     RETURNS(89, recvfrom(fd, data, 89, MSG_WAITALL, &name, &size)));
	EACH("tcp_sendmsg", RETURNS(83, sendmsg(fd, &messages(83, 0)->msg_hdr, 0)),
	     RETURNS(83, recvmsg(fd, &messages(83, 0)->msg_hdr, MSG_WAITALL)));
	EACH("tcp_sendmmsg", do_many(fd, 2, 79, 0), do_many(fd, 1, 79, 0); do_many(fd, 1, 79, 0));
	EACH("tcp_write", RETURNS(73, write(fd, data, 73)), RETURNS(73, read(fd, data, 73)));
	EACH("tcp_writev", RETURNS(71, writev(fd, two, 2)), RETURNS(71, readv(fd, two, 2)));
	EACH("tcp_sendfile", RETURNS(67, sendfile(fd, memory, &(off_t){ 0 }, 67)),
	     RETURNS(67, recv(fd, data, 67, MSG_WAITALL)));
	EACH("tcp_splice", RETURNS(59, write(ends[1], data, 59)); RETURNS(59, splice(ends[0], 0, fd, 0, 59, 0)),
	     RETURNS(59, splice(fd, 0, ends[1], 0, 59, 0)); RETURNS(59, read(ends[0], data, 59)));
	EACH("tcp_peek", RETURNS(53, send(fd, data, 53, 0)),
	     RETURNS(53, recv(fd, data, 53, MSG_PEEK | MSG_WAITALL)); RETURNS(53, recv(fd, data, 53, MSG_WAITALL)));
	EACH("tcp_eagain", NOTHING, FAILS(EAGAIN, recv(fd, data, 4096, MSG_DONTWAIT)));
	check(!close(memory) && !close(ends[0]) && !close(ends[1]), "close");
}

static void do_shared(int fd)
{
	int status;

	if (is_client && (child = fork())) {
		check(child > 0, "fork");
		check(waitpid(child, &status, 0) == child && !status, "the child");
		return;
	}
	EACH("shared", RETURNS(47, send(fd, data, 47, 0)), RETURNS(47, recv(fd, data, 47, MSG_WAITALL)));
	if (is_client)
		_exit(0);
}

/* Open `count` connections, and then close them all, the client first. */
static void do_connections(int listener, long count)
{
	static int fds[1 << 16];

	check(count <= 1 << 16, "too many connections");
	for (long i = 0; i < count; i++)
		BOTH(fds[i] = connect_to(SOCK_STREAM, ports.tcp, 0), fds[i] = check_fd(accept(listener, 0, 0)));
	if (!is_client)
		WAIT();
	for (long i = 0; i < count; i++)
		RETURNS(0, close(fds[i]));
	BOTH(NOTIFY(), NOTHING);
}

/* `fds` are two sockets of the client, the second connected, or three of the server. */
static void do_udp(const int *fds)
{
	struct sockaddr_in6 name = udp_names[0], same[3] = { name, name, name };
	struct sockaddr_in discard = { .sin_family = AF_INET, .sin_port = htons(9) };
	int other = check_fd(socket(AF_INET, SOCK_DGRAM, 0));
	socklen_t size = sizeof(name);

	EACH("udp_send", RETURNS(101, send(fds[1], data, 101, 0)),
	     RETURNS(101, recvfrom(fds[0], data, 4096, 0, &name, &size)));
	EACH("udp_sendto", RETURNS(103, sendto(fds[0], data, 103, 0, &name, address_size)),
	     RETURNS(103, recvfrom(fds[0], data, 4096, 0, &name, &size)));
	EACH("udp_sendmsg", RETURNS(107, sendmsg(fds[0], &messages(107, same)->msg_hdr, 0)),
	     RETURNS(107, recvmsg(fds[0], &messages(4096, same)->msg_hdr, 0)));
	EACH("udp_sendmmsg", do_many(fds[0], 3, 109, udp_names),
	     for (int i = 0; i < 3; i++) do_many(fds[i], 1, 109, udp_names));
	EACH("udp_recvmmsg", do_many(fds[0], 3, 139, same), do_many(fds[0], 3, 139, same));
	EACH("udp_write", RETURNS(113, write(fds[1], data, 113)), RETURNS(113, read(fds[0], data, 4096)));
	EACH("udp_recv_unnamed", RETURNS(127, sendto(fds[0], data, 127, 0, &name, address_size)),
	     RETURNS(127, recv(fds[0], data, 4096, 0)));
	EACH("udp_peek", RETURNS(131, sendto(fds[0], data, 131, 0, &name, address_size)),
	     RETURNS(131, recvfrom(fds[0], data, 4096, MSG_PEEK, &name, &size));
	     RETURNS(131, recvfrom(fds[0], data, 4096, 0, &name, &size)));
	EACH("udp_empty", RETURNS(0, sendto(fds[0], data, 0, 0, &name, address_size)),
	     RETURNS(0, recvfrom(fds[0], data, 4096, 0, &name, &size)));
	EACH("udp_eagain", NOTHING, FAILS(EAGAIN, recv(fds[0], data, 4096, MSG_DONTWAIT)));
	EACH("dest", discard.sin_addr.s_addr = htonl(0x7f010000 + left);
	     RETURNS(61, sendto(other, data, 61, 0, &discard, sizeof(discard))), NOTHING);
}

static void do_plan(void)
{
	const char *network = option(is_client ? "client_ns" : "server_ns");
	int listener = -1, fd, udp[3];

	if (network)
		check((fd = open(network, O_RDONLY)) >= 0 && !setns(fd, CLONE_NEWNET), network);
	if (is_client) {
		RETURNS(sizeof(ports), read(from_other, &ports, sizeof(ports)));
		for (int i = 0; i < 3; i++)
			udp_names[i] = address_of(ports.udp[i]);
		udp[0] = check_fd(socket(server_name.sin6_family, SOCK_DGRAM, 0));
		udp[1] = connect_to(SOCK_DGRAM, ports.udp[0], 0);
		fd = connect_to(SOCK_STREAM, ports.tcp, 0);
		/* Otherwise each message waits for the ACK of the previous one. */
		RETURNS(0, setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	} else {
		for (int i = 0; i < 3; i++)
			udp[i] = bind_any(SOCK_DGRAM, &ports.udp[i]);
		bind_any(SOCK_STREAM, &ports.refused);
		listener = bind_any(SOCK_STREAM, &ports.tcp);
		RETURNS(0, listen(listener, 128));
		RETURNS(sizeof(ports), write(to_other, &ports, sizeof(ports)));
		fd = check_fd(accept(listener, 0, 0));
	}
	do_tcp(fd);
	if (count_of("shared"))
		do_shared(fd);
	TIMES("tcp_connect") do_connections(listener, 1);
	do_connections(listener, count_of("hold"));
	EACH("tcp_refused", RETURNS(0, close(connect_to(SOCK_STREAM, ports.refused, ECONNREFUSED))), NOTHING);
	do_udp(udp);
	if (is_client && count_of("tcp_epipe"))
		RETURNS(0, shutdown(fd, SHUT_WR));
	EACH("tcp_epipe", FAILS(EPIPE, send(fd, data, 43, MSG_NOSIGNAL)), NOTHING);
	if (!is_client)
		WAIT();
	RETURNS(0, close(fd));
	BOTH(NOTIFY(), NOTHING);
}

int main(int argc, char **argv)
{
	int down[2], up[2], status;
	pid_t server, client = getpid();

	check(argc >= 2, "traffic ADDRESS KEY=COUNT ...");
	plan = argv + 2;
	server_name.sin6_family = strchr(argv[1], ':') ? AF_INET6 : AF_INET;
	address_size = server_name.sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(server_name);
	RETURNS(1, inet_pton(server_name.sin6_family, argv[1], server_name.sin6_family == AF_INET
		? (void *)&server_name.sin6_flowinfo : &server_name.sin6_addr));
	if (count_of("hold"))
		RETURNS(0, setrlimit(RLIMIT_NOFILE, &(struct rlimit){ count_of("hold") + 64, count_of("hold") + 64 }));
	check(!pipe(down) && !pipe(up), "pipe");
	server = fork();
	check(server >= 0, "fork");
	is_client = !!server;
	to_other = is_client ? down[1] : up[1];
	from_other = is_client ? up[0] : down[0];
	/* Neither side must wait for the other one if that has died. */
	RETURNS(0, is_client ? close(up[1]) : prctl(PR_SET_PDEATHSIG, SIGKILL));
	check(is_client || getppid() == client, "the client");
	do_plan();
	if (!is_client)
		return 0;
	check(waitpid(server, &status, 0) == server && !status, "the server");
	printf("client %d server %d tcp_port %d udp_port %d", client, server, ntohs(ports.tcp), ntohs(ports.udp[0]));
	if (count_of("udp_sendmmsg"))
		printf(" udp_port2 %d udp_port3 %d", ntohs(ports.udp[1]), ntohs(ports.udp[2]));
	if (count_of("tcp_refused"))
		printf(" refused_port %d", ntohs(ports.refused));
	if (child)
		printf(" child %d", child);
	printf("\n");
	return 0;
}
