// Package ladder reads captured frames and draws the signalling of a mobile domain as ladder diagrams, in terminal text and
// SVG, after the manner of figures 2 and 3 of draft-ietf-netlmm-pmip6-ipv4-support-02: a lane for each node, a numbered
// line for each message, with its time. It shows what was on the wire, so it knows nothing of the daemon's insides.
package ladder

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/mobility"
)

// Frame is one decoded frame of a link.
type Frame struct {
	At       time.Time
	Link     string
	Src, Dst core.MAC
	From, To netip.Addr // outermost IP addresses, invalid for ARP without
	Kind     string     // PBU PBA BU BA ESP HEARTBEAT MH DHCP RS RA NS NA MLD ARP ECHO KEEPALIVE DATA
	Label    string     // for people: "PBU seq 3, lifetime 8s, v4 0.0.0.0"
	Short    string     // stable name for order conditions: "PBU", "PBU (dereg)", "DHCP Discover"
	ID       string     // MN-Identifier, of PBU and PBA
	Host     core.MAC   // the host that it is about: link-layer identifier, DHCP chaddr
	Response bool       // heartbeat
	Tunnel   bool       // data inside a tunnel
	InnerSrc netip.Addr // of data
	InnerDst netip.Addr
	Octets   int
	ESP      bool      // signalling that was protected, and opened with a known key
	Ports    [2]uint16 // of the datagram of RFC 5555 that carries it
	Straight bool      // between a care-of address and a correspondent, data or not: no home agent sees it
}

const (
	protoIPv4 = 4
	protoUDP  = 17
	protoIPv6 = 41
	protoESP  = 50
	protoICM6 = 58
	protoMH   = 135
)

func (f *Frame) arp(p []byte) bool {
	a, err := ether.ParseARP(p)
	if err != nil {
		return false
	}
	f.Kind, f.From, f.To, f.Host = "ARP", a.SenderIP, a.TargetIP, f.Src
	switch {
	case a.IsProbe():
		f.Label = fmt.Sprintf("ARP Probe %s", a.TargetIP)
	case a.IsAnnouncement():
		f.Label = fmt.Sprintf("ARP Announcement %s", a.TargetIP)
	case a.Op == 1:
		f.Label = fmt.Sprintf("ARP Request %s", a.TargetIP)
	default:
		f.Label = fmt.Sprintf("ARP Reply %s", a.SenderIP)
	}
	f.Short = strings.Join(strings.Fields(f.Label)[:2], " ")
	return true
}

// mh reads a Mobility Header between two addresses as upper layers see them.
func (f *Frame) mh(b []byte, src, dst netip.Addr) bool {
	m, err := mobility.Parse(b, src, dst)
	if err != nil && m == nil {
		f.Kind, f.Short, f.Label = "MH", "MH bad", "Mobility Header: "+err.Error()
		return true
	}
	o := m.GetOptions()
	if id, ok := o.MobileNodeID(); ok {
		f.ID = id.ID
	}
	if ll, ok := o.LinkLayerID(); ok && len(ll.ID) == 6 {
		f.Host = core.MAC(ll.ID)
	}
	switch m := m.(type) {
	case *mobility.BindingUpdate:
		f.Kind = "PBU"
		if m.Flags&mobility.BUProxy == 0 {
			f.Kind = "BU"
		}
		f.Short = f.Kind
		life := time.Duration(m.Lifetime) * mobility.LifetimeUnit
		if m.Lifetime == 0 {
			f.Short += " (dereg)"
		}
		f.Label = fmt.Sprintf("%s seq %d, lifetime %v%s", f.Short, m.Sequence, life, wants(o))
		if hi, ok := o.HandoffIndicator(); ok {
			f.Label += fmt.Sprintf(", HI %d", hi.Value)
		}
		if f.Kind == "BU" {
			f.Label += careOf(m.Flags, o)
		}
	case *mobility.BindingAck:
		f.Kind = "PBA"
		if m.Flags&mobility.BAProxy == 0 {
			f.Kind = "BA"
		}
		f.Short = f.Kind
		f.Label = fmt.Sprintf("%s seq %d, lifetime %v%s", f.Kind, m.Sequence, time.Duration(m.Lifetime)*mobility.LifetimeUnit, wants(o))
		if !m.Status.Accepted() {
			f.Short = fmt.Sprintf("%s (%d)", f.Kind, uint8(m.Status))
			f.Label = fmt.Sprintf("%s seq %d refused: %d %s", f.Kind, m.Sequence, uint8(m.Status), m.Status)
		}
	case *mobility.Heartbeat:
		f.Kind, f.Short, f.Response = "HEARTBEAT", "Heartbeat", m.Response
		if m.Response {
			f.Short = "Heartbeat Response"
		}
		f.Label = fmt.Sprintf("%s seq %d", f.Short, m.Sequence)
		if rc, ok := o.RestartCounter(); ok {
			f.Label += fmt.Sprintf(", restart counter %d", rc.Value)
		}
	case *mobility.Revocation:
		f.Kind, f.Short = "MH", "BRI"
		f.Label = fmt.Sprintf("BRI seq %d, trigger %d%s", m.Sequence, m.Code, wants(o))
		if m.Ack {
			f.Short = "BRA"
			f.Label = fmt.Sprintf("BRA seq %d", m.Sequence)
			if m.Code >= 128 {
				f.Short = fmt.Sprintf("BRA (%d)", m.Code)
				f.Label += fmt.Sprintf(" refused: %d", m.Code)
			}
		}
	case *mobility.BindingError:
		f.Kind, f.Short = "MH", "Binding Error"
		f.Label = fmt.Sprintf("Binding Error %d %s", m.Status, m.Home.Unmap())
	default:
		f.Kind, f.Short = "MH", m.Type().String()
		f.Label = f.Short
	}
	return true
}

// wants lists the addresses in a registration or its answer.
func wants(o mobility.Options) string {
	var s []string
	for p := range o.HomeNetworkPrefixes() {
		s = append(s, p.String())
	}
	if a, ok := o.IPv4HomeAddressRequest(); ok {
		s = append(s, a.Addr.String())
	}
	if a, ok := o.IPv4HomeAddressReply(); ok {
		s = append(s, fmt.Sprintf("%s/%d", a.Addr, a.PrefixLen))
	}
	for a := range o.IPv4HomeAddresses() {
		s = append(s, a.Addr.String()+short(a.Short))
	}
	for a := range o.IPv4AddressAcks() {
		text := fmt.Sprintf("%s/%d%s", a.Addr, a.PrefixLen, short(a.Short))
		if !a.Status.Success() {
			text = fmt.Sprintf("%s refused: %d%s", a.Addr, a.Status, short(a.Short))
		}
		s = append(s, text)
	}
	if n, ok := o.NATDetection(); ok {
		text := "NAT"
		switch {
		case n.F && n.Refresh == ^uint32(0):
			text = "UDP forced"
		case n.Refresh == ^uint32(0):
			text = "no NAT"
		}
		s = append(s, text)
	}
	if len(s) == 0 {
		return ""
	}
	return ", " + strings.Join(s, " ")
}

// short names the layout of draft-soliman-v4v6-mipv6-00.
func short(literal uint8) string {
	if literal != 0 {
		return " (short form)"
	}
	return ""
}

// careOf says what a node asks for: where it is by IPv4, and whether UDP is forced.
func careOf(flags mobility.BUFlags, o mobility.Options) (text string) {
	if a, ok := o.IPv4CareOf(); ok {
		text += ", at " + a.Addr.String()
	} else if a, ok := o.AlternateCareOf(); ok {
		text += ", at " + a.Addr.String()
	}
	if flags&mobility.BUForceUDP != 0 {
		text += ", F"
	}
	return text
}

// neighbor reads what matters of ICMPv6; it reports false for echo and errors, which are data.
func (f *Frame) neighbor(b []byte) bool {
	f.Host = f.Src
	target := func() (a netip.Addr) {
		if len(b) >= 24 {
			a = netip.AddrFrom16([16]byte(b[8:24]))
		}
		return a
	}
	switch b[0] {
	case 133:
		f.Kind, f.Label = "RS", "Router Solicitation"
	case 134:
		f.Kind, f.Label, f.Host = "RA", "Router Advertisement", f.Dst
		var ps []string
		for o := b[min(16, len(b)):]; len(o) >= 8 && o[1] > 0 && int(o[1])*8 <= len(o); o = o[int(o[1])*8:] {
			if o[0] == 3 && o[1] == 4 {
				p := netip.PrefixFrom(netip.AddrFrom16([16]byte(o[16:32])), int(min(o[2], 128)))
				life := binary.BigEndian.Uint32(o[4:])
				ps = append(ps, fmt.Sprintf("%s %ds", p, life))
			}
		}
		if len(ps) > 0 {
			f.Label += " (" + strings.Join(ps, ", ") + ")"
		}
		f.Short = "Router Advertisement"
		return true
	case 135:
		f.Kind, f.Label, f.Short = "NS", fmt.Sprintf("Neighbor Solicitation %s", target()), "Neighbor Solicitation"
		if f.From.IsUnspecified() {
			f.Label += " (DAD)"
		}
		return true
	case 136:
		f.Kind, f.Label, f.Short = "NA", fmt.Sprintf("Neighbor Advertisement %s", target()), "Neighbor Advertisement"
		return true
	case 130:
		f.Kind, f.Label = "MLD", "MLD Query"
	case 131, 143:
		f.Kind, f.Label = "MLD", "MLD Report"
	case 132:
		f.Kind, f.Label = "MLD", "MLD Done"
	default:
		f.Host = core.MAC{}
		return false
	}
	f.Short = f.Label
	return true
}

// discovery reads the messages of RFC 6275 6.5 to 6.8.
func (f *Frame) discovery(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	switch b[0] {
	case 144:
		f.Short = "DHAAD Request"
	case 145:
		f.Short = "DHAAD Reply"
	case 146:
		f.Short = "MPS"
	case 147:
		f.Short = "MPA"
	default:
		return false
	}
	f.Kind, f.Label = "DISCOVERY", fmt.Sprintf("%s %d", f.Short, binary.BigEndian.Uint16(b[4:]))
	if b[0] == 145 {
		f.Label += fmt.Sprintf(", %d home agents", (len(b)-8)/16)
	}
	return true
}

var dhcpTypes = []string{1: "Discover", 2: "Offer", 3: "Request", 4: "Decline", 5: "Ack", 6: "Nak", 7: "Release", 8: "Inform"}

// dhcp reads message type and addresses; the packet may be anything.
func (f *Frame) dhcp(b []byte) bool {
	if len(b) < 240 || [4]byte(b[236:240]) != [4]byte{99, 130, 83, 99} {
		return false
	}
	f.Kind = "DHCP"
	f.Host = core.MAC(b[28:34])
	addr := func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
	name := "BOOTP"
	ci, yi := addr(b[12:16]), addr(b[16:20])
	var extra []string
	if !ci.IsUnspecified() {
		extra = append(extra, "from "+ci.String())
	}
	if !yi.IsUnspecified() {
		extra = append(extra, yi.String())
	}
	for o := b[240:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			break
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == 53 && len(v) == 1 && int(v[0]) < len(dhcpTypes) && v[0] > 0:
			name = dhcpTypes[v[0]]
		case o[0] == 50 && len(v) == 4:
			extra = append(extra, "asks "+addr(v).String())
		case o[0] == 54 && len(v) == 4:
			extra = append(extra, "server "+addr(v).String())
		}
		o = o[2+int(o[1]):]
	}
	f.Short = "DHCP " + name
	f.Label = f.Short
	if len(extra) > 0 {
		f.Label += " (" + strings.Join(extra, ", ") + ")"
	}
	return true
}

// Is says whether the frame is of a kind that faults and conditions name: pbu, dhcp, ...; ipv4 and ipv6 mean data.
func (f *Frame) Is(kind string) bool {
	switch kind {
	case "all":
		return true
	case "mh":
		return slices.Contains([]string{"PBU", "PBA", "BU", "BA", "ESP", "HEARTBEAT", "MH", "DISCOVERY"}, f.Kind)
	case "udp4191":
		return f.Ports != [2]uint16{}
	case "ipv4":
		return f.Kind == "DATA" && f.InnerDst.Is4()
	case "direct":
		return f.Straight
	case "ipv6":
		return f.Kind == "DATA" && !f.InnerDst.Is4()
	}
	return strings.EqualFold(kind, f.Kind)
}
