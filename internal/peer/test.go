package peer

import (
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// testInit answers a Home Test Init or Care-of Test Init, RFC 6275 9.4. Both go back to where they came from, whatever the cache
// says, and are as long as the answer but for the eight octets of the token: a flood of them is no larger elsewhere, and leaves
// nothing here.
func (m *Machine) testInit(p *core.Path, in *mobility.TestInit) {
	if p.Home.IsValid() {
		m.ignored(p, wire.HomeInTest, in.Type().String())
		return
	}
	g, err := m.nonces.current(m.now.Boot, m.rand)
	if err != nil {
		m.counts["failed-randomness"]++
		m.emit(core.Emit{Name: "failed", Why: "randomness", Fields: Fields{Err: err.Error()}})
		return
	}
	m.out = append(m.out, core.Send{Path: answering(p), Body: &mobility.Test{
		CareOf: in.CareOf, NonceIndex: g.index(), Cookie: in.Cookie, Token: g.token(p.Remote.Addr(), in.CareOf),
	}})
}

// answering is the way back of a message: the same tunnel and link, whoever vouched for it.
func answering(p *core.Path) core.Path {
	back := *p
	back.Auth = core.Auth{}
	return back
}
