package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/spec"
)

// Gateway and anchor are IPv6 nodes whatever they send over: neither starts without an IPv6 address of its own and of the
// other side, and each says what is missing.
func TestNoStartWithoutIPv6(t *testing.T) {
	spec.Covers(t, "S001-1-06")
	for _, c := range []struct{ file, old, new, want string }{
		{"anchor.yaml", `  addresses: ["2001:db8:a::1"]`, `  addresses: [198.51.100.1]`, `anchor.addresses: has no IPv6 address`},
		{"anchor.yaml", `  addresses: ["2001:db8:a::1"]`, `  addresses: []`, "anchor.addresses: is empty; write the anchor's IPv6 address"},
		{"anchor.yaml", `  addresses: ["2001:db8:a::1"]`, ``, `anchor: "addresses" is missing; add addresses: ["2001:db8:a::1", 198.51.100.1]`},
		{"gateway.yaml", `  address: "2001:db8:a::11"`, `  address: 198.51.100.11`, `gateway.address: "198.51.100.11" is IPv4`},
		{"gateway.yaml", `  address: "2001:db8:a::11"`, ``, `gateway: "address" is missing; add address: "2001:db8:a::11"`},
		{"gateway.yaml", `  address: "2001:db8:a::11"`, `  address: "::ffff:198.51.100.11"`, "gateway.address"},
	} {
		b, err := os.ReadFile(filepath.Join("../../examples", c.file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(b), c.old) != 1 {
			t.Fatalf("%s has no line %q", c.file, c.old)
		}
		file := filepath.Join(t.TempDir(), c.file)
		if err := os.WriteFile(file, []byte(strings.Replace(string(b), c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, text := kedge(t, "run", file)
		if code != exitUsage || !strings.Contains(text, c.want) {
			t.Errorf("%s with %q: status %d, %s%s\nwant %q", c.file, c.new, code, out, text, c.want)
		}
	}
}
