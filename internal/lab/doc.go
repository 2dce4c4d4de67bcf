// Package lab builds whole networks in network namespaces on one machine from one scenario file each, runs the real
// `kedge` binary in them, with hosts as they come: the kernel's own SLAAC and the DHCP clients dhclient, udhcpc and dhcpcd.
// Then it does what the scenario says (hosts move, daemons die, frames vanish) and checks what must hold.
//
// Mobile nodes run the real binary too, in role node, beside an ordinary DHCP client, and visit networks whose routers are
// radvd, dnsmasq and nftables. Keys of ESP are made for each run; the lab opens what was protected with code of its own, and
// lets tshark judge every integrity check value.
//
// A run leaves in its output folder: a pcap of every link and one with all of them, the daemons' events and logs, and the
// signalling as a ladder diagram in text and SVG. On the machine it leaves nothing: namespaces, processes and sockets go
// at the end of a run, at ctrl-C, at a panic; what a killed lab left behind is swept by the next one. Everything of a run
// has its id in the name (klID-NODE), and a lock says whether its lab still lives, so runs do not touch each other.
//
// One namespace, klID-net, is the wiring: a bridge for each link, with the hosts' ports isolated from each other, or the
// user-space link of package impair where a link has delay, loss or other impairments. Hosts send frames as on a real
// wire: checksum and segmentation offload are off, so captures are what a tap would show.
package lab
