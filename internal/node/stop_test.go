package node

import (
	"testing"
	"time"

	"kedge/internal/core"
)

// TestStoppedStaysStopped: what the node has taken back stays so, also when links change after it, as the daemon hears while it ends.
func TestStoppedStaysStopped(t *testing.T) {
	r := newRig(t, nil)
	r.show(r.net(2, "2001:db8:51::5"))
	if !r.until(5*time.Second, r.ok) {
		t.Fatal(r.story())
	}
	if len(r.host) == 0 {
		t.Fatal("nothing was set on the host")
	}
	r.handle(core.Command{Ref: 7, Body: core.Stop{}})
	if !r.until(5*time.Second, func() bool { return r.m.state == stopped }) {
		t.Fatal(r.story())
	}
	if len(r.reply) != 1 || r.reply[0].Ref != 7 || r.reply[0].Err != nil {
		t.Errorf("replies %+v", r.reply)
	}
	r.show(r.net(2, "2001:db8:52::5"))
	r.run(time.Second)
	for _, op := range r.host {
		if op.Kind != "link" { // the device is the data plane's
			t.Errorf("left behind: %+v", op)
		}
	}
	if r.agent.bound() {
		t.Error("the home agent still has a binding")
	}
}
