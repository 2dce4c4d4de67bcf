package system

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Finding is the result of one check. The zero Severity is fine.
type Finding struct {
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	Detail   string   `json:"detail"`          // what was found
	Do       string   `json:"do,omitempty"`    // what to do about it
	Feature  string   `json:"needs,omitempty"` // what stands or falls with it
}

// Severity of a finding.
type Severity uint8

const (
	Fine   Severity = iota
	Advice          // it works, not as well as it could
	Fatal           // the daemon would not start, or not do its work
)

// String is ok, advice or fatal.
func (s Severity) String() string { return [...]string{"ok", "advice", "fatal"}[s] }

// MarshalText writes the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Needs says what a configuration needs of the host.
type Needs struct {
	Anchor, Gateway bool
	Node, HomeAgent bool
	Peer            bool     // a correspondent
	Guarded         bool     // signalling is protected by keys
	Access          []string // access links of the gateway
	Addresses       []string // of "mh" ports, to be this host's
}

// minKernel is the oldest kernel that Kedge is meant for: PACKET_IGNORE_OUTGOING and strict netlink checks need 4.20, and
// no older long-term kernel than 5.4 is maintained.
var minKernel = [2]int{5, 4}

// Checks runs the checks of a configuration in the current namespace. It changes nothing; CheckTUN makes a device that is
// gone when it returns.
func Checks(n Needs) []Finding {
	out := []Finding{CheckKernel(), CheckCapability("CAP_NET_ADMIN", unix.CAP_NET_ADMIN), CheckCapability("CAP_NET_RAW", unix.CAP_NET_RAW), CheckMH()}
	if n.Anchor {
		out = append(out, CheckTUN(),
			CheckSysctl("net.ipv6.conf.all.forwarding", "1", "IPv6 packets to and from home prefixes"),
			CheckSysctl("net.ipv4.ip_forward", "1", "IPv4 packets to and from home addresses"))
	}
	if n.Gateway {
		out = append(out, CheckPacket())
	}
	out = append(out, n.mobile()...)
	for _, name := range n.Access {
		out = append(out, CheckAccessLink(name))
	}
	for _, a := range n.Addresses {
		out = append(out, CheckAddress(a))
	}
	return out
}

// CheckKernel compares the running kernel's version.
func CheckKernel() Finding {
	f := Finding{Name: "kernel", Feature: "everything"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Severity, f.Detail = Advice, err.Error()
		return f
	}
	f.Detail = "Linux " + unix.ByteSliceToString(u.Release[:])
	major, minor, ok := kernelVersion(unix.ByteSliceToString(u.Release[:]))
	if !ok || major < minKernel[0] || major == minKernel[0] && minor < minKernel[1] {
		f.Severity, f.Do = Fatal, fmt.Sprintf("use Linux %d.%d or later", minKernel[0], minKernel[1])
	}
	return f
}

func kernelVersion(release string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(release, ".")
	b := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = rest[:i]
	}
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil
}

// CheckCapability looks whether the process may do what a capability allows.
func CheckCapability(name string, bit uint) Finding {
	f := Finding{Name: name, Feature: "routes, addresses, raw and packet sockets"}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		f.Severity, f.Detail = Fatal, err.Error()
		return f
	}
	if data[bit/32].Effective&(1<<(bit%32)) == 0 {
		f.Severity, f.Detail = Fatal, "the process does not have it"
		f.Do = "run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the unit"
		return f
	}
	f.Detail = "effective"
	return f
}

// finding makes one of an error that may know its remedy.
func finding(f Finding, err error) Finding {
	if err == nil {
		return f
	}
	f.Severity, f.Detail = Fatal, err.Error()
	if h, ok := errors.AsType[*hinted](err); ok {
		f.Do = h.hint
	}
	return f
}

// CheckMH opens and closes a raw socket for the Mobility Header with its checksum left to us.
func CheckMH() Finding {
	f := Finding{Name: "raw socket 135", Detail: "opens, checksums are ours", Feature: "signalling"}
	p, err := openMH(unspecified)
	if err == nil {
		err = p.Close()
	}
	return finding(f, err)
}

// CheckPacket opens and closes a packet socket with the access filter on the loopback link.
func CheckPacket() Finding {
	f := Finding{Name: "packet socket", Detail: "opens, filter attaches", Feature: "access links of a gateway"}
	fd, err := packetSocket(1, "access")
	if err == nil {
		err = unix.Close(fd)
	}
	return finding(f, err)
}

// CheckTUN makes a TUN device and lets it go.
func CheckTUN() Finding {
	f := Finding{Name: "TUN", Detail: "/dev/net/tun makes devices", Feature: "tunnels"}
	err := func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			return &hinted{fmt.Errorf("/dev/net/tun: %w", err), "modprobe tun; in a container: --device /dev/net/tun"}
		}
		if err != nil {
			return &hinted{fmt.Errorf("/dev/net/tun: %w", err), "give the process read and write access to it"}
		}
		defer unix.Close(fd) // a device that nobody made persistent goes with its file
		ifr, err := unix.NewIfreq("kedgecheck%d")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return &hinted{fmt.Errorf("make a device: %w", err), "run with CAP_NET_ADMIN"}
		}
		return nil
	}()
	return finding(f, err)
}

// CheckSysctl compares a network setting.
func CheckSysctl(name, want, feature string) Finding {
	f := Finding{Name: name, Feature: feature}
	b, err := os.ReadFile("/proc/sys/" + sysctlKey(name))
	got := strings.TrimSpace(string(b))
	f.Detail = "is " + got
	switch {
	case err != nil:
		f.Severity, f.Detail = Fatal, err.Error()
		f.Do = "run a kernel that has this setting"
	case got != want:
		f.Severity, f.Do = Advice, fmt.Sprintf("nothing: kedge run sets it to %s; write it to /etc/sysctl.d/kedge.conf if others need it too", want)
	}
	return f
}

// CheckAccessLink looks whether a link can be taken as an access link.
func CheckAccessLink(name string) Finding {
	f := Finding{Name: "access link " + name, Feature: "hosts on this link"}
	h, err := NewHost(Options{})
	if err != nil {
		return finding(f, err)
	}
	defer h.Close()
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return finding(f, &hinted{err, "create the link or correct its name in the config"})
	}
	a := l.Attrs()
	f.Detail = fmt.Sprintf("MAC %s, MTU %d", a.HardwareAddr, a.MTU)
	if len(a.HardwareAddr) != 6 {
		return finding(f, &hinted{fmt.Errorf("%s is of type %s and has no MAC address", name, l.Type()), "an access link is Ethernet"})
	}
	as, err := h.addresses(a.Index)
	if err != nil {
		return finding(f, err)
	}
	for _, ad := range as {
		if ad.prefix.Addr().Is4() {
			return finding(f, &hinted{fmt.Errorf("%s has the address %s", name, ad.prefix), "remove it: on an access link Kedge answers, not the kernel"})
		}
	}
	if a.MasterIndex != 0 {
		master := strconv.Itoa(a.MasterIndex)
		if m, err := h.nl.LinkByIndex(a.MasterIndex); err == nil {
			master = m.Attrs().Name
		}
		f.Severity, f.Detail = Advice, f.Detail+", port of "+master
		f.Do = "name " + master + " instead: the bridge takes the frames of its ports"
	}
	return f
}

// CheckAddress looks whether an address is this host's, and usable.
func CheckAddress(a string) Finding {
	f := Finding{Name: "address " + a, Feature: "signalling from this address"}
	h, err := NewHost(Options{})
	if err != nil {
		return finding(f, err)
	}
	defer h.Close()
	as, err := h.addresses(0)
	if err != nil {
		return finding(f, err)
	}
	for _, ad := range as {
		if ad.prefix.Addr().String() != a {
			continue
		}
		name := strconv.Itoa(ad.ifi)
		if l, err := h.nl.LinkByIndex(ad.ifi); err == nil {
			name = l.Attrs().Name
			if l.Attrs().OperState == netlink.OperDown {
				f.Severity, f.Do = Advice, "set "+name+" up"
			}
		}
		f.Detail = "on " + name
		if ad.flags&unix.IFA_F_DADFAILED != 0 {
			return finding(f, &hinted{errors.New("another host has it, too: duplicate address detection failed"), "give one of them another address"})
		}
		return f
	}
	return finding(f, &hinted{errors.New("no link of this host has it"), "ip addr add " + a + "/128 dev ..."})
}
