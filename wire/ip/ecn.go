package ip

// ECN codepoints: the low two bits of Type of Service and Traffic Class (RFC 3168 5).
const (
	NotECT = 0
	ECT1   = 1
	ECT0   = 2
	CE     = 3
)

// Encapsulate is the TOS of the outer header for an inner one: ECN in normal mode (RFC 6040 4.1), DSCP copied, the uniform
// model of RFC 2983 3.
func Encapsulate(inner uint8) (outer uint8) { return inner }

// Decapsulate is the TOS of the inner header after the outer one is gone: ECN as RFC 6040 figure 4, DSCP from the outer header
// (uniform model). ok is false where the packet must be dropped: CE on an inner packet that is not ECN-capable. odd marks the
// combinations that no known ingress makes, "(!!!)" and "(!)" in the figure.
func Decapsulate(inner, outer uint8) (tos uint8, ok, odd bool) {
	e := egress[inner&3][outer&3]
	return outer&^3 | e.out, !e.drop, e.odd
}

var egress = [4][4]struct {
	out       uint8
	drop, odd bool
}{
	NotECT: {NotECT: {out: NotECT}, ECT0: {out: NotECT, odd: true}, ECT1: {out: NotECT, odd: true}, CE: {out: NotECT, drop: true, odd: true}},
	ECT0:   {NotECT: {out: ECT0}, ECT0: {out: ECT0}, ECT1: {out: ECT1}, CE: {out: CE}},
	ECT1:   {NotECT: {out: ECT1}, ECT0: {out: ECT1, odd: true}, ECT1: {out: ECT1}, CE: {out: CE}},
	CE:     {NotECT: {out: CE}, ECT0: {out: CE}, ECT1: {out: CE, odd: true}, CE: {out: CE}},
}
