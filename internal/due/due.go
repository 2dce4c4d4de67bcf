// Package due orders what machines have to do by when it is due: a heap whose items know their place, so that one can be
// moved or taken out. Machines answer Deadline from its head and serve it on Tick.
package due

import (
	"container/heap"
	"slices"
)

// Queue is a priority queue. It is not safe for concurrent use.
type Queue[T any] struct {
	items items[T]
}

// New makes a queue. less orders by due time and, for equal times, by something that is the same in every run. place is
// where an item keeps its index; items that are in no queue have -1 there.
func New[T any](less func(a, b T) bool, place func(T) *int) Queue[T] {
	return Queue[T]{items[T]{less: less, place: place}}
}

// Len is the number of items.
func (q *Queue[T]) Len() int { return len(q.items.list) }

// Items lists what is in, in no order; the list stays as it is when the queue changes.
func (q *Queue[T]) Items() []T { return slices.Clone(q.items.list) }

// Min is the item that is due first.
func (q *Queue[T]) Min() (first T, ok bool) {
	if q.Len() == 0 {
		return first, false
	}
	return q.items.list[0], true
}

// Set puts an item in, or moves one whose time has changed.
func (q *Queue[T]) Set(x T) {
	if at := *q.items.place(x); at >= 0 {
		heap.Fix(&q.items, at)
		return
	}
	heap.Push(&q.items, x)
}

// Remove takes an item out, if it is in.
func (q *Queue[T]) Remove(x T) {
	if at := *q.items.place(x); at >= 0 {
		heap.Remove(&q.items, at)
	}
}

// items is the heap.Interface.
type items[T any] struct {
	list  []T
	less  func(a, b T) bool
	place func(T) *int
}

func (h *items[T]) Len() int           { return len(h.list) }
func (h *items[T]) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *items[T]) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	*h.place(h.list[i]), *h.place(h.list[j]) = i, j
}

func (h *items[T]) Push(x any) {
	item := x.(T)
	*h.place(item) = len(h.list)
	h.list = append(h.list, item)
}

func (h *items[T]) Pop() any {
	last := len(h.list) - 1
	item := h.list[last]
	var none T
	h.list[last] = none // let go of it
	h.list = h.list[:last]
	*h.place(item) = -1
	return item
}
