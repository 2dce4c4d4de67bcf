package observe

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kedge/internal/core"
)

// Source gives values that others keep, at each scrape. A nil function gives none; a false result leaves its metrics out.
type Source struct {
	Role string
	// Status is a machine's: sessions by state, and pools.
	Status func() (core.Status, bool)
	// Bindings are a mobile node's. What is told of them has no address.
	Bindings func() ([]core.Binding, bool)
	// Drops are the data plane's, by text of a wire.Reason.
	Drops func() map[string]uint64
	// Refused are messages that the policy of signalling or its cryptography refused, by text of a wire.Reason.
	Refused func() map[string]uint64
}

// AddSource adds values to every scrape.
func (h *Hub) AddSource(s Source) {
	h.sources.Lock()
	h.sources.list = append(h.sources.list, s)
	h.sources.Unlock()
}

// Gatherer gives all metrics: those of the daemon, of the Go runtime and of the process.
func (h *Hub) Gatherer() prometheus.Gatherer {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collector{h}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// collector is the whole of the daemon's metrics.
type collector struct{ h *Hub }

var (
	descSessions    = desc("sessions", "Sessions by state.", "role", "state")
	descMessages    = desc("messages_total", "Signalling messages; status is that of an answer.", "role", "dir", "type", "status")
	descDrops       = desc("drops_total", "Messages and packets that were dropped.", "role", "layer", "reason")
	descRefusals    = desc("refusals_total", "Requests that were refused.", "role", "reason")
	descRetransmits = desc("retransmits_total", "Requests that were sent again.", "role", "type")
	descPaths       = desc("path_changes_total", "What a mobile node found out about its path to the home agent: dead, alive, udp.", "role", "to", "reason")
	descRestored    = desc("restored_total", "Rules, routes, addresses and settings that were put back because another program had removed them.", "role", "kind")
	descCareOf      = desc("care_of", "Bindings of a mobile node by the family of its care-of address and the framing of packets.", "family", "framing")
	descPoolFree    = desc("pool_free", "Addresses or prefixes of a pool that can be handed out.", "pool")
	descClock       = desc("clock_offset_seconds", "A peer's clock minus ours, when it last refused a timestamp.", "peer")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kedge_"+name, help, labels, nil)
}

// Describe says nothing: which shards and roles there are is seen at the scrape.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything once.
func (c collector) Collect(out chan<- prometheus.Metric) {
	n := c.h.count
	n.storeCommit.Collect(out)
	n.mu.Lock()
	for _, h := range n.lag {
		h.Collect(out)
	}
	for peer, off := range n.offset {
		out <- prometheus.MustNewConstMetric(descClock, prometheus.GaugeValue, off, peer)
	}
	roles := maps.Clone(n.roles)
	n.mu.Unlock()
	sum := sums{}
	for role, r := range roles {
		r.collect(role, out, sum)
	}
	c.h.sources.Lock()
	sources := slices.Clone(c.h.sources.list)
	c.h.sources.Unlock()
	for _, s := range sources {
		s.collect(sum)
	}
	sum.collect(out)
}

// sums add up what several shards or layers count under the same labels: a series may be reported once only.
type sums map[series]float64

type series struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels [3]string
}

func (s sums) add(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
	k := series{desc: d, kind: kind}
	copy(k.labels[:], labels)
	s[k] += v
}

// labelCount is how many of a series' labels its description has.
var labelCount = map[*prometheus.Desc]int{descSessions: 2, descDrops: 3, descCareOf: 2, descPoolFree: 1}

func (s sums) collect(out chan<- prometheus.Metric) {
	for k, v := range s {
		out <- prometheus.MustNewConstMetric(k.desc, k.kind, v, k.labels[:labelCount[k.desc]]...)
	}
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (r *roleCounters) collect(role string, out chan<- prometheus.Metric, sum sums) {
	for d, dir := range [2]string{"in", "out"} {
		for typ, name := range typeNames {
			for i := range r.messages[d][typ] {
				v := r.messages[d][typ][i].Load()
				if v == 0 {
					continue
				}
				status := ""
				if i > 0 {
					status = strconv.Itoa(i - 1)
				}
				counter(out, descMessages, v, role, dir, name, status)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, v := range r.drops {
		sum.add(descDrops, prometheus.CounterValue, float64(v), role, k[0], k[1])
	}
	for k, v := range r.refusals {
		counter(out, descRefusals, v, role, k)
	}
	for k, v := range r.retransmits {
		counter(out, descRetransmits, v, role, k)
	}
	for k, v := range r.paths {
		counter(out, descPaths, v, role, k[0], k[1])
	}
	for k, v := range r.restored {
		counter(out, descRestored, v, role, k)
	}
	for _, h := range r.handover {
		h.Collect(out)
	}
}

func (s *Source) collect(sum sums) {
	if s.Status != nil {
		if st, ok := s.Status(); ok {
			for state, n := range st.Sessions {
				sum.add(descSessions, prometheus.GaugeValue, float64(n), s.Role, state)
			}
			for _, p := range st.Pools {
				sum.add(descPoolFree, prometheus.GaugeValue, float64(p.Free), p.Name)
			}
		}
	}
	if s.Bindings != nil {
		if list, ok := s.Bindings(); ok {
			for _, b := range list {
				sum.add(descCareOf, prometheus.GaugeValue, 1, family(b.CareOf), b.Framing)
			}
		}
	}
	for layer, drops := range map[string]func() map[string]uint64{"forwarding": s.Drops, "security": s.Refused} {
		if drops == nil {
			continue
		}
		for reason, n := range drops() {
			sum.add(descDrops, prometheus.CounterValue, float64(n), s.Role, layer, reason)
		}
	}
}

func family(a netip.Addr) string {
	switch {
	case a.Is4() || a.Is4In6():
		return "v4"
	case a.IsValid():
		return "v6"
	}
	return "none"
}
