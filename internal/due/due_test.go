package due

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type item struct{ at, name, place int }

func less(a, b *item) bool {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) < 0
}

// TestAgainstList compares the queue with a sorted list under random operations.
func TestAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New(less, func(i *item) *int { return &i.place })
		all := make([]*item, 20)
		for n := range all {
			all[n] = &item{name: n, place: -1}
		}
		var in []*item
		for range 100 {
			i := all[rapid.IntRange(0, len(all)-1).Draw(t, "item")]
			if rapid.Bool().Draw(t, "remove") {
				q.Remove(i)
				in = slices.DeleteFunc(in, func(x *item) bool { return x == i })
			} else {
				i.at = rapid.IntRange(0, 9).Draw(t, "at")
				q.Set(i)
				if !slices.Contains(in, i) {
					in = append(in, i)
				}
			}
			first, ok := q.Min()
			if q.Len() != len(in) || ok != (len(in) > 0) || ok && slices.ContainsFunc(in, func(x *item) bool { return less(x, first) }) {
				t.Fatalf("the first of %d is %+v", q.Len(), first)
			}
		}
		slices.SortFunc(in, func(a, b *item) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) })
		for _, want := range in {
			got, _ := q.Min()
			if got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			q.Remove(got)
		}
	})
}
