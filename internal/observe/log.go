package observe

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// maxRefusals is how many refusals a second are logged; a stranger must not fill a disk. All are counted.
const maxRefusals = 10

// keyOrder is the order of the keys that most lines have; others follow by name.
var keyOrder = []string{"role", "id", "sub", "from", "to", "reason", "peer", "hoa", "hnp", "proxy_coa"}

// drainLog writes one line an event.
func (h *Hub) drainLog(sub *Subscription, log *slog.Logger) {
	var second time.Duration
	refusals, hidden := 0, 0
	ctx := context.Background()
	sub.each(func(r *Record, lost uint64) {
		if lost > 0 {
			log.Warn("log lines lost: the log is slower than the events", "self", h.self, "count", lost)
		}
		level := levelOf(r)
		if r.Name == "refused" {
			if s := r.Boot.Truncate(time.Second); s != second {
				if hidden > 0 {
					log.Warn("more refusals, not logged", "self", h.self, "count", hidden)
				}
				second, refusals, hidden = s, 0, 0
			}
			if refusals++; refusals > maxRefusals {
				hidden++
				return
			}
		}
		if !log.Enabled(ctx, level) {
			return
		}
		log.LogAttrs(ctx, level, r.Name, h.attrs(r)...)
	})
}

// levelOf says how loud a record is.
func levelOf(r *Record) slog.Level {
	switch r.Name {
	case "failed", "warning", "refused", "restored":
		return slog.LevelWarn
	}
	if r.Name == "revocation" && (r.To == "sent" || r.To == "done") { // the handover itself has been told
		return slog.LevelDebug
	}
	if r.From != r.To || r.Name == "session" { // a handoff is active -> active
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// attrs are a record's fields in a fixed order.
func (h *Hub) attrs(r *Record) []slog.Attr {
	body := h.fieldsOf(r)
	if r.ID != 0 {
		body["id"] = uint64(r.ID)
	}
	out := []slog.Attr{slog.String("self", h.self)}
	for _, k := range keyOrder {
		if v, ok := body[k]; ok {
			out = append(out, slog.Any(k, text(v)))
			delete(body, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(body)) {
		out = append(out, slog.Any(k, text(body[k])))
	}
	return out
}

// text lets values say themselves as they do in JSON, in both log formats.
func text(v any) any {
	switch v := v.(type) {
	case string, bool, int, int64, uint64, float64, uint8, uint16, uint32:
		return v
	case time.Duration:
		return v.String()
	case encoding.TextMarshaler:
		if b, err := v.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v)
}
