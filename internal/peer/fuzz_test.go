package peer

import (
	"testing"

	"kedge/internal/core"
	"kedge/internal/testpcap"
	"kedge/wire/mobility"
)

// FuzzMessages gives a correspondent two Mobility Headers from wherever, with a binding there and without: no panic, no more than one
// answer each, which can be written and is no longer than a Binding Error or a test's answer, and no binding that its node did not
// prove.
func FuzzMessages(f *testing.F) {
	seal := func(m mobility.Message) []byte {
		b, err := mobility.Append(nil, m, hoa, self)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	r := start(f)
	n := r.tested(hoa, coa)
	again := *n
	again.seq++
	off := again
	off.lifetime = 0
	bad := n.update()
	bad.Key[0] ^= 1
	f.Add(seal(n.update()), seal(again.update()), true)
	f.Add(seal(n.update()), seal(off.update()), true)
	f.Add(seal(bad), seal(n.update(mobility.AlternateCareOf{Addr: coa2})), true)
	f.Add(seal(&mobility.TestInit{}), seal(&mobility.TestInit{CareOf: true}), false)
	f.Add(seal(&mobility.Raw{MHType: 99, Data: make([]byte, 18)}), seal(&mobility.BindingError{Status: 1, Home: hoa}), false)
	for i, mh := range testpcap.MobilityHeaders(f, "../../testdata/vectors/umip-ro-all.pcap") {
		f.Add(mh.Bytes, seal(n.update()), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, home bool) {
		r := start(t)
		n := r.tested(hoa, coa)
		for _, b := range [][]byte{first, second} {
			p, src := direct(coa), coa
			if home {
				p, src = withHome(coa, hoa), hoa
			}
			if len(b) >= 8 { // a wrong checksum would end it all
				b = append([]byte(nil), b...)
				_ = mobility.SetChecksum(b, src, self)
			}
			body, err := mobility.Parse(b, src, self)
			ev := core.Message{Path: p, Raw: b, Err: err}
			if body != nil {
				ev.Body = body
			}
			if len(ops(r.handle(ev))) > 0 && !proves(b, n) {
				t.Errorf("%x made a session", b)
			}
			s := sends(r.last)
			if len(s) > 1 {
				t.Errorf("%d answers", len(s))
			}
			for _, m := range s {
				dst := m.Path.Remote.Addr()
				if m.Path.Home.IsValid() {
					dst = m.Path.Home
				}
				out, err := mobility.Append(nil, m.Body.(mobility.Message), self, dst)
				if err != nil || len(out) > 32 {
					t.Errorf("answer of %d octets: %v", len(out), err)
				}
			}
		}
	})
}

// proves says whether a message has an authenticator of this node's keys: the fuzzer has seeds of them.
func proves(b []byte, n *mobile) bool {
	for _, c := range []struct {
		key    []byte
		careOf bool
	}{{mobility.BindingKey(n.h.Token, n.c.Token), true}, {mobility.DeregistrationKey(n.h.Token), false}} {
		a := n.careOf
		if !c.careOf {
			a = n.home
		}
		if mobility.VerifyAuthorization(b, c.key, a, self) == nil {
			return true
		}
	}
	return false
}
