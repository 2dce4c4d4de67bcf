package signal

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Answer gives the message, for Out, that answers a packet which In refused with err, where its RFC wants one: a Binding Error for
// a home address that cannot be one (RFC 6275 9.3.1), and a Binding Acknowledgement with status MIPV6-AUTH-FAIL (RFC 4285 5.3).
// Whoever sends it limits how many; none is longer than its cause.
func (c *Codec) Answer(pkt []byte, outer core.Chain, err error) (core.Packet, bool) {
	var bad *wire.Error
	if !errors.As(err, &bad) || bad.ParameterProblem {
		return core.Packet{}, false
	}
	s, perr := ip.ParseSignal(pkt)
	p := core.Packet{Src: netip.AddrPortFrom(s.Dst, 0), Dst: netip.AddrPortFrom(s.Src, 0), Outer: outer}
	var m mobility.Message
	switch {
	case perr != nil && bad.Status == mobility.UnknownBinding && bad.Reason == wire.NotUnicast && outer.N == 0:
		if !ip.Routable(s.Src) || s.Dst.IsMulticast() {
			return p, false // RFC 6275 9.3.3
		}
		m = &mobility.BindingError{Status: mobility.UnknownBinding, Home: s.SrcHome}
	case perr == nil && bad.Reason == wire.AuthFailed && s.Proto == ip.Mobility && mobilityType(pkt[s.Off:]) == mobility.TypeBindingUpdate:
		p.DstHome, p.Auth.Kind = s.SrcHome, ipsec.KindRFC4285
		m = &mobility.BindingAck{Status: mobility.MIPv6AuthFail, Sequence: binary.BigEndian.Uint16(pkt[s.Off+6:])}
	default:
		return p, false
	}
	home := s.Src
	if p.DstHome.IsValid() {
		home = p.DstHome
	}
	p.B, perr = mobility.Append(nil, m, s.Dst, home)
	return p, perr == nil
}

const (
	answersPerSecond = 10
	answerBurst      = 10
)

var answerLimit = rate.PerSecond(answersPerSecond, answerBurst)

// limiter is the bucket of all answers of a port, whose goroutines share it.
type limiter struct {
	mu     sync.Mutex
	bucket rate.Bucket
}

func (l *limiter) take(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bucket.Take(now, answerLimit)
}
