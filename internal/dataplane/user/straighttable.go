package user

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

	"kedge/internal/ipsec"
	"kedge/internal/nftmatch"
	"kedge/wire/ip"
)

// straightTable is the nftables table that drops, in the input hook, the data that straight takes:
//
//	table ip6 kedge-ro-mn0 {                        # with the name of the plane's device
//		chain taken {
//			type filter hook input priority raw;
//			meta l4proto 135 accept                 # signalling: whoever takes that keeps it from the kernel
//			meta l4proto 50 <SPI below 2^31> accept # at a node: ip6 saddr @anchors; not at a host that is a correspondent only
//			icmpv6 type { 146, 147 } accept         # prefix discovery
//			rt type 2 drop                          # at a node
//			ip6 daddr @local <first destination option is 0xc9> drop
//		}
//	}
//
// An accept ends this table's chain only. The table is put back when somebody flushes all rules.
type straightTable struct {
	table *nftables.Table
	make  func(*straightTable) error
	homes []netip.Addr // where Home Address options are taken
	news  *os.File     // netlink socket on changes of rules
	done  chan struct{}

	mu     sync.Mutex // guards what follows
	conn   *nftables.Conn
	rules  int
	closed bool
}

func openStraightTable(s *straight) (_ *straightTable, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("%w: %s", nftmatch.Refused(err), nftmatch.Lacking)
	}
	cfg := &s.plane.cfg
	t := &straightTable{table: straightName(cfg.Device), conn: conn, done: make(chan struct{})}
	t.homes = s.plane.HomeAddresses()
	t.make = func(t *straightTable) error {
		local := t.homes
		if cfg.Role == Anchor {
			local = cfg.Local // of which few have no session
		}
		return t.put(cfg, local)
	}
	if err := t.make(t); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	if t.news, err = ruleNews(); err != nil {
		close(t.done)
		return nil, errors.Join(err, t.close())
	}
	go t.follow()
	return t, nil
}

// sweepStraight removes a table that an earlier process of this device left, when it was killed.
func sweepStraight(device string) {
	conn, err := nftables.New()
	if err == nil {
		conn.DelTable(straightName(device))
		_ = conn.Flush() // mostly there is none
	}
}

func straightName(device string) *nftables.Table {
	return &nftables.Table{Name: "kedge-ro-" + device, Family: nftables.TableFamilyIPv6}
}

// ruleNews opens a socket that hears of changes of nftables.
func ruleNews() (*os.File, error) {
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

// put makes the table anew, all at once: no packet finds it missing. One that an earlier process left goes with it.
func (t *straightTable) put(cfg *Config, local []netip.Addr) error {
	c, node := t.conn, cfg.Role == Node
	c.AddTable(t.table) // so that there is one to delete
	c.DelTable(t.table)
	c.AddTable(t.table)
	chain := c.AddChain(&nftables.Chain{
		Name: "taken", Table: t.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
	})
	t.rules = 0
	add := func(verdict expr.VerdictKind, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: append(all, &expr.Counter{}, &expr.Verdict{Kind: verdict})})
		t.rules++
	}
	add(expr.VerdictAccept, nftmatch.Upper(ip.Mobility))
	add(expr.VerdictAccept, nftmatch.Upper(ip.ICMPv6), prefixDiscovery())
	if !cfg.Straight {
		signalling := append(nftmatch.Upper(ip.ESP),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{byte(ipsec.DataSPI >> 24)}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}})
		if node && len(cfg.Anchors) != 0 {
			from, err := nftmatch.Among(c, t.table, "anchors", nftmatch.Source, cfg.Anchors)
			if err != nil {
				return err
			}
			signalling = append(signalling, from...)
		}
		add(expr.VerdictAccept, signalling)
	}
	if node {
		add(expr.VerdictDrop, nftmatch.Type2Routing())
	}
	if len(local) != 0 {
		to, err := nftmatch.Among(c, t.table, "local", nftmatch.Destination, local)
		if err != nil {
			return err
		}
		for _, home := range nftmatch.HomeAddress() {
			add(expr.VerdictDrop, home, to)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%w: %s", nftmatch.Refused(err), nftmatch.Lacking)
	}
	return nil
}

// prefixDiscovery matches ICMPv6 types 146 and 147 (RFC 6275 6.7, 6.8), which differ in the last bit.
func prefixDiscovery() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0xfe}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{146}},
	}
}

// at says where a node takes Home Address options from now on.
func (t *straightTable) at(homes []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || slices.Equal(t.homes, homes) {
		return nil
	}
	t.homes = homes
	return t.make(t)
}

// follow puts the table back when it is gone or not whole. What a message says does not matter: the kernel is asked.
func (t *straightTable) follow() {
	defer close(t.done)
	var buf [8192]byte
	for {
		if _, err := t.news.Read(buf[:]); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		t.mu.Lock()
		if !t.closed && !t.whole() {
			_ = t.make(t) // what fails now is tried again with the next change
		}
		t.mu.Unlock()
	}
}

func (t *straightTable) whole() bool {
	rules, err := t.conn.GetRules(t.table, &nftables.Chain{Name: "taken", Table: t.table})
	return err == nil && len(rules) == t.rules
}

// close removes the table.
func (t *straightTable) close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return net.ErrClosed
	}
	t.closed = true
	t.conn.DelTable(t.table)
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	err = errors.Join(err, t.conn.CloseLasting())
	t.mu.Unlock()
	if t.news != nil {
		t.news.Close()
	}
	<-t.done
	return err
}
