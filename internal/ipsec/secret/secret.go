// Package secret holds key material in a type that no log, error, status or trace can show.
package secret

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

// Redacted stands wherever key material would.
const Redacted = "[redacted]"

// Key is key material. Whatever prints, marshals or logs it says Redacted; convert it to []byte to use it.
type Key []byte

// String is Redacted.
func (Key) String() string { return Redacted }

// GoString is Redacted.
func (Key) GoString() string { return Redacted }

// Format writes Redacted for every verb: %x of a byte slice would not ask String.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// LogValue is Redacted.
func (Key) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText gives Redacted, so JSON and YAML show it too.
func (Key) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// UnmarshalText refuses: keys come from key files only.
func (*Key) UnmarshalText([]byte) error { return fmt.Errorf("a key is read from a key file only") }

// Hex is the material in clear, for key files.
func (k Key) Hex() string { return hex.EncodeToString(k) }
