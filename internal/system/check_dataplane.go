package system

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// CheckForwarding runs the checks of what makes a data plane in user space fast. All of it is advice: without, packets go one by one.
func CheckForwarding() []Finding {
	return []Finding{CheckTUNOffloads(), CheckTUNQueues(), CheckUDPOffload("UDP_SEGMENT", unix.UDP_SEGMENT, 1200, "4.18", "packets in UDP that leave together"),
		CheckUDPOffload("UDP_GRO", unix.UDP_GRO, 1, "5.0", "packets in UDP that come together")}
}

// tunFlags makes a TUN device with flags and gives its file, which takes the device along when it is closed.
func tunFlags(flags uint16) (fd int, err error) {
	if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, &hinted{fmt.Errorf("/dev/net/tun: %w", err), "see TUN"}
	}
	ifr, err := unix.NewIfreq("kedgecheck%d")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make a device: %w", err)
	}
	return fd, nil
}

// slower makes a finding of an error about something that only makes packets faster.
func slower(f Finding, err error, do string) Finding {
	if f = finding(f, err); err != nil {
		f.Severity = Advice
		if f.Do == "" {
			f.Do = do
		}
	}
	return f
}

// CheckTUNOffloads looks whether packets cross a TUN device in super packets of 64 KB.
func CheckTUNOffloads() Finding {
	f := Finding{Name: "TUN offloads", Detail: "TCP and UDP super packets", Feature: "speed of back end user"}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	fd, err := tunFlags(unix.IFF_VNET_HDR)
	if err == nil {
		defer unix.Close(fd)
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6); err == nil {
			return f
		}
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp); err == nil {
			f.Detail = "TCP super packets; those of UDP need Linux 6.2"
			return f
		}
	}
	return slower(f, err, "nothing: packets cross the device one by one")
}

// CheckTUNQueues looks whether several threads can read a TUN device.
func CheckTUNQueues() Finding {
	f := Finding{Name: "TUN queues", Detail: "a queue a processor", Feature: "speed of back end user on several processors"}
	fd, err := tunFlags(unix.IFF_MULTI_QUEUE)
	if err == nil {
		err = unix.Close(fd)
	}
	return slower(f, err, "nothing: one thread reads the device")
}

// CheckUDPOffload looks whether a UDP socket takes an option.
func CheckUDPOffload(name string, option, value int, since, feature string) Finding {
	f := Finding{Name: name, Detail: "sockets have it", Feature: "speed of back end user: " + feature}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, option, value)
	}
	if errors.Is(err, unix.ENOPROTOOPT) {
		err = errors.New("the kernel does not know it: it is of Linux " + since)
	}
	return slower(f, err, "nothing: such packets go one by one")
}
