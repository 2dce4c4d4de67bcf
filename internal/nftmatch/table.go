package nftmatch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Table is an IPv6 table with one chain, "taken", in the input hook: what it drops the kernel refuses nobody, and what is only forwarded is
// not touched. It is put back when somebody flushes all rules, as firewalls do when they are loaded anew.
type Table struct {
	table *nftables.Table
	news  *os.File // netlink socket on changes of rules
	done  chan struct{}

	mu     sync.Mutex // guards what follows
	conn   *nftables.Conn
	fill   func(*Rules) error
	rules  int // -1: the kernel did not take them
	closed bool
}

// Rules are those of a table that is being made.
type Rules struct {
	conn  *nftables.Conn
	chain *nftables.Chain
	n     int
}

// Add appends a rule of expressions, which counts what it matches. An accept ends this table's chain only.
func (r *Rules) Add(verdict expr.VerdictKind, parts ...[]expr.Any) {
	all := append(slices.Concat(parts...), &expr.Counter{}, &expr.Verdict{Kind: verdict})
	r.conn.AddRule(&nftables.Rule{Table: r.chain.Table, Chain: r.chain, Exprs: all})
	r.n++
}

// Among adds a set of the IPv6 addresses among addrs, and matches packets whose address at an offset is in it.
func (r *Rules) Among(name string, offset uint32, addrs []netip.Addr) ([]expr.Any, error) {
	set, seen := &nftables.Set{Table: r.chain.Table, Name: name, KeyType: nftables.TypeIP6Addr}, map[netip.Addr]bool{}
	var elements []nftables.SetElement
	for _, a := range addrs {
		if a = a.WithZone(""); a.Is6() && !a.Is4In6() && !seen[a] {
			seen[a] = true
			elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	if err := r.conn.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 16},
		&expr.Lookup{SourceRegister: 1, SetName: name, SetID: set.ID},
	}, nil
}

// Open makes a table in the network namespace of the thread, with the rules that fill adds. One that an earlier process left is replaced.
func Open(name string, fill func(*Rules) error) (*Table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, Refused(err)
	}
	t := &Table{table: &nftables.Table{Name: name, Family: nftables.TableFamilyIPv6}, conn: conn, done: make(chan struct{})}
	if err := t.Put(fill); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	if t.news, err = changes(); err != nil {
		return nil, errors.Join(err, t.remove())
	}
	go t.follow()
	return t, nil
}

// changes opens a socket that hears of changes of nftables.
func changes() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		f.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return f, nil
}

// Put makes the table anew, all at once: no packet finds it missing. What the kernel refuses it is offered again with the next change of any
// rules. It gives net.ErrClosed after Close.
func (t *Table) Put(fill func(*Rules) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	t.fill = fill
	return t.put()
}

// put is Put with t.mu held.
func (t *Table) put() error {
	t.rules = -1
	t.conn.AddTable(t.table) // so that there is one to delete
	t.conn.DelTable(t.table)
	t.conn.AddTable(t.table)
	r := &Rules{conn: t.conn, chain: t.conn.AddChain(&nftables.Chain{
		Name: "taken", Table: t.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
	})}
	if err := t.fill(r); err != nil {
		return err
	}
	if err := t.conn.Flush(); err != nil {
		return Refused(err)
	}
	t.rules = r.n
	return nil
}

// follow puts the table back when it is gone or not whole. What a message says does not matter: the kernel is asked.
func (t *Table) follow() {
	defer close(t.done)
	var buf [8192]byte
	for {
		if _, err := t.news.Read(buf[:]); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		t.mu.Lock()
		if !t.closed && !t.whole() {
			_ = t.put() // what fails now is tried again with the next change
		}
		t.mu.Unlock()
	}
}

// whole asks the kernel whether all rules are there. Changes that are our own end up here as well.
func (t *Table) whole() bool {
	rules, err := t.conn.GetRules(t.table, &nftables.Chain{Name: "taken", Table: t.table})
	return err == nil && len(rules) == t.rules
}

// Close removes the table. It may be called more than once.
func (t *Table) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	err := t.remove()
	t.mu.Unlock()
	t.news.Close()
	<-t.done
	return err
}

// remove deletes it and closes the connection.
func (t *Table) remove() error {
	t.conn.DelTable(t.table)
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// Sweep removes a table that an earlier process left, and says whether there was one.
func Sweep(name string) (found bool, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false, Refused(err)
	}
	defer conn.CloseLasting()
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv6)
	if err != nil {
		return false, nil // a kernel without nf_tables has none
	}
	for _, t := range tables {
		if t.Name == name {
			conn.DelTable(t)
			if err := conn.Flush(); err != nil {
				return false, Refused(err)
			}
			return true, nil
		}
	}
	return false, nil
}
