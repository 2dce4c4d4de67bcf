package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/internal/observe"
)

// kedge runs a command line as the shell would.
func kedge(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = cli(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

// machine is a gateway that knows two hosts.
type machine struct {
	got chan any
	now time.Time
}

func (m *machine) Command(_ context.Context, body any) (any, error) {
	alice := core.Binding{ID: "alice@example.net", Session: 7, State: "active", Families: []string{"v4", "v6"},
		IPv4: netip.MustParsePrefix("10.20.0.10/16"), Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1000:1::/64")},
		ProxyCoA: netip.MustParseAddr("2001:db8:a::11"), Gateway: "mag1", Anchor: netip.MustParseAddr("2001:db8:a::1"),
		Dialect: "rfc5844", LinkLayer: "02:00:00:00:00:0a", Interface: "acc0", Expires: m.now.Add(90*time.Minute + 30*time.Second), Since: m.now.Add(-49 * time.Hour)}
	switch c := body.(type) {
	case core.GetStatus:
		return core.Status{Role: "gateway", Sessions: map[string]int{"active": 2, "requested": 1}, Notes: []string{"the store is lost"},
			Peers:    []core.PeerStatus{{Name: "lma1", Address: netip.MustParseAddr("2001:db8:a::1"), Alive: true, Restarts: 3, LastHeard: m.now.Add(-90 * time.Hour), Sessions: 2, Protection: "none"}},
			Pools:    []core.PoolStatus{{Name: "v4", Range: netip.MustParsePrefix("10.20.0.0/16"), Used: 2, Free: 65531}},
			Counters: map[string]uint64{"updates": 12, "retransmits": 1}}, nil
	case core.GetBindings:
		bob := core.Binding{ID: "bob@example.net", State: "requested", ProxyCoA: netip.MustParseAddr("2001:db8:a::11"), Since: m.now.Add(-5 * time.Hour)}
		var out []core.Binding
		for _, b := range []core.Binding{alice, bob} {
			if strings.Contains(b.ID, c.Filter) {
				out = append(out, b)
			}
		}
		return out, nil
	case core.Explain:
		if c.ID != "alice@example.net" {
			return core.Explanation{}, nil
		}
		return core.Explanation{ID: c.ID, Profile: "subscribers.list", Bindings: []core.Binding{alice}, History: []core.Past{
			{When: time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local), What: "PBU seq 7 from 2001:db8:a::11"},
			{When: time.Date(2026, 11, 21, 12, 0, 0, 5e6, time.Local), What: "refused 171", Reason: "ipv4-address-not-authorized", Detail: "10.20.0.99 is not the profile's"},
		}}, nil
	}
	m.got <- body
	return nil, nil
}

// daemonAt serves the control API of a daemon that is not one.
func daemonAt(t *testing.T) (socket string, hub *observe.Hub, m *machine) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "mag1.sock")
	hub = observe.New(observe.Options{Self: "mag1", Keep: 64})
	m = &machine{got: make(chan any, 1), now: time.Now()}
	s := api.New(api.Config{Socket: socket, Self: "mag1", Version: "1.2", File: "mag1.yaml", Started: m.now.Add(-2 * time.Hour), Hub: hub,
		Roles:    []api.Role{{Name: "gateway", Commander: m}},
		Warnings: []api.Warning{{Where: "mag1.yaml:6", Key: "security.peers[0].protection", Kind: "unprotected", Text: "signalling is not protected"}}})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		hub.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket, hub, m
}

func same(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

// TestUsage: exit status 2 and words for a wrong use, 0 for help.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args         []string
		code         int
		stdout, said string
	}{
		{[]string{}, 2, "", `expected one of "run", "check", "status"`},
		{[]string{"frobnicate"}, 2, "", "unexpected argument frobnicate"},
		{[]string{"status", "--sokcet", "x"}, 2, "", "unknown flag --sokcet"},
		{[]string{"-o", "xml", "version"}, 2, "", `--output must be one of "text","json"`},
		{[]string{"check"}, 2, "", "<file>"},
		{[]string{"check", "--here", "--no-host", "x"}, 2, "", "can't be used together"},
		{[]string{"run"}, 2, "", "<config>"},
		{[]string{"run", "/nonexistent.yaml"}, 2, "", "no such file"},
		{[]string{"explain"}, 2, "", "<id>"},
		{[]string{"events", "--backlog=-1"}, 2, "", "--backlog -1: write 0 or more"},
		{[]string{"bindings", "--limit=-1"}, 2, "", "--limit -1: write a number above 0"},
		{[]string{"attach", "acc0", "02:00"}, 2, "", "is no MAC address"},
		{[]string{"detach", "acc0", "x"}, 2, "", "is no MAC address"},
		{[]string{"status", "--socket", "/nonexistent.sock"}, 1, "", `there is no socket /nonexistent.sock: start one with "kedge run CONFIG"`},
		{[]string{"events", "--socket", "/nonexistent.sock"}, 1, "", `start one with "kedge run CONFIG"`},
		{[]string{"status", "--config", "/nonexistent.yaml"}, 2, "", "no such file"},
		{[]string{"--help"}, 0, "Keeps the IPv4 and IPv6 addresses of hosts still", ""},
		{[]string{"check", "--help"}, 0, "Config files. Several are compared", ""},
		{[]string{"version"}, 0, "kedge unknown\n", ""},
		{[]string{"-o", "json", "version"}, 0, `"version": "unknown"`, ""},
	} {
		code, stdout, stderr := kedge(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.said) || c.said == "" && stderr != "" {
			t.Errorf("kedge %s: status %d, want %d\n%s\n%s", strings.Join(c.args, " "), code, c.code, stdout, stderr)
		}
	}
}

// TestErrorsAsJSON: a script finds the error where it looks for the answer.
func TestErrorsAsJSON(t *testing.T) {
	code, stdout, stderr := kedge(t, "-o", "json", "status", "--socket", "/nonexistent.sock")
	var v map[string]string
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 1 || stderr != "" || !strings.Contains(v["error"], "no daemon") {
		t.Errorf("%d %q %q %v", code, stdout, stderr, err)
	}
}

func TestStatus(t *testing.T) {
	socket, _, _ := daemonAt(t)
	code, stdout, stderr := kedge(t, "status", "-s", socket)
	if code != 0 || stderr != "" {
		t.Fatal(code, stderr)
	}
	same(t, "status", `mag1  kedge 1.2  up 2h0m  config mag1.yaml

gateway
  sessions: 2 active, 1 requested

  PEER  ADDRESS        ALIVE  HEARD      SESSIONS  RESTARTS  PROTECTION
  lma1  2001:db8:a::1  yes    3d18h ago  2         3         none

  POOL  RANGE         USED  FREE
  v4    10.20.0.0/16  2     65531

  COUNTER      VALUE
  retransmits  1
  updates      12

  note: the store is lost

warning: mag1.yaml:6: security.peers[0].protection: signalling is not protected (unprotected)
`, stdout)
	_, stdout, _ = kedge(t, "-o", "json", "status", "-s", socket)
	var st api.Status
	if err := json.Unmarshal([]byte(stdout), &st); err != nil || st.Self != "mag1" || len(st.Roles) != 1 || st.Roles[0].Pools[0].Free != 65531 {
		t.Errorf("%v\n%s", err, stdout)
	}
}

func TestBindings(t *testing.T) {
	socket, _, _ := daemonAt(t)
	_, stdout, stderr := kedge(t, "bindings", "-s", socket)
	same(t, "bindings", `ID                 STATE      IPV4           PREFIXES              GATEWAY         ANCHOR         LINK                    EXPIRES  SINCE  DIALECT
alice@example.net  active     10.20.0.10/16  2001:db8:1000:1::/64  mag1            2001:db8:a::1  acc0 02:00:00:00:00:0a  1h30m    2d1h   rfc5844
bob@example.net    requested                                       2001:db8:a::11                                                  5h0m
`, stdout+stderr)
	_, stdout, _ = kedge(t, "bindings", "bob", "-s", socket)
	same(t, "a filter", `ID               STATE      GATEWAY         SINCE
bob@example.net  requested  2001:db8:a::11  5h0m
`, stdout)
	_, stdout, _ = kedge(t, "bindings", "-n", "1", "-s", socket)
	if !strings.HasSuffix(stdout, "1 more: narrow the filter, or raise --limit\n") {
		t.Errorf("a limit says nothing of the rest:\n%s", stdout)
	}
	_, stdout, _ = kedge(t, "bindings", "carol", "-s", socket)
	same(t, "none", "no bindings\n", stdout)
	_, stdout, _ = kedge(t, "-o", "json", "bindings", "carol", "-s", socket)
	same(t, "none as JSON", "{\n  \"bindings\": [],\n  \"total\": 0\n}\n", stdout)
}

func TestExplain(t *testing.T) {
	socket, _, _ := daemonAt(t)
	code, stdout, stderr := kedge(t, "explain", "alice@example.net", "-s", socket)
	same(t, "explain", `alice@example.net at the gateway
  profile: subscribers.list

  ID                 STATE   IPV4           PREFIXES              GATEWAY  ANCHOR         LINK                    EXPIRES  SINCE  DIALECT
  alice@example.net  active  10.20.0.10/16  2001:db8:1000:1::/64  mag1     2001:db8:a::1  acc0 02:00:00:00:00:0a  1h30m    2d1h   rfc5844

  TIME          WHAT                           REASON                       DETAIL
  12:00:00.000  PBU seq 7 from 2001:db8:a::11
  12:00:00.005  refused 171                    ipv4-address-not-authorized  10.20.0.99 is not the profile's
`, stdout+stderr)
	if code != 0 {
		t.Error(code)
	}
	code, _, stderr = kedge(t, "explain", "carol@example.net", "-s", socket)
	if code != 1 || stderr != "kedge: nothing is known about \"carol@example.net\": the bindings have the ids that are known, the log has messages that were refused\n" {
		t.Errorf("%d %q", code, stderr)
	}
}

func TestEvents(t *testing.T) {
	socket, hub, _ := daemonAt(t)
	o := hub.Role("gateway")
	now := core.Now{Wall: time.Date(2026, 11, 21, 12, 0, 0, 5e6, time.Local)}
	o.Emit(now, 0, core.Emit{Name: "session", ID: 7, From: "requested", To: "active", Why: "accepted", Fields: map[string]any{"sub": "alice@example.net", "lifetime_s": 300, "if": "acc0"}})
	o.Emit(now, 0, core.Emit{Name: "peer", To: "dead", Why: "no-answer", Fields: map[string]any{"peer": "lma1"}})
	code, stdout, stderr := kedge(t, "events", "-s", socket)
	same(t, "events", `12:00:00.005 gateway session         alice@example.net requested -> active (accepted) id=7 if=acc0 lifetime_s=300
12:00:00.005 gateway peer            lma1 - -> dead (no-answer)
`, stdout+stderr)
	if code != 0 {
		t.Error(code)
	}
	_, stdout, _ = kedge(t, "-o", "json", "events", "-n", "1", "-s", socket)
	var l observe.Line
	if err := json.Unmarshal([]byte(stdout), &l); err != nil || l.Name != "peer" || strings.Count(stdout, "\n") != 1 {
		t.Errorf("%v\n%s", err, stdout)
	}

	// Following ends with ctrl-C, which is no error.
	ctx, cancel := context.WithCancel(t.Context())
	w := writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	var errs bytes.Buffer
	if code := cli(ctx, []string{"events", "-f", "-n", "1", "-s", socket}, w, &errs); code != 0 || errs.Len() != 0 {
		t.Errorf("following ends with %d %s", code, errs.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestEventTextOfMessages(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	for body, want := range map[string]string{
		`{"dir":"out","remote":"2001:db8:a::1","local":"::","role":"gateway","seq":9,"sub":"a@x","type":"pbu"}`: "12:00:00.000 gateway PBU             -> 2001:db8:a::1 a@x seq=9",
		`{"dir":"in","role":"gateway","type":"rs"}`:                                                             "12:00:00.000 gateway PBU             <-",
		`nonsense`: "12:00:00.000         PBU             body=nonsense",
	} {
		same(t, body, want, eventText(api.Event{Line: observe.Line{Wall: at, Name: "PBU", Body: json.RawMessage(body)}}))
	}
}

func TestAttachDetach(t *testing.T) {
	socket, _, m := daemonAt(t)
	if code, out, err := kedge(t, "attach", "acc0", "02:00:00:00:00:0a", "--id", "alice@example.net", "--previous", "2001:db8:a::12", "-s", socket); code != 0 || out+err != "" {
		t.Fatal(code, out, err)
	}
	mac := core.MAC{2, 0, 0, 0, 0, 10}
	if got := <-m.got; got != (core.Attach{If: "acc0", MAC: mac, ID: "alice@example.net", Previous: "2001:db8:a::12"}) {
		t.Errorf("%+v", got)
	}
	if code, out, err := kedge(t, "detach", "acc0", "02-00-00-00-00-0A", "-s", socket); code != 0 || out+err != "" {
		t.Fatal(code, out, err)
	}
	if got := <-m.got; got != (core.Detach{If: "acc0", MAC: mac}) {
		t.Errorf("%+v", got)
	}
}

// TestSocketFromConfig: the config file names the socket.
func TestSocketFromConfig(t *testing.T) {
	socket, _, _ := daemonAt(t)
	b, err := os.ReadFile("../../examples/gateway-minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mag1.yaml")
	if err := os.WriteFile(file, append(b, []byte(fmt.Sprintf("api: { socket: %s }\n", socket))...), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := kedge(t, "status", "-c", file); code != 0 || !strings.HasPrefix(stdout, "mag1 ") {
		t.Error(code, stdout, stderr)
	}
	t.Setenv("KEDGE_SOCKET", socket)
	if code, stdout, stderr := kedge(t, "status"); code != 0 || !strings.HasPrefix(stdout, "mag1 ") {
		t.Error(code, stdout, stderr)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, from, old, new string) string {
		b, err := os.ReadFile("../../examples/" + from)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), old) {
			t.Fatalf("%q is not in %s", old, from)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(b), old, new)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	one := write("mag1.yaml", "gateway-minimal.yaml", "mag1", "mag1")
	two := write("mag2.yaml", "gateway-minimal.yaml", "name: mag1", "name: mag2")
	b, _ := os.ReadFile(two)
	_ = os.WriteFile(two, bytes.Replace(b, []byte("::11"), []byte("::12"), 1), 0o600)
	code, stdout, stderr := kedge(t, "check", "--no-host", one, two)
	same(t, "check", fmt.Sprintf(`%s: ok: gateway mag1 with 1 access link, 1 anchor
warning: %[1]s:6: security.peers[0].protection: signalling with peer lma1 is neither authenticated nor encrypted (unprotected)
%s: ok: gateway mag2 with 1 access link, 1 anchor
warning: %[2]s:6: security.peers[0].protection: signalling with peer lma1 is neither authenticated nor encrypted (unprotected)
`, one, two), stdout+stderr)
	if code != 0 {
		t.Error(code)
	}

	other := write("mag3.yaml", "gateway-minimal.yaml", "    - interface: acc0\n", "    - interface: acc0\n      router: { mac: \"02:00:00:00:00:99\" }\n")
	b, _ = os.ReadFile(other)
	_ = os.WriteFile(other, []byte(strings.NewReplacer("name: mag1", "name: mag3", "::11", "::13").Replace(string(b))), 0o600)
	code, stdout, _ = kedge(t, "check", "--no-host", one, two, other)
	want := other + ":13:22: gateway.access[0].router.mac: is 02:00:00:00:00:99, but 00:00:5e:00:52:13 on " + one + ":12; write the same on every gateway of a domain"
	if code != 2 || !strings.Contains(stdout, want) {
		t.Errorf("another router MAC: %d\n%s", code, stdout)
	}

	bad := write("bad.yaml", "anchor-minimal.yaml", "10.20.0.0/16", "10.20.0.1/16")
	code, stdout, _ = kedge(t, "check", "--no-host", bad, filepath.Join(dir, "none.yaml"))
	same(t, "bad", fmt.Sprintf(`%s:11:27: anchor.pools[1].prefix: 10.20.0.1/16 has host bits set; write 10.20.0.0/16
   11 |     - { name: v4, prefix: 10.20.0.1/16 }
      |                           ^^^^^^^^^^^^
%[1]s: 1 error
%s: there is no such file
%[2]s: 1 error
`, bad, filepath.Join(dir, "none.yaml")), stdout)
	if code != 2 {
		t.Error(code)
	}
	if code, _, stderr := kedge(t, "run", bad); code != 2 || !strings.Contains(stderr, "has host bits set; write 10.20.0.0/16") {
		t.Errorf("run: %d %s", code, stderr)
	}

	code, stdout, _ = kedge(t, "-o", "json", "check", one)
	var report struct {
		Files []checked
		Host  []struct{ Name, Severity, Detail string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 0 || len(report.Files) != 1 || !report.Files[0].OK {
		t.Errorf("JSON: %v %d\n%s", err, code, stdout)
	}
	seen := map[string]string{}
	for _, f := range report.Host {
		seen[f.Name] = f.Severity
	}
	if seen["kernel"] == "" || seen["access link acc0"] != "fatal" {
		t.Errorf("findings: %v", seen)
	}
	if code, stdout, _ := kedge(t, "check", "--here", one); code != 1 || !strings.Contains(stdout, "to do: ") {
		t.Errorf("a machine without acc0 could run it: %d\n%s", code, stdout)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Millisecond: "1.2s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h", -61 * time.Second: "-1m1s",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
