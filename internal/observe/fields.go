package observe

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"time"
)

// identifying are the fields that name a host; with redaction on they are shortened.
var identifying = map[string]bool{"sub": true, "hoa": true, "hnp": true, "mac": true, "ipv4": true, "prefixes": true, "link_layer_id": true,
	"hoa4": true, "coa": true, "former_coa": true, "home": true, "own": true, "outer_remote": true, "src_mac": true, "dst_mac": true, "src": true, "dst": true}

// secret are fields that no machine should emit; if one does, the value stays here.
var secret = []string{"secret", "password", "psk", "key_material", "auth_key", "enc_key"}

func newSalt() uint64 { return maphash.String(maphash.MakeSeed(), "kedge") }

// fieldsOf is the body of a record: its role, its change of state and its fields. The map is new.
func (h *Hub) fieldsOf(r *Record) map[string]any {
	out := map[string]any{}
	switch f := r.Fields.(type) {
	case nil:
	case map[string]any:
		for k, v := range f {
			out[k] = v
		}
	default: // a struct: by way of its JSON names
		b, err := json.Marshal(f)
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			out = map[string]any{"fields": fmt.Sprint(f)}
		}
	}
	for k, v := range out {
		if d, ok := v.(time.Duration); ok {
			out[k] = d.String()
		}
		if isSecret(k) {
			out[k] = "hidden"
		} else if h.redact && identifying[k] {
			out[k] = h.shorten(v)
		}
	}
	out["role"] = r.Role
	for k, v := range map[string]string{"from": r.From, "to": r.To, "reason": r.Why} {
		if v != "" {
			out[k] = v
		}
	}
	return out
}

func isSecret(key string) bool {
	for _, s := range secret {
		if strings.Contains(key, s) {
			return true
		}
	}
	return false
}

// shorten keeps the beginning of an identifier and four digits that tell two apart within one run of the daemon.
func (h *Hub) shorten(v any) string {
	s := strings.Trim(fmt.Sprint(v), "[]")
	if s == "" {
		return ""
	}
	sum := h.salt
	for i := range len(s) { // FNV-1a over a random basis
		sum = (sum ^ uint64(s[i])) * 1099511628211
	}
	keep := []rune(s)
	return fmt.Sprintf("%s…%04x", string(keep[:min(4, len(keep)/2)]), sum>>32&0xffff)
}
