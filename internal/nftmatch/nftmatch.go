// Package nftmatch keeps packets of Mobile IPv6 from the kernel's own stack, which would answer what it does not know: a table of nftables,
// and the expressions that find them.
package nftmatch

import (
	"errors"
	"fmt"

	"github.com/google/nftables/expr"

	"kedge/wire/ip"
)

// Lacking is what to do about a kernel that refuses a table.
const Lacking = "the kernel needs nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV6), the process CAP_NET_ADMIN"

// Refused is the error of a transaction with the first of its reasons: where a table is refused, each message that follows fails for
// want of it.
func Refused(err error) error { return fmt.Errorf("nftables: %w", firstOf(err)) }

func firstOf(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if all, ok := e.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) > 0 {
			return firstOf(all.Unwrap()[0])
		}
	}
	return err
}

// Offsets of the addresses in an IPv6 header.
const (
	Source      = 8
	Destination = 24
)

// Type2Routing matches a type 2 routing header (RFC 6275 6.4).
func Type2Routing() []expr.Any { return header(ip.Routing, 2, ip.RoutingType2) }

// HomeAddress matches a Home Address option (RFC 6275 6.3) in each place where its alignment may put it: at once, behind a PadN of
// four octets, and behind four Pad1 (RFC 8200 4.2).
func HomeAddress() [][]expr.Any {
	return [][]expr.Any{
		header(ip.DstOpts, 2, ip.OptHomeAddress),
		append(header(ip.DstOpts, 2, 1, 2), header(ip.DstOpts, 6, ip.OptHomeAddress)...),
		header(ip.DstOpts, 2, 0, 0, 0, 0, ip.OptHomeAddress),
	}
}

// Upper matches an upper-layer protocol.
func Upper(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// ICMPv6 matches a type of ICMPv6 messages, behind whatever extension headers.
func ICMPv6(kind byte) []expr.Any {
	return append(Upper(ip.ICMPv6),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}})
}

// header matches octets of the first extension header of a kind.
func header(kind uint8, off uint32, want ...byte) []expr.Any {
	return []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: kind, Offset: off, Len: uint32(len(want)), Op: expr.ExthdrOpIpv6},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}
