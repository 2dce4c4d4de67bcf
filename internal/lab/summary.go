package lab

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// Print writes a result for people: what failed, traffic, handover phases, and where the files lie.
func (res *Result) Print(w io.Writer) {
	state := "ok"
	if !res.OK {
		state = "FAILED"
	}
	fmt.Fprintf(w, "%-6s %s with data plane %s in %.1f s (budget %.0f s)\n", state, res.Scenario, res.Plane, res.Seconds, res.Budget)
	if !res.OK {
		fmt.Fprintf(w, "       %s\n", strings.ReplaceAll(res.Failure, "\n", "\n       "))
	}
	if len(res.Hosts) > 0 {
		fmt.Fprintf(w, "\n  %-10s %-9s %-6s %6s  %-14s %-28s %s\n", "host", "client", "at", "moves", "IPv4", "IPv6", "addresses kept")
		for i, h := range res.Hosts {
			if i >= shownHosts {
				fmt.Fprintf(w, "  and %d more\n", len(res.Hosts)-i)
				break
			}
			kept := "yes"
			if !h.Kept {
				kept = "NO"
			}
			fmt.Fprintf(w, "  %-10s %-9s %-6s %6d  %-14s %-28s %s\n", h.Name, h.Client, h.At, h.Moves, orDash(h.V4), orDash(h.V6), kept)
		}
	}
	if len(res.Probes) > 0 {
		fmt.Fprintf(w, "\n  %-10s %-8s %8s %8s %8s %8s %14s %12s\n", "traffic", "kind", "sent", "lost", "doubled", "resets", "longest gap", "median RTT")
		names := make([]string, 0, len(res.Probes))
		for n := range res.Probes {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			p := res.Probes[n]
			sent, lost, dup, rtt := fmt.Sprint(p.Sent), fmt.Sprint(p.Lost), fmt.Sprint(p.Duplicates), fmt.Sprintf("%.2f ms", p.RTT50MS)
			if p.Kind == "tcp" || p.Kind == "download" {
				sent, lost, dup, rtt = fmt.Sprintf("%d KB", p.Octets/1000), "-", "-", "-"
			}
			if p.Kind == "bulk" {
				sent, lost, dup, rtt = fmt.Sprintf("%d KB", p.Octets/1000), "-", "-", fmt.Sprintf("%.1f Mbit/s", p.Rate)
			}
			if p.Kind == "udp" {
				rtt = fmt.Sprintf("%.2f ms 1way", p.RTT50MS)
			}
			fmt.Fprintf(w, "  %-10s %-8s %8s %8s %8s %8d %11.1f ms %12s\n", n, p.Kind, sent, lost, dup, p.Resets, p.GapMS, rtt)
		}
	}
	if len(res.Handover) > 0 {
		fmt.Fprintf(w, "\n  %-28s %6s %10s %10s\n", "handover phase", "moves", "p50", "p99")
		for _, p := range res.Handover {
			fmt.Fprintf(w, "  %-28s %6d %7.2f ms %7.2f ms\n", phaseText[p.Name], p.Count, p.P50ms, p.P99ms)
		}
	}
	printTable(w, res.Table)
	keys := ""
	if slices.Contains(res.Files, "esp_sa.txt") {
		keys = "; keys of ESP for Wireshark: esp_sa.txt"
	}
	fmt.Fprintf(w, "\n  captures  %s (all links: all.pcapng%s)\n  ladder    %s, ladder.svg\n", filepath.Join(res.Out, "*.pcap"), keys, filepath.Join(res.Out, "ladder.txt"))
	if res.OK && len(res.Covers) > 0 {
		fmt.Fprintf(w, "  covers: %s\n", strings.Join(res.Covers, " "))
	}
}

// shownHosts is how many lines the table of hosts has.
const shownHosts = 12

func orDash(s []string) string {
	if len(s) == 0 {
		return "-"
	}
	return strings.Join(s, " ")
}

// phaseText says what the phases are.
var phaseText = map[string]string{
	"link-up-to-trigger": "link up > sign of the host",
	"trigger-to-pbu":     "sign of the host > PBU",
	"pbu-to-pba":         "PBU > PBA",
	"pba-to-downlink":    "PBA > first downlink packet",
	"attach":             "sign > first downlink packet",
	"baseline-rtt":       "base line RTT of the core",
	"attach-less-rtt":    "the same less the base line",

	"link-up-to-care-of":     "link up > care-of address usable",
	"care-of-to-bu":          "care-of address usable > BU",
	"bu-to-ba":               "BU > BA",
	"ba-to-downlink":         "BA > first downlink packet",
	"care-of":                "care-of usable > first packet",
	"care-of-less-rtt":       "the same less the base line",
	"same-family":            "  same family",
	"same-family-less-rtt":   "  same family, less base line",
	"family-change":          "  other family",
	"family-change-less-rtt": "  other family, less base line",
}
