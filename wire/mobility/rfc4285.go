package mobility

import "encoding/binary"

// Authentication is the Mobility Message Authentication option, RFC 4285 5. Read, the Authenticator aliases the message.
type Authentication struct {
	Subtype       uint8 // SubtypeMNHA, SubtypeMNAAA
	SPI           uint32
	Authenticator []byte
}

// Subtypes of Authentication, RFC 4285 5.1 and 5.2.
const (
	SubtypeMNHA  uint8 = 1
	SubtypeMNAAA uint8 = 2
)

func (Authentication) OptionType() OptionType { return OptAuthentication }

func (v Authentication) appendTLV(b []byte) []byte {
	b = append(b, byte(OptAuthentication), byte(5+len(v.Authenticator)), v.Subtype)
	return append(binary.BigEndian.AppendUint32(b, v.SPI), v.Authenticator...)
}

func decodeAuthentication(o Option) Authentication {
	return Authentication{Subtype: o.Data[0], SPI: binary.BigEndian.Uint32(o.Data[1:]), Authenticator: o.Data[5:]}
}

// Authentication reads the first such option.
func (o Options) Authentication() (Authentication, bool) {
	return read(o, OptAuthentication, decodeAuthentication)
}

// MessageID is the Mobility Message Replay Protection option, RFC 4285 6.
type MessageID struct{ Timestamp uint64 } // NTP format

func (MessageID) OptionType() OptionType { return OptMessageID }

func (v MessageID) appendTLV(b []byte) []byte { return appendTLV64(b, OptMessageID, v.Timestamp) }

func decodeMessageID(o Option) MessageID { return MessageID{binary.BigEndian.Uint64(o.Data)} }

// MessageID reads the first such option.
func (o Options) MessageID() (MessageID, bool) { return read(o, OptMessageID, decodeMessageID) }
