package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/config"
	"kedge/internal/ipsec"
)

const (
	keysAnchor = `anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  pools: [ { name: home, prefix: "2001:db8:2000::/48" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, families: [v6], hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`
	keysNode = `node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }
  home: { v6: "2001:db8:2000::5/64", v4: none }
  links: [ { match: eth0 } ]
`
)

// TestKeysOfAllUses: the shown items are config of both ends, whose engines take each other's packets in every use; check says when
// one pair of several does not fit.
func TestKeysOfAllUses(t *testing.T) {
	for _, suite := range []string{"aes256-sha512", "null-sha256"} {
		dir := t.TempDir()
		pair := keysIn(t, dir, "--suite", suite, "--uses", "all")
		if len(pair.Here.More) != 2 || len(pair.There.More) != 2 {
			t.Fatalf("%+v", pair)
		}
		files := map[string]string{"ha1": "security: { peers: [ " + pair.Here.Peer + " ] }\n" + keysAnchor, "laptop": "security: { peers: [ " + pair.There.Peer + " ] }\n" + keysNode}
		var paths []string
		var both [2][]ipsec.SA
		for i, name := range []string{"ha1", "laptop"} {
			file := filepath.Join(dir, name+".yaml")
			if err := os.WriteFile(file, []byte("version: 1\nname: "+name+"\n"+files[name]), 0o600); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, file)
			cfg, warnings, err := config.Load(file)
			if err != nil {
				t.Fatalf("%v\n%s", err, files[name])
			}
			if suite == "aes256-sha512" && len(warnings) > 1 { // a home agent without IPv4 services has one
				t.Error(warnings)
			}
			peers, err := securityPeers(cfg)
			if err != nil || len(peers) != 1 || len(peers[0].SAs) != 3 {
				t.Fatalf("%s: %v", name, err)
			}
			both[i] = peers[0].SAs
			if _, err := ipsec.New(ipsec.Config{Peers: peers}, &ipsec.Volatile{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for i, use := range []ipsec.Use{ipsec.Signalling, ipsec.ReturnRoutability, ipsec.PrefixDiscovery} {
			a, b := both[0][i], both[1][i]
			if a.Use != use || b.Use != use || a.SPIIn != b.SPIOut || a.SPIOut != b.SPIIn || string(a.Keys.In.Integrity) != string(b.Keys.Out.Integrity) {
				t.Errorf("%s: the ends do not fit", use)
			}
		}
		code, out, errs := kedge(t, append([]string{"check", "--no-host"}, paths...)...)
		if code != 0 || strings.Contains(out, "other half") || errs != "" {
			t.Errorf("%d\n%s%s", code, out, errs)
		}
		other := keysNamed(t, filepath.Join(dir, "other"), "laptop-return-routability", "ha1")
		if suite == "null-sha256" {
			b, err := os.ReadFile(other.There.File)
			if err == nil {
				err = os.WriteFile(pair.There.More[0], b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, out, _ = kedge(t, append([]string{"check", "--no-host"}, paths...)...)
			if !strings.Contains(out, "security.peers[0].esp.return-routability.key-file") || !strings.Contains(out, "the keys are not the other half") {
				t.Error(out)
			}
		}
	}
	dir := t.TempDir()
	if code, _, errs := kedge(t, "keys", "laptop", "--suite", "rfc4285", "--uses", "all", "--dir", dir); code != exitUsage || !strings.Contains(errs, "is of ESP") {
		t.Errorf("%d %s", code, errs)
	}
	// Of six files, one that is there already leaves none of the others.
	if err := os.WriteFile(filepath.Join(dir, "laptop-prefix-discovery.there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := kedge(t, "keys", "laptop", "--uses", "all", "--dir", dir)
	left, err := os.ReadDir(dir)
	if code != exitFailed || !strings.Contains(errs, "never overwritten") || err != nil || len(left) != 1 {
		t.Errorf("%d %s %v %v", code, errs, left, err)
	}
}
