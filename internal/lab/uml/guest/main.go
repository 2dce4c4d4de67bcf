// Command guest is what runs in a guest kernel: as its first process it mounts, loads modules and runs commands for the host;
// otherwise it is one of the small programs that talk to each other on both sides of the wire.
package main

import (
	"fmt"
	"os"
	"strings"
)

// tools are the programs, by name.
var tools = map[string]struct {
	usage string
	run   func(args []string) error
}{
	"echo":     {"ADDRESS PORT: sends back what comes by TCP, and by UDP with its traffic class in front", echo},
	"stream":   {"[@OWN] ADDRESS PORT OCTETS: sends them by TCP, and wants them back as they were", stream},
	"update":   {"HOME AGENT CAREOF SEQUENCE LIFETIME: sends a Binding Update, and says what is acknowledged", update},
	"agent":    {"ADDRESS: acknowledges every Binding Update, and says what came", homeAgent},
	"optimize": {"HOME CORRESPONDENT CAREOF SEQUENCE LIFETIME: registers with a correspondent by return routability", optimize},
	"programs": {"FILE: has the verifier look at all programs of the fast path", programs},
	"udp":      {"[@OWN] ADDRESS PORT CLASS WANTED OCTETS...: a datagram of each length, with a traffic class; the class that arrives (lost: none does), and the octets, must be as wanted", datagrams},
}

func main() {
	if os.Getpid() == 1 {
		boot()
	}
	if len(os.Args) < 2 || tools[os.Args[1]].run == nil {
		var list []string
		for name, t := range tools {
			list = append(list, "  "+name+" "+t.usage)
		}
		fmt.Fprintf(os.Stderr, "guest: want one of\n%s\n", strings.Join(list, "\n"))
		os.Exit(2)
	}
	if err := tools[os.Args[1]].run(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "guest %s: %v\n", strings.Join(os.Args[1:], " "), err)
		os.Exit(1)
	}
}
