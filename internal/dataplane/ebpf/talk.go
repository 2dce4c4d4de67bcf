package ebpf

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// listen hands on whom a node's programs say that it exchanges packets with (user.Config.Correspondents). The packets themselves go
// on meanwhile; the engine, which sees the others, says nothing twice.
func (p *Plane) listen() error {
	r, err := ringbuf.NewReader(p.k.talks)
	if err != nil {
		return fmt.Errorf("data plane: whom the programs exchange packets with: %w", err)
	}
	p.talks = r
	p.done.Go(func() {
		var rec ringbuf.Record
		for {
			err := r.ReadInto(&rec)
			switch {
			case errors.Is(err, os.ErrClosed):
				return
			case err != nil || len(rec.RawSample) < int(unsafe.Sizeof(talk{})):
				continue
			}
			t := (*talk)(unsafe.Pointer(&rec.RawSample[0]))
			p.Talk(p.cfg.Now(), t.Pair.Own.netip(), t.Pair.Other.netip(), t.In != 0)
		}
	})
	return nil
}
