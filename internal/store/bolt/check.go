package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"

	"kedge/internal/store"
)

// bbolt's file: pages, of which 0 and 1 hold the meta data in turn. A page header is {id 8, flags 2, count 2, overflow 4}.
// Elements of branch and leaf pages have 16 octets, {pos 4, key size 4, page 8} and {flags 4, pos 4, key size 4, value size
// 4}, with pos counted from the element. All in the machine's byte order.
const (
	pageHeader  = 16
	element     = 16
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	branchPage  = 0x01
	leafPage    = 0x02
	freePage    = 0x10
	bucketLeaf  = 0x01
	noFreelist  = ^uint64(0)
	maxDepth    = 64
	firstData   = 2 // pages before it are meta pages
	minPageSize = 1024
	maxPageSize = 64 << 10
)

var order = binary.NativeEndian

// verify reads the whole file and refuses what could mislead bbolt, which maps the file and believes every page: a file
// that is cut off or scribbled on would otherwise kill the process, or be read as something else.
func verify(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	v := &verifier{f: f, reachable: make(map[uint64]bool)}
	if !v.newestMeta() {
		return errors.New("no intact meta page: it is no store, or its beginning is overwritten")
	}
	if need := int64(v.pages) * int64(v.pageSize); st.Size() < need {
		return fmt.Errorf("it is cut off: %d octets of %d", st.Size(), need)
	}
	if err := v.bucket(v.root, "", 0); err != nil {
		return err
	}
	return v.freelist()
}

type verifier struct {
	f         io.ReaderAt
	pageSize  uint32
	root      uint64
	free      uint64
	pages     uint64
	txid      uint64
	reachable map[uint64]bool
}

// newestMeta finds the meta page that bbolt will use. The first is at 0, the second one page behind it.
func (v *verifier) newestMeta() bool {
	found := v.meta(0)
	if found {
		v.meta(int64(v.pageSize))
		return true
	}
	for size := int64(minPageSize); size <= maxPageSize; size *= 2 {
		if v.meta(size) {
			return int64(v.pageSize) == size
		}
	}
	return false
}

func (v *verifier) meta(at int64) bool {
	var b [pageHeader + metaSize]byte
	if _, err := v.f.ReadAt(b[:], at); err != nil {
		return false
	}
	p := b[pageHeader:]
	h := fnv.New64a()
	h.Write(p[:metaSize-8])
	txid, size := order.Uint64(p[48:]), order.Uint32(p[8:])
	if order.Uint32(p) != metaMagic || order.Uint64(p[metaSize-8:]) != h.Sum64() || size < minPageSize || size > maxPageSize {
		return false
	}
	if v.pageSize == 0 || txid > v.txid {
		v.pageSize, v.root, v.free, v.pages, v.txid = size, order.Uint64(p[16:]), order.Uint64(p[32:]), order.Uint64(p[40:]), txid
	}
	return true
}

// page reads a page with its overflow and marks it as in use.
func (v *verifier) page(id uint64) ([]byte, error) {
	if id < firstData || id >= v.pages {
		return nil, fmt.Errorf("page %d of %d does not exist", id, v.pages)
	}
	head := make([]byte, pageHeader)
	if _, err := v.f.ReadAt(head, int64(id)*int64(v.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if order.Uint64(head) != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, order.Uint64(head))
	}
	more := uint64(order.Uint32(head[12:]))
	if id+more >= v.pages {
		return nil, fmt.Errorf("page %d reaches beyond the end", id)
	}
	for i := id; i <= id+more; i++ {
		if v.reachable[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		v.reachable[i] = true
	}
	b := make([]byte, (more+1)*uint64(v.pageSize))
	if _, err := v.f.ReadAt(b, int64(id)*int64(v.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// bucket walks one tree. Records of an anchor's bucket have their checksums looked at.
func (v *verifier) bucket(root uint64, name string, depth int) error {
	var last []byte
	return v.tree(root, name, &last, depth)
}

func (v *verifier) tree(id uint64, name string, last *[]byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d: the tree is too deep", id)
	}
	b, err := v.page(id)
	if err != nil {
		return err
	}
	if err := v.content(b, name, last, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// content walks a page in memory, which may be one inside a value.
func (v *verifier) content(b []byte, name string, last *[]byte, depth int) error {
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("type %#x where a tree is expected", flags)
	}
	if pageHeader+count*element > len(b) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	for i := range count {
		at := pageHeader + i*element
		e := b[at:]
		if flags == branchPage {
			key, err := part(e, order.Uint32(e), 0, order.Uint32(e[4:]))
			if err != nil {
				return err
			}
			if bytes.Compare(key, *last) < 0 {
				return fmt.Errorf("branch %d is out of order", i)
			}
			if err := v.tree(order.Uint64(e[8:]), name, last, depth+1); err != nil {
				return err
			}
			continue
		}
		pos, ks, vs := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		key, err := part(e, pos, 0, ks)
		if err != nil {
			return err
		}
		val, err := part(e, pos, ks, vs)
		if err != nil {
			return err
		}
		if *last != nil && bytes.Compare(key, *last) <= 0 {
			return fmt.Errorf("key %x is out of order", key)
		}
		*last = key
		if err := v.leaf(order.Uint32(e), key, val, name, depth); err != nil {
			return err
		}
	}
	return nil
}

// leaf looks at one record or nested bucket.
func (v *verifier) leaf(flags uint32, key, val []byte, name string, depth int) error {
	if flags&bucketLeaf == 0 {
		if strings.HasPrefix(name, "anchor/") {
			_, err := unseal(key, val)
			return err
		}
		return nil
	}
	if len(val) < 16 {
		return fmt.Errorf("bucket %q has no header", key)
	}
	if root := order.Uint64(val); root != 0 {
		return v.bucket(root, string(key), depth+1)
	}
	if len(val) < 16+pageHeader {
		return fmt.Errorf("bucket %q has no page", key)
	}
	var last []byte
	return v.content(val[16:], string(key), &last, depth+1)
}

// part cuts size octets out of an element's data.
func part(e []byte, pos, skip, size uint32) ([]byte, error) {
	from := uint64(pos) + uint64(skip)
	if to := from + uint64(size); to <= uint64(len(e)) {
		return e[from:to], nil
	}
	return nil, errors.New("an element reaches beyond its page")
}

// freelist refuses free pages that are in use: they would be overwritten.
func (v *verifier) freelist() error {
	if v.free == noFreelist {
		return nil
	}
	b, err := v.page(v.free)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	if order.Uint16(b[8:]) != freePage {
		return fmt.Errorf("free list: page %d has type %#x", v.free, order.Uint16(b[8:]))
	}
	n, at := uint64(order.Uint16(b[10:])), pageHeader
	if n == 0xffff {
		n, at = order.Uint64(b[at:]), at+8
	}
	if n > uint64(len(b)-at)/8 {
		return fmt.Errorf("free list: %d pages do not fit", n)
	}
	for i := range n {
		id := order.Uint64(b[at+int(i)*8:])
		if id < firstData || id >= v.pages || v.reachable[id] {
			return fmt.Errorf("free list: page %d is in use or does not exist", id)
		}
		v.reachable[id] = true
	}
	return nil
}

// checkFile verifies a file under its lock, so that no other process writes meanwhile.
func checkFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close() // and with it the lock
	if err := lock(f); err != nil {
		return fmt.Errorf("store %s: %w%s", path, err, holder(path))
	}
	if err := verify(f); err != nil {
		return &store.CorruptError{Path: path, Err: err}
	}
	return nil
}
