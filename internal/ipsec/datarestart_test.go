package ipsec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"kedge/internal/core"
	"kedge/wire"
)

// staticData makes both ends with static keys, each over a disk of its own.
func staticData(t *testing.T, here, there Counters) (a, b *Data) {
	t.Helper()
	sa := DataSA{Handle: 7, Peer: "b", SPIIn: DataSPI | 0x1001, SPIOut: DataSPI | 0x2002, Keys: dataKeys(t, "aes128-sha256")}
	a, b = NewData(DataConfig{}, here), NewData(DataConfig{}, there)
	back := DataSA{Handle: 9, Peer: "a", SPIIn: sa.SPIOut, SPIOut: sa.SPIIn, Keys: sa.Keys.Swapped()}
	if err := errors.Join(a.Add(sa), b.Add(back)); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestDataCrash: whoever crashes uses no number twice, and takes no packet twice.
func TestDataCrash(t *testing.T) {
	here, there := prompt{&disk{kept: map[string]Numbers{}}}, prompt{&disk{kept: map[string]Numbers{}}}
	inner := innerOf(t, ProtoIPv6, 60)
	used := map[uint32]bool{}
	var old [][]byte
	for range 5 {
		a, b := staticData(t, here, there)
		for _, esp := range old {
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, bytes.Clone(esp), nil); reasonOf(err) != wire.Replayed {
				t.Fatalf("taken again after a crash: %v", err)
			}
		}
		for range 10 {
			esp := mustSeal(t, a, 7, ProtoIPv6, inner)
			seq := binary.BigEndian.Uint32(esp[4:])
			if used[seq] {
				t.Fatalf("%d again", seq)
			}
			used[seq] = true
			old = append(old, bytes.Clone(esp))
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A clean end skips nothing.
	a, _ := staticData(t, here, there)
	first := binary.BigEndian.Uint32(mustSeal(t, a, 7, ProtoIPv6, inner)[4:])
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Seal(7, ProtoIPv6, inner, nil); reasonOf(err) != wire.SequenceUnreserved {
		t.Errorf("sealed after the end: %v", err)
	}
	a, b := staticData(t, here, there)
	esp := mustSeal(t, a, 7, ProtoIPv6, inner)
	if next := binary.BigEndian.Uint32(esp[4:]); next != first+1 {
		t.Errorf("%d after %d", next, first)
	}
	if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); err != nil {
		t.Error(err)
	}
	// Removed and added again, it goes on as well.
	if err := a.Remove(7); err != nil {
		t.Fatal(err)
	}
	a, _ = staticData(t, here, there)
	if next := binary.BigEndian.Uint32(mustSeal(t, a, 7, ProtoIPv6, inner)[4:]); next != first+2 {
		t.Errorf("%d after %d", next, first+1)
	}
}

// TestDataReservation: the next block is asked for when half of one is left, and nothing is sent beyond what is reserved; a
// refused reservation is tried again a second later.
func TestDataReservation(t *testing.T) {
	d := &disk{kept: map[string]Numbers{}}
	clock := core.Now{}
	a := NewData(DataConfig{Clock: func() core.Now { return clock }}, writeFirst{d})
	sa := DataSA{Handle: 7, Peer: "b", SPIIn: DataSPI | 0x1001, SPIOut: DataSPI | 0x2002, Keys: dataKeys(t, "aes128-sha256")}
	if err := a.Add(sa); err != nil {
		t.Fatal(err)
	}
	inner := innerOf(t, ProtoIPv6, 60)
	o := a.table.get(7).out
	o.seq = dataBlock/2 - 1
	mustSeal(t, a, 7, ProtoIPv6, inner)
	if len(d.waiting) != 0 {
		t.Fatal("asked for too early")
	}
	mustSeal(t, a, 7, ProtoIPv6, inner)
	if len(d.waiting) != 1 || d.waiting[0].n.High != dataBlock/2+dataBlock {
		t.Fatalf("%+v", d.waiting)
	}
	o.seq = dataBlock - 1
	mustSeal(t, a, 7, ProtoIPv6, inner)
	dst := []byte("before")
	if out, err := a.Seal(7, ProtoIPv6, inner, dst); reasonOf(err) != wire.SequenceUnreserved || !bytes.Equal(out, dst) {
		t.Fatalf("%x %v", out, err)
	}
	full := errors.New("disk full")
	d.write(full)
	n := testing.AllocsPerRun(50, func() {
		if _, err := a.Seal(7, ProtoIPv6, inner, dst); err.(*wire.Error).Reason != wire.SequenceUnreserved {
			t.Fatal(err)
		}
	})
	if _, err := a.Seal(7, ProtoIPv6, inner, dst); n != 0 || !errors.Is(err, full) {
		t.Errorf("%v allocations, %v", n, err)
	}
	if len(d.waiting) != 0 {
		t.Fatal("tried again at once")
	}
	clock.Boot += retryStore
	_, _ = a.Seal(7, ProtoIPv6, inner, dst)
	if !d.write(nil) {
		t.Fatal("not tried again")
	}
	if esp := mustSeal(t, a, 7, ProtoIPv6, inner); binary.BigEndian.Uint32(esp[4:]) != dataBlock+1 {
		t.Errorf("%x", esp[:8])
	}
	if failing := NewData(DataConfig{}, refusing{}); failing.Add(sa) == nil || failing.table.get(7) != nil {
		t.Error("in use without a reservation")
	}
}

// writeFirst is a disk that writes at once what Add waits for.
type writeFirst struct{ *disk }

func (w writeFirst) Store(name string, n Numbers, done func(error)) {
	w.disk.Store(name, n, done)
	if n.High == dataBlock {
		w.write(nil)
	}
}

// refusing stores nothing.
type refusing struct{}

func (refusing) Load(string) (Numbers, bool, error) { return Numbers{}, false, nil }

func (refusing) Store(_ string, _ Numbers, done func(error)) { done(errors.New("no space")) }

// TestDataRekeyBusy: static keys are replaced while others seal, and no packet fails for it.
func TestDataRekeyBusy(t *testing.T) {
	a, _ := staticData(t, &Volatile{}, &Volatile{})
	inner := innerOf(t, ProtoIPv6, 60)
	var busy sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		busy.Go(func() {
			var dst []byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if dst, err = a.Seal(7, ProtoIPv6, inner, dst[:0]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range uint32(60) {
		sa := DataSA{Handle: 7, Peer: "b", SPIIn: DataSPI | 0x9000 + i, SPIOut: DataSPI | 0xa000 + i, Keys: dataKeys(t, "aes128-sha256")}
		sa.Keys.Out.Encryption[0] = byte(i)
		if err := a.Rekey(sa); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	busy.Wait()
	if n := len(a.Status()); n != 2 {
		t.Errorf("%d pairs", n)
	}
}
