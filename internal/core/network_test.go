package core

import (
	"net/netip"
	"testing"
)

func TestIsNetwork(t *testing.T) {
	for s, want := range map[string]bool{
		"2001:db8:3000::/56": true, "2001:db8::1/128": true, "2000::/3": true, "fd00::/8": true, "10.0.0.0/8": true, "192.0.2.1/32": true, "64:ff9b::/96": true,
		"::/0": false, "0.0.0.0/0": false, "2001:db8:3000::1/56": false, "10.0.0.1/8": false,
		"8000::/1": false, "f000::/4": false, "fe80::/64": false, "fe00::/8": false, "ff02::/16": false, "::/1": false, "::1/128": false, "::ffff:10.0.0.0/104": false,
		"128.0.0.0/1": false, "64.0.0.0/2": false, "127.0.0.0/24": false, "169.254.1.0/24": false, "168.0.0.0/6": false, "224.0.0.0/8": false, "240.0.0.0/8": false,
		"255.255.255.255/32": false, "0.0.0.0/8": false,
	} {
		if got := IsNetwork(netip.MustParsePrefix(s)); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
	if IsNetwork(netip.Prefix{}) {
		t.Error("no prefix at all")
	}
}
