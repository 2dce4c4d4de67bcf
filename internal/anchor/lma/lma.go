// Package lma holds the rules of a local mobility anchor as pure functions: how a Proxy Binding Update is read (RFC 5213
// 5.3.1, RFC 5844 3.1.2.1), which session it belongs to (RFC 5213 5.4.1, RFC 5844 3.1.2.7), whether it is in order (RFC
// 5213 5.5), and how the answer is made (RFC 5213 5.3.6, RFC 5844 3.1.2.6, draft-ietf-netlmm-pmip6-ipv4-support-02 3.3.2).
package lma

// Dialect is a format of the IPv4 options. A message is answered in its own.
type Dialect uint8

const (
	NoDialect Dialect = iota // no IPv4 option in the message
	RFC5844                  // options 36, 37, 38, 39
	Draft02                  // options 29, 30
)

// String is the dialect's name in the config.
func (d Dialect) String() string {
	switch d {
	case RFC5844:
		return "rfc5844"
	case Draft02:
		return "draft-pmip6-v4-02"
	}
	return "none"
}
