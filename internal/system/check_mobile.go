package system

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"kedge/internal/nftmatch"
)

// mobile runs the checks of what mobile nodes, their home agents and protected signalling need.
func (n *Needs) mobile() []Finding {
	var out []Finding
	if n.Guarded || n.Node || n.HomeAgent || n.Peer {
		out = append(out, CheckNft())
	}
	if n.Node || n.HomeAgent {
		out = append(out, CheckUDP(udpPort))
	}
	if n.Node {
		out = append(out, CheckIPv6(), CheckReversePath(), CheckOptimistic())
		if !n.Anchor {
			out = append(out, CheckTUN())
		}
	}
	if n.Peer && !n.Anchor && !n.Node {
		out = append(out, CheckTUN())
	}
	return out
}

// udpPort carries signalling and data over IPv4 (RFC 5555 9).
const udpPort = 4191

// CheckNft asks the kernel to take a table as that of the "ip" port, which keeps it from answering packets that it does not know,
// and to delete it in the same transaction: nobody ever sees it. A kernel may have nf_tables, but not those of IPv6.
func CheckNft() Finding {
	f := Finding{Name: "nftables", Detail: "takes rules for IPv6", Feature: "Home Address options and type 2 routing headers, which the kernel refuses"}
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyIPv6)
	}
	if err != nil {
		err = &hinted{fmt.Errorf("nftables: %w", err), "modprobe nf_tables; in a container: let the host load it, and give CAP_NET_ADMIN"}
		return finding(f, err)
	}
	t := c.AddTable(&nftables.Table{Name: fmt.Sprintf("kedge-check-%d", os.Getpid()), Family: nftables.TableFamilyIPv6})
	chain := c.AddChain(&nftables.Chain{
		Name: "taken", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(nftmatch.Type2Routing(), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
	c.DelTable(t)
	if c.Flush() != nil { // it has an error for each of the messages
		err = &hinted{errors.New("nftables: the kernel takes no rules for IPv6"), nftmatch.Lacking}
	}
	return finding(f, err)
}

// CheckUDP binds a port and lets it go.
func CheckUDP(port int) Finding {
	f := Finding{Name: fmt.Sprintf("UDP port %d", port), Detail: "is free", Feature: "mobile nodes in IPv4 networks"}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return finding(f, err)
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	if errors.Is(err, syscall.EADDRINUSE) {
		f.Severity, f.Detail = Advice, "is in use"
		f.Do = fmt.Sprintf("nothing if that is this daemon, running; else end what `ss -ulnp sport = :%d` shows", port)
		return f
	}
	return finding(f, err)
}

// CheckIPv6 looks whether IPv6 is switched off on links. A node does without it on them: IPv4 carries both home addresses.
func CheckIPv6() Finding {
	f := Finding{Name: "net.ipv6.conf.all.disable_ipv6", Feature: "care-of addresses in IPv6 networks"}
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	f.Detail = "is " + strings.TrimSpace(string(b))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return finding(f, &hinted{errors.New("the kernel has no IPv6"), "boot it without ipv6.disable=1: home addresses are of IPv6 too"})
	case err != nil:
		return finding(f, err)
	case f.Detail == "is 1":
		f.Severity = Advice
		f.Do = "set it to 0 where networks with IPv6 are to be used; Kedge switches IPv6 on for its own device only"
	}
	return f
}

// CheckReversePath looks whether the kernel drops packets that come by another link than it would answer by.
func CheckReversePath() Finding {
	f := Finding{Name: "net.ipv4.conf.all.rp_filter", Feature: "two links at a time"}
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter")
	f.Detail = "is " + strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return finding(f, err)
	case f.Detail == "is 1":
		f.Severity = Advice
		f.Do = "write net.ipv4.conf.all.rp_filter = 2 to /etc/sysctl.d/kedge.conf: while the node changes links, packets come by the former one"
	}
	return f
}

// CheckOptimistic looks whether the kernel can use an address before it is known to be unique (RFC 4429).
func CheckOptimistic() Finding {
	f := Finding{Name: "optimistic addresses", Detail: "the kernel has them", Feature: "care-of addresses at once, not after a second"}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/all/optimistic_dad"); err != nil {
		f.Severity, f.Detail = Advice, "the kernel was built without CONFIG_IPV6_OPTIMISTIC_DAD"
		f.Do = "nothing: the node detects duplicates by itself while it uses the address"
	}
	return f
}
