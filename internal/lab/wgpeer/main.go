// Command wgpeer is one end of a WireGuard tunnel, made of wireguard-go as it is: what the lab compares figures of mobile
// nodes with. It makes its interface, says "ready" and runs until it is told to end. Addresses and routes are set by who
// starts it.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "wgpeer:", err)
		os.Exit(1)
	}
}

func run() error {
	name := flag.String("interface", "wg0", "TUN interface to make")
	file := flag.String("config", "", "file in the form of WireGuard's configuration protocol")
	mtu := flag.Int("mtu", 1420, "of the interface")
	flag.Parse()
	f, err := os.Open(*file)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(bufio.NewReader(f))
	f.Close()
	if err != nil {
		return err
	}
	t, err := tun.CreateTUN(*name, *mtu)
	if err != nil {
		return err
	}
	dev := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wgpeer: "))
	defer dev.Close()
	if err := dev.IpcSet(string(text)); err != nil {
		return err
	}
	if err := dev.Up(); err != nil {
		return err
	}
	fmt.Println("ready")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-end:
	case <-dev.Wait():
	}
	return nil
}
