package ipsec_test

import (
	"bytes"
	"fmt"
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/ipsec"
)

// Data of a session in ESP with AES-128-GCM and extended sequence numbers, both ends of it. A plane gets the table as Security of
// its Config, and the session a chain whose layer names the handle; with ESPPort the ESP packet is in UDP. A key exchange gives
// keys like these; `kedge run` takes no static ones of AES-GCM (RFC 4106 2).
func ExampleData() {
	half := func(b byte) ipsec.Half { // 16 octets of key, 4 of salt (RFC 4106 8.1); different in each direction
		return ipsec.Half{Encryption: bytes.Repeat([]byte{b}, 20)}
	}
	keys := ipsec.Keys{Suite: "aes128-gcm", In: half(1), Out: half(2)}
	anchor, gateway := ipsec.NewData(ipsec.DataConfig{}, nil), ipsec.NewData(ipsec.DataConfig{}, nil)
	const up, down = ipsec.DataSPI | 0x101, ipsec.DataSPI | 0x102 // each chosen by who receives with it
	fmt.Println(
		anchor.Add(ipsec.DataSA{Handle: 1, Peer: "mag1", SPIIn: up, SPIOut: down, Keys: keys, Negotiated: true, ESN: true}),
		gateway.Add(ipsec.DataSA{Handle: 1, Peer: "lma1", SPIIn: down, SPIOut: up, Keys: keys.Swapped(), Negotiated: true, ESN: true}))

	// user.New(user.Config{Role: user.Anchor, Local: ..., Security: anchor}), and then for each session:
	local, remote := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.11")
	chain := core.Chain{N: 1, Layer: [2]core.Layer{{
		Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0), SA: 1,
		ESPPort: 4500, // or 0: protocol 50
	}}}
	fmt.Println(chain.Layer[0].SA, anchor.Overhead(1))

	inner := append([]byte{0x45, 0, 0, 21}, make([]byte, 17)...)
	esp, err := anchor.Seal(1, 4, inner, nil)
	fmt.Println(len(esp), err)
	sa, next, got, err := gateway.Open(0, netip.AddrPortFrom(remote, 4500), netip.AddrPortFrom(local, 4500), esp, nil)
	fmt.Println(sa, next, bytes.Equal(got, inner), err)
	// Output:
	// <nil> <nil>
	// 1 37
	// 56 <nil>
	// 1 4 true <nil>
}
