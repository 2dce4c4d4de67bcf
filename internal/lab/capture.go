package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"kedge/internal/lab/tap"
	"kedge/internal/system/netns"
)

// capture writes the frames of one link to a pcap file with nanosecond times and shows them to the lab as they come.
type capture struct {
	link string
	file string
	see  func(link string, at time.Time, frame []byte)

	mu     sync.Mutex
	f      *os.File
	buf    *bufio.Writer
	w      *pcapgo.Writer
	frames int
	last   time.Time
	err    error
	hushed bool   // nothing is written
	missed uint32 // until it was hushed

	sock *tap.Socket
	wg   sync.WaitGroup
}

func newCapture(dir, link string, see func(string, time.Time, []byte)) (*capture, error) {
	c := &capture{link: link, file: filepath.Join(dir, link+".pcap"), see: see}
	var err error
	if c.f, err = os.Create(c.file); err != nil {
		return nil, err
	}
	c.buf = bufio.NewWriterSize(c.f, 1<<16)
	c.w = pcapgo.NewWriterNanos(c.buf)
	return c, c.w.WriteFileHeader(tap.MaxFrame, layers.LinkTypeEthernet)
}

// frame takes one frame; it does not keep it.
func (c *capture) frame(at time.Time, b []byte) {
	c.mu.Lock()
	if c.hushed {
		c.mu.Unlock()
		return
	}
	if c.f != nil {
		c.err = errors.Join(c.err, c.w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b), Length: len(b)}, b))
		c.frames++
		c.last = at
	}
	c.mu.Unlock()
	c.see(c.link, at, b)
}

// listen captures a bridge: in promiscuous mode it hands up everything that it forwards.
func (c *capture) listen(ns *netns.NS, ifname string) error {
	err := ns.Do(func() (err error) {
		c.sock, err = tap.Open(ifname, tap.Options{Promisc: true})
		return err
	})
	if err != nil {
		return err
	}
	c.wg.Go(func() {
		buf := make([]byte, tap.MaxFrame)
		for {
			n, at, err := c.sock.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.frame(at, buf[:n])
			}
		}
	})
	return nil
}

// hush ends the capture for a while, of what is too much: neither file nor lab see it.
func (c *capture) hush(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock != nil && c.hushed != on {
		if n := c.sock.Dropped(); on {
			c.missed += n
		}
	}
	c.hushed = on
}

// hush stops all captures while a bulk runs, or has them go on.
func (r *Run) hush(on bool) {
	for _, c := range r.captures {
		c.hush(on)
	}
}

// flush makes the file complete up to now.
func (c *capture) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f != nil {
		c.err = errors.Join(c.err, c.buf.Flush())
	}
}

// close ends the capture. It fails if frames could not be written, or were too many to be read.
func (c *capture) close() error {
	missed := c.missed
	if c.sock != nil {
		missed += c.sock.Dropped()
		_ = c.sock.Close()
	}
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f == nil {
		return c.err
	}
	err := errors.Join(c.err, c.buf.Flush(), c.f.Close())
	c.f = nil
	if missed > 0 {
		err = errors.Join(err, fmt.Errorf("capture of %s missed %d frames", c.link, missed))
	}
	return err
}

// merge writes one pcapng with the frames of all captures in order of time, each with its link's name as interface.
func merge(file string, captures []*capture) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	type src struct {
		r    *pcapgo.Reader
		id   int
		ci   gopacket.CaptureInfo
		data []byte
	}
	var w *pcapgo.NgWriter
	var open []*src
	next := func(s *src) bool {
		s.data, s.ci, err = s.r.ReadPacketData()
		return err == nil
	}
	for i, c := range captures {
		f, err := os.Open(c.file)
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := pcapgo.NewReader(bufio.NewReader(f))
		if err != nil {
			return fmt.Errorf("%s: %w", c.file, err)
		}
		ifc := pcapgo.NgInterface{Name: c.link, LinkType: layers.LinkTypeEthernet, SnapLength: 0, TimestampResolution: 9}
		if i == 0 {
			w, err = pcapgo.NewNgWriterInterface(out, ifc, pcapgo.DefaultNgWriterOptions)
		} else {
			_, err = w.AddInterface(ifc)
		}
		if err != nil {
			return err
		}
		if s := (&src{r: r, id: i}); next(s) {
			open = append(open, s)
		}
	}
	for len(open) > 0 {
		s := slices.MinFunc(open, func(a, b *src) int { return a.ci.Timestamp.Compare(b.ci.Timestamp) })
		s.ci.InterfaceIndex = s.id
		if err := w.WritePacket(s.ci, s.data); err != nil {
			return err
		}
		if !next(s) {
			open = slices.DeleteFunc(open, func(x *src) bool { return x == s })
		}
	}
	if err != nil && err != io.EOF {
		return err
	}
	if w == nil {
		return nil
	}
	return w.Flush()
}
