package system

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/nftmatch"
	wireip "kedge/wire/ip"
	"kedge/wire/nd"
)

// tapTable is the nftables table that drops, in the input hook, what the tap takes:
//
//	table ip6 kedge-107 {
//		set local { type ipv6_addr; elements = { ... } }     # only where Options.Local names addresses
//		chain taken {
//			type filter hook input priority raw;
//			ip6 daddr @local rt type 2 drop
//			ip6 daddr @local <first destination option is 0xc9> meta l4proto { 50, 135 } drop
//			ip6 daddr @local <first destination option is 0xc9> icmpv6 type 146 drop   # of who answers it
//		}
//	}
//
// Its name carries the host's tag. It is put back when somebody flushes all rules, as firewalls do when they are loaded anew.
type tapTable struct {
	h     *Host
	name  string
	conn  *nftables.Conn
	watch *descriptor
	done  chan struct{}

	// solicited: Mobile Prefix Solicitations are for who answers them alone.
	solicited bool

	mu     sync.Mutex
	local  []netip.Addr
	rules  int
	closed bool
}

func tapName(tag uint8) string { return fmt.Sprintf("kedge-%d", tag) }

// openTapTable makes the table; one that an earlier run left is replaced.
func (h *Host) openTapTable() (*tapTable, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	t := &tapTable{h: h, name: tapName(h.opt.Tag), conn: conn, done: make(chan struct{}),
		solicited: slices.Contains(h.opt.ICMPv6, nd.TypeMobilePrefixSolicitation)}
	if err := t.install(h.opt.Local); err != nil {
		_ = conn.CloseLasting()
		return nil, err
	}
	fd, err := subscribeTo(unix.NETLINK_NETFILTER, 256<<10, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, errors.Join(err, t.remove())
	}
	t.watch = newDescriptor(fd, "nftables")
	h.mu.Lock()
	h.taps++
	h.mu.Unlock()
	go t.follow()
	return t, nil
}

// install makes the table anew, for packets to local, or to every address of the host if there is none. All at once: no packet
// finds it missing.
func (t *tapTable) install(local []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	t.local = local
	return t.put()
}

// put is install with t.mu held.
func (t *tapTable) put() error {
	table := &nftables.Table{Name: t.name, Family: nftables.TableFamilyIPv6}
	t.conn.AddTable(table) // so that there is one to delete
	t.conn.DelTable(table)
	t.conn.AddTable(table)
	var to []expr.Any
	if len(t.local) > 0 {
		var err error
		if to, err = nftmatch.Among(t.conn, table, "local", nftmatch.Destination, t.local); err != nil {
			return err
		}
	}
	chain := t.conn.AddChain(&nftables.Chain{
		Name: "taken", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
	})
	t.rules = 0
	add := func(match ...expr.Any) {
		es := append(append([]expr.Any{}, match...), to...)
		t.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(es, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
		t.rules++
	}
	add(nftmatch.Type2Routing()...)
	for _, home := range nftmatch.HomeAddress() {
		for _, proto := range []byte{wireip.ESP, wireip.Mobility} {
			add(slices.Concat(home, nftmatch.Upper(proto))...)
		}
		if !t.solicited {
			continue
		}
		add(slices.Concat(home, nftmatch.ICMPv6(nd.TypeMobilePrefixSolicitation))...)
	}
	if err := t.conn.Flush(); err != nil {
		return &hinted{nftmatch.Refused(err), nftmatch.Lacking}
	}
	return nil
}

// follow puts the table back when it is gone or not whole.
func (t *tapTable) follow() {
	defer close(t.done)
	buf := make([]byte, 64<<10)
	for {
		if _, err := receive(t.watch, buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // closed
		}
		t.mu.Lock()
		if !t.closed && !t.whole() {
			_ = t.put() // what fails now is tried again with the next change
		}
		t.mu.Unlock()
	}
}

// whole asks the kernel whether all rules are there. The changes that this port makes end up here as well.
func (t *tapTable) whole() bool {
	table := &nftables.Table{Name: t.name, Family: nftables.TableFamilyIPv6}
	rules, err := t.conn.GetRules(table, &nftables.Chain{Name: "taken", Table: table})
	return err == nil && len(rules) == t.rules
}

// remove deletes the table and closes the connection.
func (t *tapTable) remove() error {
	t.conn.DelTable(&nftables.Table{Name: t.name, Family: nftables.TableFamilyIPv6})
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// Close removes the table. It may be called more than once.
func (t *tapTable) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	err := t.remove()
	t.mu.Unlock()
	t.h.mu.Lock()
	t.h.taps--
	t.h.mu.Unlock()
	t.watch.Close()
	<-t.done
	return err
}

// sweepTap removes the table of an earlier run that no port of this Host replaced. h.mu is held.
func (h *Host) sweepTap(remove func(core.HostOp, error)) {
	if h.taps > 0 {
		return
	}
	op := core.HostOp{Kind: "ip port", Del: true, Name: tapName(h.opt.Tag)}
	err := h.inside(func() error {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return err
		}
		defer conn.CloseLasting()
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv6)
		if err != nil {
			return nil // a kernel without nf_tables has none
		}
		for _, t := range tables {
			if t.Name == op.Name {
				conn.DelTable(t)
				if err := conn.Flush(); err != nil {
					return fmt.Errorf("nftables: %w", err)
				}
				remove(op, nil)
			}
		}
		return nil
	})
	if err != nil {
		remove(op, err)
	}
}
