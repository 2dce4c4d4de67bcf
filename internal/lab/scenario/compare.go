package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Compare is a bound: "<= 20", "> 0", "5"; numbers, or durations in seconds.
type Compare struct {
	Op  string // one of <= >= < > != ==
	Val float64
	dur bool
}

// ParseCompare reads a bound; no operator means equal.
func ParseCompare(s string) (Compare, error) {
	c := Compare{Op: "=="}
	rest := strings.TrimSpace(s)
	for _, op := range []string{"<=", ">=", "!=", "==", "<", ">"} {
		if strings.HasPrefix(rest, op) {
			c.Op, rest = op, strings.TrimSpace(rest[len(op):])
			break
		}
	}
	if v, err := strconv.ParseFloat(rest, 64); err == nil {
		c.Val = v
		return c, nil
	}
	if d, err := time.ParseDuration(rest); err == nil {
		c.Val, c.dur = d.Seconds(), true
		return c, nil
	}
	return c, fmt.Errorf("%q is no bound: want a number or duration, with <=, >=, <, >, != before it if need be", s)
}

// Holds says whether v is within the bound.
func (c Compare) Holds(v float64) bool {
	switch c.Op {
	case "<=":
		return v <= c.Val
	case ">=":
		return v >= c.Val
	case "<":
		return v < c.Val
	case ">":
		return v > c.Val
	case "!=":
		return v != c.Val
	}
	return v == c.Val
}

// String is the bound as written.
func (c Compare) String() string {
	v := strconv.FormatFloat(c.Val, 'g', -1, 64)
	if c.dur {
		v = time.Duration(c.Val * float64(time.Second)).String()
	}
	if c.Op == "==" {
		return v
	}
	return c.Op + " " + v
}
