package access

import (
	"bytes"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/testpcap"
)

// everything makes a link send each kind of frame that it can send.
func everything(t *testing.T) *rig {
	cfg := config()
	cfg.DHCP.Extra = map[uint8][]byte{42: {10, 20, 0, 42}}
	r := newRig(t, cfg)
	r.in(ns(macA, none6, routerLL)).did("Refused", "Attached", "na")
	r.grant(macA, dualStack()).did("ra", "arp") // to all nodes, by MAC
	r.in(rs(macA, llA)).did("Attached", "ra")
	r.in(ns(macA, llA, routerLL)).did("Attached", "na")
	r.in(echo6(macA, llA)).did("Attached", "echo")
	r.in(echo4(macA, homeA.Addr())).did("Attached", "echo")
	r.in(arp(macA, homeA.Addr(), router4)).did("Attached", "arp")
	r.in(arp(macA, none4, router4)).did("Attached", "Refused", "arp")
	r.result(r.l.Probe(r.now, macA, nil)).did("arp", "ns")
	r.result(r.l.Probe(r.now, macB, nil)).did("mld-query")
	flagged := discover(macA)
	flagged.Body.(*dhcpv4.DHCPv4).Flags = 0x8000
	flagged.Body.(*dhcpv4.DHCPv4).Options[61] = append([]byte{1}, macA[:]...)
	flagged.Body.(*dhcpv4.DHCPv4).Options[55] = []byte{1, 3, 6, 15, 26, 42, 51, 54, 58, 59}
	r.in(flagged).dhcp(offer)
	r.in(discover(macA)).dhcp(offer)
	r.in(selecting(macA, router4, homeA.Addr())).dhcp(ack)
	r.in(renewing(macA, router4, homeA.Addr())).dhcp(ack)
	r.in(dhcpOf(macA, dhcpv4.MessageTypeInform, homeA.Addr(), all4, homeA.Addr(), nil)).dhcp(ack)
	r.in(initReboot(macA, addr("192.168.1.7"))).dhcp(nak)
	r.grant(macA, Grant{Prefixes: []netip.Prefix{prefixB}, Valid: time.Minute}).did("ra")
	r.grant(macA, Grant{}).did("ra")
	return r
}

// tshark prints the fields of the frames that match, one frame a line, fields apart by |.
func tshark(t *testing.T, file, filter string, fields ...string) []string {
	t.Helper()
	args := []string{"-r", file, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", filter, "-T", "fields", "-E", "separator=|"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var stderr bytes.Buffer
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark must be there and run (Debian package tshark): %v\n%s", err, stderr.String())
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

const suspicious = "_ws.malformed || _ws.expert.severity >= 0x600000" // warnings and errors

func TestTsharkFindsNoFault(t *testing.T) {
	r := everything(t)
	file := filepath.Join(t.TempDir(), "sent.pcap")
	testpcap.Write(t, file, r.sent)
	for _, line := range tshark(t, file, suspicious, "frame.number", "_ws.col.Info", "_ws.expert.message") {
		if line != "" {
			t.Error(line)
		}
	}
	// The judge is awake: it finds the one wrong octet.
	bad := bytes.Clone(r.sent[0])
	bad[len(bad)-1] ^= 1
	testpcap.Write(t, file, [][]byte{bad})
	if got := tshark(t, file, suspicious, "frame.number"); len(got) != 1 || got[0] != "1" {
		t.Errorf("a wrong checksum was not found: %v", got)
	}
}

func TestTsharkReadsTheSame(t *testing.T) {
	r := everything(t)
	file := filepath.Join(t.TempDir(), "sent.pcap")
	testpcap.Write(t, file, r.sent)
	same := func(filter string, want []string, fields ...string) {
		t.Helper()
		if d := cmp.Diff(want, tshark(t, file, filter, fields...)); d != "" {
			t.Errorf("%s: %s", filter, d)
		}
	}
	same("icmpv6.type == 134", []string{
		"02:00:00:00:00:0a|ff02::1|255|64|300|2001:db8:1000::|64|1|1|300|300|1460|00:00:5e:00:52:13|2001:db8:53::53|example.net,lab.example.net",
		"02:00:00:00:00:0a|fe80::a|255|64|300|2001:db8:1000::|64|1|1|300|300|1460|00:00:5e:00:52:13|2001:db8:53::53|example.net,lab.example.net",
		"02:00:00:00:00:0a|fe80::a|255|64|60|2001:db8:1000:1::,2001:db8:1000::|64,64|1,1|1,1|60,0|60,0|1460|00:00:5e:00:52:13|2001:db8:53::53|example.net,lab.example.net",
		"02:00:00:00:00:0a|fe80::a|255|64|0|2001:db8:1000::,2001:db8:1000:1::|64,64|1,1|1,1|0,0|0,0|1460|00:00:5e:00:52:13|2001:db8:53::53|example.net,lab.example.net",
	}, "eth.dst", "ipv6.dst", "ipv6.hlim", "icmpv6.nd.ra.cur_hop_limit", "icmpv6.nd.ra.router_lifetime", "icmpv6.opt.prefix", "icmpv6.opt.prefix.length",
		"icmpv6.opt.prefix.flag.l", "icmpv6.opt.prefix.flag.a", "icmpv6.opt.prefix.valid_lifetime", "icmpv6.opt.prefix.preferred_lifetime",
		"icmpv6.opt.mtu", "icmpv6.opt.src_linkaddr", "icmpv6.opt.rdnss", "icmpv6.opt.dnssl")
	same("icmpv6.type == 136", []string{
		"ff02::1|fe80::200:5eff:fe00:5213|1|0|1|00:00:5e:00:52:13|255",
		"fe80::a|fe80::200:5eff:fe00:5213|1|1|1|00:00:5e:00:52:13|255",
	}, "ipv6.dst", "icmpv6.nd.na.target_address", "icmpv6.nd.na.flag.r", "icmpv6.nd.na.flag.s", "icmpv6.nd.na.flag.o", "icmpv6.opt.target_linkaddr", "ipv6.hlim")
	same("icmpv6.type == 135", []string{"fe80::a|fe80::a|00:00:5e:00:52:13"}, "ipv6.dst", "icmpv6.nd.ns.target_address", "icmpv6.opt.src_linkaddr")
	same("icmpv6.type == 130", []string{"ff02::1|1|0|500"}, "ipv6.dst", "ipv6.hlim", "ipv6.opt.router_alert", "icmpv6.mld.maximum_response_code")
	same("arp", []string{
		"2|00:00:5e:00:52:13|10.20.0.1|02:00:00:00:00:0a|10.20.0.10",
		"2|00:00:5e:00:52:13|10.20.0.1|02:00:00:00:00:0a|10.20.0.10",
		"2|00:00:5e:00:52:13|10.20.0.1|02:00:00:00:00:0a|0.0.0.0",
		"1|00:00:5e:00:52:13|10.20.0.1|00:00:00:00:00:00|10.20.0.10",
	}, "arp.opcode", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.hw_mac", "arp.dst.proto_ipv4")
	same("icmp || icmpv6.type == 129", []string{"|129|0x0001", "0||"}, "icmp.type", "icmpv6.type", "icmpv6.echo.identifier")
	// tshark prints the End option as type 0.
	same("dhcp", []string{
		"2|10.20.0.1|255.255.255.255|1,3,6,15,26,42,51,53,54,58,59,61,0|10.20.0.10|255.255.255.0|10.20.0.1|10.20.0.53|example.net|1460|3600|1800|3150|10.20.0.1||1",
		"2|10.20.0.1|10.20.0.10|1,3,6,15,26,51,53,54,58,59,0|10.20.0.10|255.255.255.0|10.20.0.1|10.20.0.53|example.net|1460|3600|1800|3150|10.20.0.1||0",
		"5|10.20.0.1|10.20.0.10|1,3,6,15,26,42,51,53,54,58,59,0|10.20.0.10|255.255.255.0|10.20.0.1|10.20.0.53|example.net|1460|3600|1800|3150|10.20.0.1||0",
		"5|10.20.0.1|10.20.0.10|1,3,6,15,26,42,51,53,54,58,59,0|10.20.0.10|255.255.255.0|10.20.0.1|10.20.0.53|example.net|1460|3600|1800|3150|10.20.0.1||0",
		"5|10.20.0.1|10.20.0.10|1,3,6,15,26,42,53,54,0|0.0.0.0|255.255.255.0|10.20.0.1|10.20.0.53|example.net|1460||||10.20.0.1||0",
		"6|10.20.0.1|255.255.255.255|53,54,56,0|0.0.0.0||||||||" + "|10.20.0.1|not your address|0",
	}, "dhcp.option.dhcp", "ip.src", "ip.dst", "dhcp.option.type", "dhcp.ip.your", "dhcp.option.subnet_mask", "dhcp.option.router",
		"dhcp.option.domain_name_server", "dhcp.option.domain_name", "dhcp.option.interface_mtu", "dhcp.option.ip_address_lease_time",
		"dhcp.option.renewal_time_value", "dhcp.option.rebinding_time_value", "dhcp.option.dhcp_server_id", "dhcp.option.message", "dhcp.flags.bc")
}
