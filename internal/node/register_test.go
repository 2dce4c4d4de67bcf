package node

import (
	"testing"
	"time"

	"kedge/internal/core"
)

const ms = time.Millisecond

func TestRegistersOverIPv6(t *testing.T) {
	r := newRig(t, nil)
	r.wantState(detached)
	r.show(r.net(1, "2001:db8:1::7"))
	r.wantState(registering)
	r.run(20 * ms)
	r.wantState(active)
	r.wantTimes(0)
	if !r.ok() {
		t.Fatalf("not in agreement: %s", r.story())
	}
	r.run(5 * time.Minute)
	r.wantTimes(0)
	r.run(4 * time.Minute)
	r.wantTimes(0, 480*time.Second)
	r.wantState(active)
}

var _ = core.Tick{}
