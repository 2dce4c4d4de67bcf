package ladder

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"kedge/wire/ether"
	"kedge/wire/ip"
)

// Decode reads a frame without any key.
func Decode(link string, at time.Time, b []byte) (Frame, bool) { return Keys(nil).Decode(link, at, b) }

// Decode reads a frame. It reports false for what no ladder shows: broken frames, other protocols.
func (k Keys) Decode(link string, at time.Time, b []byte) (Frame, bool) {
	h, p, err := ether.ParseHeader(b)
	if err != nil {
		return Frame{}, false
	}
	f := Frame{At: at, Link: link, Src: h.Src, Dst: h.Dst, Octets: len(b)}
	switch h.Type {
	case 0x0806:
		return f, f.arp(p)
	case 0x0800, 0x86dd:
		return f, f.ip(k, p)
	}
	return f, false
}

// Ports and identifiers by which signalling and the node's own echoes are known.
const (
	portDSMIP = 4191   // RFC 5555 9
	probeID   = 0x6b65 // of the echoes by which a node tries its tunnel
)

func (f *Frame) ip(k Keys, p []byte) bool {
	h, err := ip.Parse(p)
	if err != nil || h.Len > len(p) {
		return false
	}
	p = p[:h.Len]
	f.From, f.To = h.Src, h.Dst
	u, err := ip.FindUpper(p, &h)
	if err != nil {
		return false
	}
	body := p[u.Off:]
	if u.Fragment {
		f.data(h.Src, h.Dst, "")
		f.Tunnel = u.Proto == protoIPv4 || u.Proto == protoIPv6
		return true
	}
	outer := "IPv6"
	if h.Is4() {
		outer = "IPv4"
	}
	switch {
	case (u.Proto == protoMH || u.Proto == protoESP) && !h.Is4():
		return f.signal(k, p, "")
	case u.Proto == protoICM6 && !h.Is4() && len(body) >= 8 && (f.neighbor(body) || f.discovery(body)):
		return true
	case u.Proto == protoUDP && len(body) >= 8:
		src, dst := binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
		switch {
		case h.Is4() && (src == 67 || src == 68) && (dst == 67 || dst == 68):
			return f.dhcp(body[8:])
		case src == portDSMIP || dst == portDSMIP:
			f.Ports = [2]uint16{src, dst}
			return f.inner(k, body[8:], "UDP")
		}
	case u.Proto == protoIPv4 || u.Proto == protoIPv6:
		return f.inner(k, body, outer)
	}
	if !h.Is4() && u.Off != h.HdrLen && f.optimized(p) {
		return true
	}
	if !h.Dst.IsMulticast() && !h.Dst.IsLinkLocalUnicast() && h.Dst != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		f.data(h.Src, h.Dst, "")
		return true
	}
	return false
}

// inner reads what a tunnel carries: signalling, the node's echoes, data, or nothing at all, which keeps a NAT's mapping.
func (f *Frame) inner(k Keys, p []byte, outer string) bool {
	if len(p) == 0 {
		f.Kind, f.Short, f.Label = "KEEPALIVE", "keepalive", "keepalive in "+outer
		return true
	}
	in, err := ip.ParseQuoted(p)
	if err != nil {
		return false
	}
	if !in.Is4() && in.Len <= len(p) {
		u, err := ip.FindUpper(p, &in)
		if err == nil && !u.Fragment && (u.Proto == protoMH || u.Proto == protoESP) {
			return f.signal(k, p, outer)
		}
		if b := p[min(u.Off, len(p)):]; err == nil && u.Proto == protoICM6 && len(b) >= 8 && (b[0] == 128 || b[0] == 129) && binary.BigEndian.Uint16(b[4:]) == probeID {
			f.Kind, f.Short = "ECHO", map[byte]string{128: "Tunnel Echo", 129: "Tunnel Echo Reply"}[b[0]]
			f.InnerSrc, f.InnerDst, f.Label = in.Src, in.Dst, f.Short
			return true
		}
	}
	f.data(in.Src, in.Dst, outer)
	return true
}

// signal reads a packet of signalling: a Mobility Header, or ESP around one. outer says what carries it, "" = nothing.
func (f *Frame) signal(k Keys, p []byte, outer string) bool {
	s, err := ip.ParseSignal(p)
	if err != nil || s.Fragment || s.Off > s.Len || s.Len > len(p) {
		return false
	}
	src, dst := s.Ends()
	proto, body := s.Proto, p[s.Off:s.Len]
	var ways []string
	if proto == protoESP {
		next, in, ok := k.open(body)
		if ok && next == protoIPv6 { // a test of return routability in the tunnel to the home agent (RFC 3776 3.2)
			return f.within(k, in)
		}
		if ok && next == protoICM6 && f.discovery(in) {
			f.ESP, f.InnerSrc, f.InnerDst = true, src, dst
			f.Label += ", in ESP"
			return true
		}
		if !ok || next != protoMH {
			f.Kind, f.Short, f.Label = "ESP", "ESP", "ESP"
			if len(body) >= 4 {
				f.Label = fmt.Sprintf("ESP SPI %#x", binary.BigEndian.Uint32(body))
			}
			return true
		}
		f.ESP, body = true, in
		ways = append(ways, "in ESP")
	}
	switch outer {
	case "":
	case "UDP":
		ways = append(ways, fmt.Sprintf("over UDP %d > %d", f.Ports[0], f.Ports[1]))
	default:
		ways = append(ways, "over "+outer)
	}
	if !f.mh(body, src, dst) {
		return false
	}
	f.InnerSrc, f.InnerDst = src, dst
	f.Straight = outer == "" && !f.ESP && (s.SrcHome.IsValid() || s.DstHome.IsValid() || strings.HasPrefix(f.Short, "Care-of Test") || f.Short == "Binding Error")
	if len(ways) > 0 {
		f.Label += ", " + strings.Join(ways, " ")
	}
	return true
}

// within reads a packet of signalling that came in ESP in tunnel mode.
func (f *Frame) within(k Keys, p []byte) bool {
	s, err := ip.ParseSignal(p)
	if err != nil || s.Fragment || s.Off > s.Len || s.Len > len(p) || s.Proto != protoMH {
		f.Kind, f.Short, f.Label = "ESP", "ESP", "ESP in tunnel mode"
		return true
	}
	src, dst := s.Ends()
	if !f.mh(p[s.Off:s.Len], src, dst) {
		return false
	}
	f.ESP, f.InnerSrc, f.InnerDst = true, src, dst
	f.Label += ", in an ESP tunnel"
	return true
}

// optimized reads data that goes without a tunnel between a care-of address and a correspondent (RFC 6275 6.3, 6.4).
func (f *Frame) optimized(p []byte) bool {
	s, err := ip.ParseSignal(p)
	if err != nil || !s.SrcHome.IsValid() && !s.DstHome.IsValid() {
		return false
	}
	src, dst := s.Ends()
	f.data(src, dst, "")
	f.Straight, f.Short, f.Label = true, "IPv6 data direct", fmt.Sprintf("IPv6 data direct %s > %s", src, dst)
	return true
}

// data describes a packet of a user. outer is what carries it, "" = nothing.
func (f *Frame) data(src, dst netip.Addr, outer string) {
	f.Kind, f.Tunnel, f.InnerSrc, f.InnerDst = "DATA", outer != "", src, dst
	fam := "IPv6"
	if src.Is4() {
		fam = "IPv4"
	}
	f.Short = fam + " data"
	if outer != "" {
		f.Short = fam + "-in-" + outer + " data"
	}
	f.Label = fmt.Sprintf("%s %s > %s", f.Short, src, dst)
}
