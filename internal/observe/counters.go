package observe

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kedge/internal/core"
)

// maxSeries limits the label values of one metric that come from emitted text; what exceeds it is counted as "other".
const maxSeries = 256

// handoverBuckets reach from 1 ms to 4 s.
var handoverBuckets = []float64{.001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4}

// storeBuckets reach from 100 µs (a cached file) to 1 s (a sick disk).
var storeBuckets = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1}

// maxPhases limits the parts of a handover that are told apart.
const maxPhases = 16

// counters are what is counted here; gauges come from sources at each scrape.
type counters struct {
	mu          sync.Mutex // protects the maps
	roles       map[string]*roleCounters
	lag         map[core.Shard]prometheus.Histogram
	offset      map[string]float64 // clock of a peer minus ours, by name from the config
	storeCommit prometheus.Histogram
}

func newCounters() *counters {
	return &counters{
		roles:  make(map[string]*roleCounters),
		lag:    make(map[core.Shard]prometheus.Histogram),
		offset: make(map[string]float64),
		storeCommit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kedge_store_commit_seconds",
			Help: "Time of one commit of the store.", Buckets: storeBuckets}),
	}
}

// roleCounters are the counters of one role.
type roleCounters struct {
	all  *counters
	name string
	// messages by direction, type and status+1; 0 is no status. Message counts here without a lock.
	messages [2][numTypes][257]atomic.Uint64

	mu          sync.Mutex // protects the maps
	drops       map[[2]string]uint64
	refusals    map[string]uint64
	retransmits map[string]uint64
	paths       map[[2]string]uint64 // what a mobile node found out about its path, and how
	restored    map[string]uint64    // what other programs had removed, by kind: a closed list
	handover    map[string]prometheus.Histogram
}

func (c *counters) role(name string) *roleCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.roles[name]
	if r == nil {
		r = &roleCounters{all: c, name: name, drops: make(map[[2]string]uint64), refusals: make(map[string]uint64), retransmits: make(map[string]uint64), paths: make(map[[2]string]uint64),
			restored: make(map[string]uint64), handover: make(map[string]prometheus.Histogram)}
		c.roles[name] = r
	}
	return r
}

const helpHandover = "From the attach trigger to working forwarding, and its phases."

func (c *counters) loopLag(shard core.Shard, late time.Duration) {
	c.mu.Lock()
	h := c.lag[shard]
	if h == nil {
		h = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kedge_loop_lag_seconds", Help: "How late a loop was for its machine's deadline.",
			Buckets: storeBuckets, ConstLabels: prometheus.Labels{"shard": strconv.Itoa(int(shard))}})
		c.lag[shard] = h
	}
	c.mu.Unlock()
	h.Observe(max(late.Seconds(), 0))
}

// emit counts an event.
func (r *roleCounters) emit(e *core.Emit) {
	switch e.Name {
	case "message-ignored":
		layer := "signalling"
		if l, ok := field(e, "layer").(string); ok {
			layer = l
		}
		r.mu.Lock()
		add(r.drops, [2]string{layer, e.Why}, [2]string{layer, "other"})
		r.mu.Unlock()
	case "refused":
		r.mu.Lock()
		add(r.refusals, e.Why, "other")
		r.mu.Unlock()
	case "retransmit":
		typ, _ := field(e, "type").(string)
		r.mu.Lock()
		add(r.retransmits, typ, "other")
		r.mu.Unlock()
	case "restored":
		fields, _ := e.Fields.(map[string]any)
		r.mu.Lock()
		for kind, n := range fields {
			if n, ok := n.(int); ok {
				r.restored[kind] += uint64(n)
			}
		}
		r.mu.Unlock()
	case "path":
		r.mu.Lock()
		add(r.paths, [2]string{e.To, e.Why}, [2]string{e.To, "other"})
		r.mu.Unlock()
	case "handover":
		phase, named := field(e, "phase").(string)
		if took, ok := field(e, "took_ms").(float64); ok && named {
			r.phase(phase).Observe(took / 1e3)
		}
	case "clock":
		off, ok := field(e, "offset_ms").(float64)
		peer, named := field(e, "peer").(string)
		if ok && named {
			r.all.mu.Lock()
			if _, known := r.all.offset[peer]; known || len(r.all.offset) < maxSeries {
				r.all.offset[peer] = off / 1e3
			}
			r.all.mu.Unlock()
		}
	}
}

// phase gives the histogram of a part of handovers.
func (r *roleCounters) phase(name string) prometheus.Histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handover[name] == nil && len(r.handover) >= maxPhases {
		name = "other"
	}
	h := r.handover[name]
	if h == nil {
		h = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kedge_handover_seconds", Help: helpHandover, Buckets: handoverBuckets,
			ConstLabels: prometheus.Labels{"role": r.name, "phase": name}})
		r.handover[name] = h
	}
	return h
}

// field reads one of an event's fields.
func field(e *core.Emit, name string) any {
	f, _ := e.Fields.(map[string]any)
	return f[name]
}

// add counts under a key, or under other when there are too many.
func add[K comparable](m map[K]uint64, key, other K) {
	if _, ok := m[key]; !ok && len(m) >= maxSeries {
		key = other
	}
	m[key]++
}

// message counts a signalling message. It allocates nothing: loops call it for every one.
func (r *roleCounters) message(dir string, body any, err error) {
	d := 0
	if dir == "out" {
		d = 1
	}
	typ, status := classify(body)
	if err != nil && dir == "in" && typ != typeUnreadable {
		typ, status = typeUnreadable, -1 // half a message is none
	}
	r.messages[d][typ][status+1].Add(1)
}
