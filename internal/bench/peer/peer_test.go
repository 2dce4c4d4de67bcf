package peer

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestRequests: a peer answers what it cannot do with an error, and lives on.
func TestRequests(t *testing.T) {
	in := strings.Join([]string{
		`{}`, `{"count":true}`, `{"update":5}`, `{"memory":true}`, `{"handover":2}`,
		`{"open":{"way":{"kind":"user","encap":"none"},"at":1}}`,
		`{"open":{"way":{"kind":"user","encap":"v6"},"at":0}}`, // without an access link
	}, "\n")
	var out bytes.Buffer
	if err := Run(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	n := 0
	for d := json.NewDecoder(&out); d.More(); n++ {
		var a Answer
		if err := d.Decode(&a); err != nil || a.Error == "" {
			t.Errorf("request %d: %+v, %v", n, a, err)
		}
	}
	if n != 7 {
		t.Errorf("%d answers to 7 requests", n)
	}
	if err := Run(strings.NewReader("no JSON"), &out); err == nil {
		t.Error("what is no request was taken for one")
	}
}

func TestTableOf(t *testing.T) {
	for _, c := range []struct {
		text, id string
		octets   uint64
		bad      bool
	}{
		{"pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n", "17", 4096, false},
		{"pos:\t0\nprog_type:\t3\nmemlock:\t4096\nprog_id:\t9\n", "", 0, false},
		{"pos:\t0\n", "", 0, false},
		{"memlock:\tmany\nmap_id:\t1\n", "", 0, true},
	} {
		id, octets, err := tableOf([]byte(c.text))
		if id != c.id || octets != c.octets || (err != nil) != c.bad {
			t.Errorf("%q: %q, %d, %v", c.text, id, octets, err)
		}
	}
}

// TestAssociations: what one end sends the other one opens, and keys of two sessions differ.
func TestAssociations(t *testing.T) {
	a, g := association(true, 5), association(false, 5)
	if a.SPIOut != g.SPIIn || a.SPIIn != g.SPIOut || !bytes.Equal(a.Keys.Out.Encryption, g.Keys.In.Encryption) || !bytes.Equal(a.Keys.In.Encryption, g.Keys.Out.Encryption) {
		t.Error("the two ends differ")
	}
	if bytes.Equal(a.Keys.Out.Encryption, a.Keys.In.Encryption) || bytes.Equal(a.Keys.Out.Encryption, association(true, 6).Keys.Out.Encryption) {
		t.Error("two directions or sessions have the same key and salt")
	}
}
