package system

import (
	"os"
	"testing"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// TestHostOfThread: a host is the namespace of the thread that made it, whatever thread uses it afterwards.
func TestHostOfThread(t *testing.T) {
	const name, file = "net.ipv4.conf.lo.log_martians", "/proc/sys/net/ipv4/conf/lo/log_martians"
	before, err := os.ReadFile(file)
	must(t, err)
	ns := netns.Test(t, "thread")
	must(t, ns.Sysctl(name, "0"))
	var h *Host
	must(t, ns.Do(func() (err error) { h, err = NewHost(Options{}); return err }))
	defer h.Close()
	must(t, h.Apply([]core.HostOp{{Kind: "sysctl", Name: name, Value: "1"}}))
	if v, err := ns.GetSysctl(name); err != nil || v != "1" {
		t.Errorf("there: %q, %v", v, err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("here: %q, was %q; %v", after, before, err)
	}
}
