/*
 * For linux.uml on processors with more vector state than it was built for (AMX has 11,008 octets): preloaded, it keeps the whole
 * state of each of its tasks. Without it the host refuses PTRACE_SETREGSET of NT_X86_XSTATE with the shorter buffer of linux.uml
 * (EFAULT), and the kernel in the process cannot start a program. Elsewhere it changes nothing that can be seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	GETREGSET = 0x4204, SETREGSET = 0x4205, XSTATE = 0x202,
	AREA = 16384,   /* more than any processor has today */
	LEGACY = 512,   /* FXSAVE; the header of 64 octets follows, its first word says which parts are there */
	BASIC = 832,    /* with the header and AVX */
	TASKS = 4096,
};

/* One a task of linux.uml, found by the address of its own buffer. */
static struct state { void *key; unsigned len; unsigned char area[AREA]; } states[TASKS];

static long host(long request, long pid, void *addr, void *data) { return syscall(SYS_ptrace, request, pid, addr, data); }

static struct state *state_of(void *key)
{
	unsigned at = ((unsigned long)key >> 6) * 2654435761u % TASKS;
	for (int i = 0; i < TASKS; i++) {
		struct state *s = &states[(at + i) % TASKS];
		if (s->key == key || !s->key)
			return s;
	}
	return &states[at];
}

static long load(struct state *s, long pid, void *addr, struct iovec *user)
{
	struct iovec whole = { s->area, AREA };
	long r = host(GETREGSET, pid, addr, &whole);
	if (r < 0)
		return r;
	s->key = user->iov_base;
	s->len = whole.iov_len;
	if (user->iov_len > whole.iov_len)
		user->iov_len = whole.iov_len;
	memcpy(user->iov_base, s->area, user->iov_len);
	return r;
}

static long store(struct state *s, long pid, void *addr, struct iovec *user)
{
	unsigned long *header = (unsigned long *)(s->area + LEGACY);
	size_t n = user->iov_len;
	if (s->key != user->iov_base) {
		/* A new task: what the process of the host has now, and nothing but zeroes behind the basic part. */
		struct iovec whole = { s->area, AREA };
		long r = host(GETREGSET, pid, addr, &whole);
		if (r < 0)
			return r;
		s->key = user->iov_base;
		s->len = whole.iov_len;
		memset(s->area + BASIC, 0, AREA - BASIC);
		memcpy(s->area, user->iov_base, n < BASIC ? n : BASIC);
		header[0] &= 7; /* x87, SSE, AVX */
	} else {
		memcpy(s->area, user->iov_base, n < s->len ? n : s->len);
	}
	memset(header + 1, 0, 56); /* the standard format; reserved words must be 0 */
	struct iovec whole = { s->area, s->len };
	return host(SETREGSET, pid, addr, &whole);
}

long ptrace(int request, ...)
{
	va_list ap;
	va_start(ap, request);
	long pid = (int)va_arg(ap, long);
	void *addr = va_arg(ap, void *), *data = va_arg(ap, void *);
	va_end(ap);
	if ((long)addr == XSTATE && request == GETREGSET)
		return load(state_of(((struct iovec *)data)->iov_base), pid, addr, data);
	if ((long)addr == XSTATE && request == SETREGSET)
		return store(state_of(((struct iovec *)data)->iov_base), pid, addr, data);
	if (request >= 1 && request <= 3) { /* PEEK*: as in libc, the word is the result */
		long word, r = host(request, pid, addr, &word);
		if (r < 0)
			return r;
		errno = 0;
		return word;
	}
	return host(request, pid, addr, data);
}
