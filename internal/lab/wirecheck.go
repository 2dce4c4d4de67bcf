package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/gopacket/gopacket/pcapgo"
)

// wire judges every capture by programs that are not ours: tshark must find nothing malformed and no error, mhcheck every
// Mobility Header's checksum and length right.
func (r *Run) wire(ctx context.Context) error {
	for _, c := range r.captures {
		if err := mobilityChecksums(c.file); err != nil {
			return fmt.Errorf("wire: %s: %w", c.link, err)
		}
		if r.opt.MHCheck != "" {
			out, err := exec.CommandContext(ctx, "python3", r.opt.MHCheck, c.file).CombinedOutput()
			if err != nil || strings.Contains(string(out), "BAD") || strings.Contains(string(out), "LEN") {
				return fmt.Errorf("wire: mhcheck: %v: %s", err, strings.TrimSpace(string(out)))
			}
		}
		if r.sc.End.TsharkErrors == nil {
			continue
		}
		// ESP that the keys do not open, or whose integrity check value is wrong, is an error like any other.
		bad := "_ws.malformed || _ws.expert.severity == error"
		if len(r.sas) > 0 {
			bad += " || esp.icv_bad == 1"
		}
		args := append(r.tsharkArgs(c.file, bad), "-e", "_ws.expert.message", "-e", "_ws.col.Info")
		out, err := exec.CommandContext(ctx, "tshark", args...).Output()
		if err != nil {
			return fmt.Errorf("wire: tshark (Debian package tshark): %s", toolError(err))
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if lines[0] == "" {
			lines = nil
		}
		if want := r.sc.End.TsharkErrors; !want.Holds(float64(len(lines))) {
			return fmt.Errorf("wire: tshark finds %d errors in %s, want %s: frame %s", len(lines), c.file, want, strings.Join(lines[:min(3, len(lines))], "; frame "))
		}
	}
	return nil
}

// mobilityChecksums verifies checksum and length of every Mobility Header in a capture, with arithmetic of its own.
func mobilityChecksums(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	rd, err := pcapgo.NewReader(bufio.NewReader(f))
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		b, _, err := rd.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(b) >= 54 && b[12] == 0x86 && b[13] == 0xdd {
			if err := mhOK(b[14:]); err != nil {
				return fmt.Errorf("frame %d: %w", n, err)
			}
		}
	}
}

func mhOK(p []byte) error {
	if len(p) < 40 {
		return nil
	}
	next := p[6]
	q := p[40:min(len(p), 40+int(binary.BigEndian.Uint16(p[4:])))]
	src, dst := p[8:24], p[24:40]
	for next != 135 {
		if next == 41 {
			return mhOK(q)
		}
		if next != 0 && next != 43 && next != 60 || len(q) < 8 || len(q) < (int(q[1])+1)*8 {
			return nil
		}
		ext := q[:(int(q[1])+1)*8]
		switch {
		case next == 43 && q[2] == 2 && len(ext) >= 24: // type 2: the home address is the destination (RFC 6275 6.1.1)
			dst = ext[8:24]
		case next == 60:
			if home := homeAddress(ext[2:]); home != nil {
				src = home
			}
		}
		next, q = q[0], q[len(ext):]
	}
	if len(q) < 6 || (int(q[1])+1)*8 != len(q) {
		return fmt.Errorf("a Mobility Header of %d octets has a length that does not fit", len(q))
	}
	sum := uint32(len(q)) + 135
	for _, part := range [][]byte{src, dst, q} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		return fmt.Errorf("a Mobility Header type %d has a wrong checksum", q[2])
	}
	return nil
}

// homeAddress finds the Home Address option among destination options.
func homeAddress(o []byte) []byte {
	for len(o) > 0 {
		switch {
		case o[0] == 0:
			o = o[1:]
			continue
		case len(o) < 2 || len(o) < 2+int(o[1]):
			return nil
		case o[0] == 0xc9 && o[1] == 16:
			return o[2:18]
		}
		o = o[2+int(o[1]):]
	}
	return nil
}
