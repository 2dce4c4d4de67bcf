package simnet

import "encoding/binary"

// Signals reports whether the signalling port of an access link gets a frame: the same rule as the socket filter of
// package system.
func Signals(f []byte) bool {
	if len(f) < 14 {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		return true
	case 0x0800:
		if len(f) < 34 || binary.BigEndian.Uint16(f[20:])&0x3fff != 0 {
			return false
		}
		up := 14 + int(f[14]&15)*4
		switch f[23] {
		case 1:
			return len(f) > up && (f[up] == 8 || f[up] == 0)
		case 17:
			return len(f) > up+3 && binary.BigEndian.Uint16(f[up+2:]) == 67
		}
	case 0x86dd:
		if len(f) < 55 {
			return false
		}
		switch f[20] {
		case 58:
			t := f[54]
			return t == 128 || t == 129 || t == 131 || t == 132 || t >= 133 && t <= 137 || t == 143
		case 0:
			if len(f) < 56 || f[54] != 58 {
				return false
			}
			at := 54 + int(f[55])*8 + 8
			return len(f) > at && (f[at] == 131 || f[at] == 132 || f[at] == 143)
		}
	}
	return false
}
