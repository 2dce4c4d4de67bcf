package config

import (
	"fmt"
	"path"
)

// dataplane checks the keys of forwarding. Those of one back end mean nothing to the other.
func (v *validator) dataplane(r *rawDataplane) Dataplane {
	d := Dataplane{Kind: r.Kind.v, Device: r.Device.v, UplinkGrace: r.UplinkGrace.v, MTU: r.MTU.v, Sessions: r.Sessions.v, ReceiveOffload: r.ReceiveOffload.v, Hold: r.Hold.v}
	v.iface(&r.Device)
	for i := range r.Core.items {
		l := &r.Core.items[i]
		if _, err := path.Match(l.v, ""); err != nil {
			v.fail(l, fmt.Sprintf("%q is no pattern of interface names", l.v), `write a name or a pattern as in "eth*"`)
			continue
		}
		d.Core = append(d.Core, v.iface(l))
	}
	v.unique("interface", r.Core.items)
	d.ThroughStack = map[string]Switch{"on": On, "off": Off}[r.ThroughStack.v]
	if a := r.Attach.v; a == AttachTCX || a == AttachClsact {
		d.Attach = a
	}
	if d.Kind == PlaneUser {
		for _, k := range []struct {
			l    located
			name string
		}{{&r.Sessions, "sessions"}, {&r.ThroughStack, "through-stack"}, {&r.ReceiveOffload, "receive-offload"}, {&r.Hold, "hold"}, {&r.Attach, "attach"}} {
			if k.l.here().set {
				v.warn(k.l, UnusedSetting, "%s is for back end ebpf, and kind is user", k.name)
			}
		}
	}
	return d
}
