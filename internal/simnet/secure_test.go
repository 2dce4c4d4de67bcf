package simnet

import (
	"bytes"
	"net/netip"
	"time"

	"kedge/internal/ipsec"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/signal"
)

// A second subscriber of the home agent, with keys and home addresses of his own: nobody runs it but who attacks the first.
var (
	rogue6 = netip.MustParseAddr("2001:db8:2000::6")
	rogue4 = netip.MustParseAddr("10.30.0.6")
)

// Names of nodes as peers of the home agent, their home addresses, and the first SPI of their associations.
var protected = map[string]struct {
	home netip.Addr
	spi  uint32
}{"mn1": {mn6, 0x1001}, "mn2": {rogue6, 0x2001}}

func (r *roam) protection() string {
	if r.opt.protection == "" {
		return string(ipsec.None)
	}
	return string(r.opt.protection)
}

// codecOf makes the codec of a node's life: with the policy that the world has for it, and its keys.
func (r *roam) codecOf(name string) (*signal.Codec, error) {
	cfg := signal.Config{Mapped: true}
	var peers []ipsec.Peer
	if p, node := protected[name]; node {
		cfg.Homes = []netip.Addr{p.home}
		peers = []ipsec.Peer{r.peer(name, false)}
	} else {
		peers = []ipsec.Peer{r.peer("mn1", true), r.peer("mn2", true)}
	}
	if r.opt.protection == "" {
		return signal.NewCodec(cfg), nil
	}
	if r.numbers[name] == nil {
		r.numbers[name] = &ipsec.Volatile{}
	}
	e, err := ipsec.New(ipsec.Config{Peers: peers, Rand: r.entropy("vectors of "+name, r.serie)}, r.numbers[name])
	cfg.IPsec = e
	c := signal.NewCodec(cfg)
	if err == nil {
		r.tick(name, c, e)
	}
	return c, err
}

// tick has sequence numbers stored once a second, as the daemon does, while the node lives that has the codec.
func (r *roam) tick(name string, c *signal.Codec, e *ipsec.Engine) {
	r.After(time.Second, func() {
		for _, n := range r.Nodes() {
			if n.Name == name && n.Up() && n.codec == Codec(c) {
				if !n.frozen {
					e.Tick(n.Now())
				}
				r.tick(name, c, e)
			}
		}
	})
}

// peer is the policy between a node and the home agent, on either side.
func (r *roam) peer(name string, atHA bool) ipsec.Peer {
	n := protected[name]
	half := func(seed uint32) ipsec.Half {
		return ipsec.Half{Encryption: bytes.Repeat([]byte{byte(seed >> 8), byte(seed)}, 8), Integrity: bytes.Repeat([]byte{byte(seed), byte(seed >> 8)}, 16)}
	}
	sa := ipsec.SA{Use: ipsec.Signalling, SPIIn: n.spi, SPIOut: n.spi + 1, Keys: ipsec.Keys{Suite: "aes128-sha256", In: half(n.spi), Out: half(n.spi + 1)}}
	p := ipsec.Peer{Name: name, Homes: []netip.Addr{n.home}, Own: []netip.Addr{ha6}, Protection: r.opt.protection}
	if !atHA {
		p = ipsec.Peer{Name: "ha1", Addresses: []netip.Prefix{netip.PrefixFrom(ha6, 128)}, Own: []netip.Addr{n.home}, Protection: r.opt.protection}
		sa.SPIIn, sa.SPIOut, sa.Keys = sa.SPIOut, sa.SPIIn, sa.Keys.Swapped()
	}
	switch r.opt.protection {
	case ipsec.ESP:
		p.SAs = []ipsec.SA{sa}
	case ipsec.RFC4285:
		p.Mobility = rfc4285.Association{SPI: n.spi, Key: bytes.Repeat([]byte{byte(n.spi >> 8), byte(n.spi)}, rfc4285.KeySize/2)}
	}
	return p
}
