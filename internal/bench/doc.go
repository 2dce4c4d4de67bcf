// Package bench compares ways of carrying packets from a gateway to an anchor on this machine: plain routing, tunnels of the kernel
// and of wireguard-go, and each back end of Kedge in each encapsulation. All are built at once, each in a chain of network namespaces
// of its own, and measured by turns: a round measures each way once in random order, and only values of one round are compared.
package bench
