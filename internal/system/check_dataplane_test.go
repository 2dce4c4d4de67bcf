package system

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// TestCheckForwarding: this kernel has it all, and what a kernel has not is advice that says why.
func TestCheckForwarding(t *testing.T) {
	ns := netns.Test(t, "check")
	var all []Finding
	netns.Must(t, ns.Do(func() error { all = CheckForwarding(); return nil }))
	if len(all) != 4 {
		t.Fatalf("%d findings", len(all))
	}
	for _, f := range all {
		if f.Severity != Fine || f.Detail == "" || f.Feature == "" {
			t.Errorf("%+v", f)
		}
	}
	f := CheckUDPOffload("UDP_NONE", 9999, 1, "99.0", "nothing")
	if f.Severity != Advice || !strings.Contains(f.Detail, "Linux 99.0") || f.Do == "" {
		t.Errorf("an option that there is not: %+v", f)
	}
	// Whoever may not make devices hears so, and it keeps nothing from starting.
	if f := slower(Finding{Name: "x"}, unix.EPERM, "do it"); f.Severity != Advice || f.Do != "do it" {
		t.Errorf("%+v", f)
	}
}

// TestForwardRules: rules count where packets are forwarded, and nowhere else; Kedge's own do not.
func TestForwardRules(t *testing.T) {
	ns := netns.Test(t, "rules")
	look := func() (rules []string) {
		t.Helper()
		netns.Must(t, ns.Do(func() (err error) { rules, err = ForwardRules(); return err }))
		return rules
	}
	nft := func(cmd string) {
		t.Helper()
		_, err := ns.Run(t.Context(), "nft", strings.Fields(cmd)...)
		netns.Must(t, err)
	}
	for _, c := range []struct{ do, want string }{
		{"list ruleset", ""},
		{"add table inet f", ""},
		{"add chain inet f in { type filter hook input priority 0 ; policy drop ; }", ""},
		{"add rule inet f in counter", ""},
		{"add chain inet f plain", ""},
		{"add rule inet f plain counter", ""},
		{"add table ip6 kedge-107", ""},
		{"add chain ip6 kedge-107 taken { type filter hook forward priority 0 ; }", ""},
		{"add rule ip6 kedge-107 taken counter", ""},
		{"add table bridge b", ""},
		{"add chain bridge b onward { type filter hook forward priority 0 ; policy drop ; }", ""},
		{"add chain inet f onward { type filter hook forward priority 0 ; }", ""},
		{"add rule inet f onward counter", "nftables f onward"},
		{"flush chain inet f onward", ""},
		{"add chain inet f strict { type filter hook forward priority 1 ; policy drop ; }", "nftables f strict"},
		{"delete table inet f", ""},
		{"add table ip nat", ""},
		{"add chain ip nat post { type nat hook postrouting priority 100 ; }", ""},
		{"add rule ip nat post masquerade", "nftables nat post"},
		{"flush ruleset", ""},
		{"add table ip raw", ""},
		{"add chain ip raw pre { type filter hook prerouting priority -300 ; }", ""},
		{"add rule ip raw pre notrack", "nftables raw pre"},
	} {
		nft(c.do)
		if got := strings.Join(look(), ", "); got != c.want {
			t.Errorf("after %q: %q, want %q", c.do, got, c.want)
		}
	}
}
