package uml

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"kedge/internal/lab/tap"
	"kedge/internal/system/netns"
)

// recorder keeps the frames of a port of the guest's bridge, and puts such into it.
type recorder struct {
	s       *site
	out, in *tap.Socket // towards edge, towards the guest

	mu     sync.Mutex
	frames [][]byte
}

func (s *site) record() *recorder {
	s.Helper()
	r := &recorder{s: s}
	netns.Must(s, s.g.Wire.Do(func() (err error) {
		if r.out, err = tap.Open(s.port, tap.Options{Outgoing: true, Promisc: true}); err == nil {
			r.in, err = tap.Open("tap0", tap.Options{})
		}
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, tap.MaxFrame)
		for {
			n, _, err := r.out.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.frames = append(r.frames, bytes.Clone(buf[:n]))
			r.mu.Unlock()
		}
	}()
	s.Cleanup(func() {
		netns.Must(s, r.out.Close())
		netns.Must(s, r.in.Close())
		<-done
	})
	return r
}

// last waits for a frame of IPv6 between two addresses with a first extension header, and gives the last of those.
func (r *recorder) last(src, dst netip.Addr, next byte) (found []byte) {
	r.s.Helper()
	for end := time.Now().Add(patience / 6); time.Now().Before(end); <-time.After(time.Millisecond) {
		r.mu.Lock()
		for _, f := range slices.Backward(r.frames) {
			if len(f) > 54 && f[20] == next && bytes.Equal(f[22:38], src.AsSlice()) && bytes.Equal(f[38:54], dst.AsSlice()) {
				found = f
				break
			}
		}
		r.mu.Unlock()
		if found != nil {
			return found
		}
	}
	r.s.Fatalf("no packet from %v to %v with header %d on the wire", src, dst, next)
	return nil
}

// altered is a protected message, behind an extension header of 24 octets, with a sequence number that was never used: its integrity check
// value is wrong then.
func altered(f []byte) []byte {
	f = bytes.Clone(f)
	seq := f[14+40+24+4:]
	binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)+100)
	return f
}
