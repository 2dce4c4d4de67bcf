package mobility

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/testpcap"
	"kedge/wire"
)

const vectors = "../../testdata/vectors/"

// TestUMIP reads every Mobility Header that UMIP's home agent, mobile node, mobile router and correspondent sent in the
// clear, and writes it again.
func TestUMIP(t *testing.T) {
	for file, want := range map[string]map[Type]int{
		"umip-noipsec-brh.pcap": {TypeBindingUpdate: 2, TypeBindingAck: 1},
		"umip-nemo-brh.pcap":    {TypeBindingUpdate: 3, TypeBindingAck: 3},
		"umip-ro-all.pcap": {TypeHomeTestInit: 4, TypeCareOfTestInit: 2, TypeHomeTest: 4, TypeCareOfTest: 2, TypeBindingUpdate: 18,
			TypeBindingAck: 14},
	} {
		t.Run(file, func(t *testing.T) {
			got := map[Type]int{}
			for _, mh := range testpcap.MobilityHeaders(t, vectors+file) {
				m, err := Parse(mh.Bytes, mh.Src, mh.Dst)
				if err != nil {
					t.Errorf("frame %d: %v", mh.Frame, err)
					continue
				}
				got[m.Type()]++
				again, err := Append(nil, m, mh.Src, mh.Dst)
				if err != nil {
					t.Errorf("frame %d: %v", mh.Frame, err)
				}
				if !bytes.Equal(again, mh.Bytes) {
					t.Errorf("frame %d: %v\nread    %x\nwritten %x", mh.Frame, m.Type(), mh.Bytes, again)
				}
				canonical(t, mh.Frame, m)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("messages (-want +got):\n%s", d)
			}
		})
	}
}

// canonical adds the same options anew: our alignment must be what UMIP chose, but for the octets of the final padding.
func canonical(t *testing.T, frame int, m Message) {
	t.Helper()
	o := Options(nil).AddAt(m.fixed(), slices.Collect(m.GetOptions().Values())...)
	o = appendPad(o, -(m.fixed()+len(o))&7)
	if !bytes.Equal(o, m.GetOptions()) {
		t.Errorf("frame %d: %v: options\nread  %x\nadded %x", frame, m.Type(), []byte(m.GetOptions()), []byte(o))
	}
}

// TestUMIPFields reads what the captures are known to hold.
func TestUMIPFields(t *testing.T) {
	bu := firstOf[*BindingUpdate](t, "umip-nemo-brh.pcap")
	mnp, ok := bu.Options.MobileNetworkPrefix()
	t.Logf("%+v %v", bu, mnp)
	if !ok || bu.Flags&BURouter == 0 {
		t.Errorf("mobile router's update: flags %v, prefix %v %v", bu.Flags, mnp, ok)
	}
}

func firstOf[M Message](t *testing.T, file string) (m M) {
	t.Helper()
	for _, mh := range testpcap.MobilityHeaders(t, filepath.Join(vectors, file)) {
		if got, err := Parse(mh.Bytes, mh.Src, mh.Dst); err == nil {
			if m, ok := got.(M); ok {
				return m
			}
		}
	}
	t.Fatalf("%s holds no %T", file, m)
	return m
}

// TestOAI refuses the packets of an implementation whose Header Len leaves out the last four octets, and says so.
func TestOAI(t *testing.T) {
	n := 0
	for _, mh := range testpcap.MobilityHeaders(t, vectors+"pmip-oai-all.pcap") {
		n++
		m, err := Parse(mh.Bytes, mh.Src, mh.Dst)
		var e *wire.Error
		if !errors.As(err, &e) || e.Reason != wire.BadLength || e.Field != "Header Len" || e.Off != 1 || m != nil {
			t.Errorf("frame %d: %v, %v", mh.Frame, m, err)
		}
		if n == 1 {
			t.Log(err)
		}
	}
	if n != 10 {
		t.Errorf("%d messages, want 10", n)
	}
}
