package system

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// ForwardRules names what netfilter of this network namespace does to packets that are only forwarded: chains of nftables with a rule,
// or that drop by default, and tables of the older iptables, which are there when they were ever used. None: there is nothing that a
// shorter way through the host would leave out. A kernel without netfilter has none.
func ForwardRules() ([]string, error) {
	var out []string
	for _, f := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + f)
		if err != nil {
			continue // it was not built, or nobody loaded it
		}
		for _, table := range strings.Fields(string(b)) {
			if name := "iptables " + table; !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return out, nil
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return out, nil
	}
	for _, c := range chains {
		if !forwards(c) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return out, fmt.Errorf("nftables: rules of %s: %w", c.Name, err)
		}
		if len(rules) > 0 || c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			out = append(out, "nftables "+c.Table.Name+" "+c.Name)
		}
	}
	return out, nil
}

// forwards reports whether a chain sees packets that are forwarded, as netfilter's hooks for them are.
func forwards(c *nftables.Chain) bool {
	if c.Hooknum == nil || c.Table == nil || strings.HasPrefix(c.Table.Name, "kedge-") {
		return false
	}
	switch c.Table.Family {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
	default:
		return false // links' own hooks come before the programs, or after them
	}
	return slices.Contains([]nftables.ChainHook{*nftables.ChainHookPrerouting, *nftables.ChainHookForward, *nftables.ChainHookPostrouting}, *c.Hooknum)
}
