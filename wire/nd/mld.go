package nd

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// Multicast address record types (RFC 3810 5.2.12).
const (
	ModeIsInclude        uint8 = 1
	ModeIsExclude        uint8 = 2
	ChangeToIncludeMode  uint8 = 3
	ChangeToExcludeMode  uint8 = 4
	AllowNewSources      uint8 = 5
	BlockOldSources      uint8 = 6
	maxRecords                 = 256  // of one report; more is too-many-options
	maxSources                 = 1024 // of one record
	mldAddrLen                 = 16
	mldRecordHeaderLen         = 20
	mldQueryMinLen             = 20 // behind the checksum; MLDv2 has 4 more
	mldQueryV2FixedExtra       = 4
)

// MLDReport is a version 1 Report or Done (RFC 2710) or a version 2 Report (RFC 3810). A version 1 message has one record
// without type and sources.
type MLDReport struct {
	Version int
	Done    bool
	Records []MLDRecord
}

// MLDRecord is a multicast address record.
type MLDRecord struct {
	Type    uint8
	Group   netip.Addr
	Sources []netip.Addr
}

func (m *MLDReport) icmp() uint8 {
	switch {
	case m.Version == 2:
		return TypeMLDv2Report
	case m.Done:
		return TypeMLDDone
	}
	return TypeMLDv1Report
}

func (m *MLDReport) append(b []byte) ([]byte, error) {
	if m.Version != 2 {
		if len(m.Records) != 1 {
			return b, fault(m.icmp(), "records", 0, "RFC 2710 3", wire.BadLength)
		}
		return appendAddr(append(b, 0, 0, 0, 0), m.icmp(), "multicast address", m.Records[0].Group)
	}
	if len(m.Records) > maxRecords {
		return b, fault(m.icmp(), "records", 0, "RFC 3810 5.2", wire.TooManyOptions)
	}
	b = binary.BigEndian.AppendUint16(append(b, 0, 0), uint16(len(m.Records)))
	var err error
	for _, r := range m.Records {
		if len(r.Sources) > maxSources {
			return b, fault(m.icmp(), "sources", 0, "RFC 3810 5.2", wire.TooManyOptions)
		}
		b = binary.BigEndian.AppendUint16(append(b, r.Type, 0), uint16(len(r.Sources)))
		if b, err = appendAddr(b, m.icmp(), "multicast address", r.Group); err != nil {
			return b, err
		}
		for _, s := range r.Sources {
			if b, err = appendAddr(b, m.icmp(), "source address", s); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

func (m *MLDReport) parse(b []byte, _ Envelope) error {
	if m.Version != 2 {
		if len(b) < mldQueryMinLen {
			return fault(m.icmp(), "message", 4+len(b), "RFC 2710 3", wire.Truncated)
		}
		g := netip.AddrFrom16([16]byte(b[4:20]))
		if !g.IsMulticast() {
			return fault(m.icmp(), "multicast address", 8, "RFC 2710 3.6", wire.BadValue)
		}
		m.Records = []MLDRecord{{Group: g}}
		return nil
	}
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 3810 5.2", wire.Truncated)
	}
	n, off := int(binary.BigEndian.Uint16(b[2:4])), 8
	if n > maxRecords {
		return fault(m.icmp(), "records", 6, "RFC 3810 5.2", wire.TooManyOptions)
	}
	b = b[4:]
	for range n {
		if len(b) < mldRecordHeaderLen {
			return fault(m.icmp(), "multicast address record", off, "RFC 3810 5.2", wire.Truncated)
		}
		sources := int(binary.BigEndian.Uint16(b[2:4]))
		if sources > maxSources {
			return fault(m.icmp(), "number of sources", off+2, "RFC 3810 5.2", wire.TooManyOptions)
		}
		size := mldRecordHeaderLen + mldAddrLen*sources + 4*int(b[1])
		if len(b) < size {
			return fault(m.icmp(), "multicast address record", off, "RFC 3810 5.2", wire.Truncated)
		}
		r := MLDRecord{Type: b[0], Group: netip.AddrFrom16([16]byte(b[4:20]))}
		if !r.Group.IsMulticast() {
			return fault(m.icmp(), "multicast address", off+4, "RFC 3810 5.2.13", wire.BadValue)
		}
		for i := range sources {
			at := mldRecordHeaderLen + mldAddrLen*i
			r.Sources = append(r.Sources, netip.AddrFrom16([16]byte(b[at:at+mldAddrLen])))
		}
		m.Records = append(m.Records, r)
		b, off = b[size:], off+size
	}
	return nil
}

// MLDQuery is a Multicast Listener Query (RFC 2710 3, RFC 3810 5.1). MaxDelay is in milliseconds. Version 2 adds
// robustness and interval (QQIC, seconds below 128); its sources are neither read nor written.
type MLDQuery struct {
	Version    int
	MaxDelay   uint16
	Group      netip.Addr // unspecified: a general query
	Suppress   bool
	Robustness uint8
	Interval   uint8
}

func (*MLDQuery) icmp() uint8 { return TypeMLDQuery }

func (m *MLDQuery) append(b []byte) ([]byte, error) {
	b = append(binary.BigEndian.AppendUint16(b, m.MaxDelay), 0, 0)
	b, err := appendAddr(b, m.icmp(), "multicast address", m.Group)
	if err != nil || m.Version != 2 {
		return b, err
	}
	flags := m.Robustness & 7
	if m.Suppress {
		flags |= 8
	}
	return append(b, flags, m.Interval, 0, 0), nil
}

func (m *MLDQuery) parse(b []byte, _ Envelope) error {
	if len(b) < mldQueryMinLen {
		return fault(m.icmp(), "message", 4+len(b), "RFC 3810 5.1", wire.Truncated)
	}
	m.Version, m.MaxDelay = 1, binary.BigEndian.Uint16(b[0:2])
	m.Group = netip.AddrFrom16([16]byte(b[4:20]))
	if len(b) == mldQueryMinLen {
		return nil
	}
	// Lengths between those of both versions are of neither (RFC 3810 8.1).
	if len(b) < mldQueryMinLen+mldQueryV2FixedExtra {
		return fault(m.icmp(), "message", 4+len(b), "RFC 3810 8.1", wire.BadLength)
	}
	m.Version, m.Suppress, m.Robustness, m.Interval = 2, b[20]&8 != 0, b[20]&7, b[21]
	return nil
}
