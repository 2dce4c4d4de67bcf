package ipsec

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"

	"kedge/wire"
)

// header is SPI and sequence number, RFC 4303 2; trailer is Pad Length and Next Header.
const (
	header  = 8
	trailer = 2
)

// MaxOverhead is the most that ESP adds to a payload, in octets: header, IV, padding, trailer, ICV.
const MaxOverhead = header + aes.BlockSize + aes.BlockSize - 1 + trailer + sha512.Size/2

// resettable is what crypto/aes gives: a mode that takes another IV without another allocation.
type resettable interface {
	cipher.BlockMode
	SetIV([]byte)
}

// transform is the algorithms and keys of one direction. It has state; its owner locks.
type transform struct {
	enc, dec resettable // AES-CBC, or nil
	aead     cipher.AEAD
	mac      hash.Hash
	iv, icv  int // octets
	align    int // of payload, padding and trailer together
	esn      bool

	// Scratch: what a call through an interface is given lives on the heap.
	nonce [gcmSalt + 8]byte
	aad   [header + 4]byte
	sum   [sha512.Size]byte
}

// newTransform trusts nobody with lengths.
func newTransform(s Suite, k Half, esn bool) (*transform, error) {
	enc, auth, gcm, err := s.parse()
	if err != nil {
		return nil, err
	}
	if err := k.check(s); err != nil {
		return nil, err
	}
	t := &transform{align: 4, esn: esn, icv: auth.icv}
	if gcm {
		block, err := aes.NewCipher(k.Encryption[:enc.key])
		if err != nil {
			return nil, err
		}
		if t.aead, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
		copy(t.nonce[:], k.Encryption[enc.key:])
		t.iv, t.icv = 8, gcmICV
		return t, nil
	}
	hashes := map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New, "sha1": sha1.New}
	t.mac = hmac.New(hashes[auth.name], k.Integrity)
	if enc.key == 0 {
		return t, nil
	}
	block, err := aes.NewCipher(k.Encryption)
	if err != nil {
		return nil, err
	}
	var zero [aes.BlockSize]byte
	var ok1, ok2 bool
	t.enc, ok1 = cipher.NewCBCEncrypter(block, zero[:]).(resettable)
	t.dec, ok2 = cipher.NewCBCDecrypter(block, zero[:]).(resettable)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("crypto/aes gives a CBC mode that takes no IV")
	}
	t.iv, t.align = aes.BlockSize, aes.BlockSize
	return t, nil
}

// pad is the padding of a payload of n octets, length the ESP packet around it, both in octets.
func (t *transform) pad(n int) int { return -(n + trailer) & (t.align - 1) }

func (t *transform) length(n int) int { return header + t.iv + n + t.pad(n) + trailer + t.icv }

// seal appends the ESP packet around payload to b, RFC 4303 3.3.2. rand gives the IV of CBC; GCM takes the sequence number,
// which is unique under its key (RFC 4106 3.1).
func (t *transform) seal(b []byte, spi uint32, seq uint64, next uint8, payload []byte, rand io.Reader) ([]byte, error) {
	pad, total := t.pad(len(payload)), t.length(len(payload))
	start := len(b)
	b = slices.Grow(b, total)[:start+total]
	p := b[start:]
	binary.BigEndian.PutUint32(p, spi)
	binary.BigEndian.PutUint32(p[4:], uint32(seq))
	body := p[header+t.iv : total-t.icv]
	copy(body, payload)
	for i := range pad { // RFC 4303 2.4: 1, 2, 3, ...
		body[len(payload)+i] = byte(i + 1)
	}
	body[len(body)-2], body[len(body)-1] = byte(pad), next
	if t.aead != nil {
		binary.BigEndian.PutUint64(p[header:], seq)
		copy(t.nonce[gcmSalt:], p[header:])
		t.aead.Seal(body[:0], t.nonce[:], body, t.associated(spi, seq))
		return b, nil
	}
	if t.enc != nil {
		iv := p[header : header+t.iv]
		if _, err := io.ReadFull(rand, iv); err != nil {
			clear(p) // no payload in the clear behind the caller's length
			return b[:start], fmt.Errorf("no initialization vector: %w", err)
		}
		t.enc.SetIV(iv)
		t.enc.CryptBlocks(body, body)
	}
	copy(p[total-t.icv:], t.icvOf(p[:total-t.icv], seq))
	return b, nil
}

// open verifies the ICV of an ESP packet with the whole sequence number seq, decrypts, and appends the payload to b. What fits
// no packet of this transform is wire.Truncated or wire.BadLength.
func (t *transform) open(b, esp []byte, seq uint64) (out []byte, next uint8, reason wire.Reason) {
	n := len(esp) - header - t.iv - t.icv
	switch {
	case n < trailer:
		return b, 0, wire.Truncated
	case n%t.align != 0:
		return b, 0, wire.BadLength
	}
	start := len(b)
	body := esp[header+t.iv : len(esp)-t.icv]
	if t.aead != nil {
		copy(t.nonce[gcmSalt:], esp[header:])
		spi := binary.BigEndian.Uint32(esp)
		out, err := t.aead.Open(b, t.nonce[:], esp[header+t.iv:], t.associated(spi, seq))
		if err != nil {
			return b, 0, wire.BadICV
		}
		b = out
	} else {
		if !hmac.Equal(t.icvOf(esp[:len(esp)-t.icv], seq), esp[len(esp)-t.icv:]) {
			return b, 0, wire.BadICV
		}
		b = slices.Grow(b, n)[:start+n]
		if t.dec != nil {
			t.dec.SetIV(esp[header : header+t.iv])
			t.dec.CryptBlocks(b[start:], body)
		} else {
			copy(b[start:], body)
		}
	}
	plain := b[start:]
	pad, next := int(plain[n-2]), plain[n-1]
	if pad+trailer > n {
		return b[:start], 0, wire.BadPadding
	}
	for i, x := range plain[n-trailer-pad : n-trailer] {
		if x != byte(i+1) { // RFC 4303 2.4: the receiver SHOULD inspect
			return b[:start], 0, wire.BadPadding
		}
	}
	return b[:start+n-trailer-pad], next, ""
}

// icvOf is the ICV over the packet, and the high half of an extended sequence number behind it (RFC 4303 2.2.1).
func (t *transform) icvOf(p []byte, seq uint64) []byte {
	t.mac.Reset()
	t.mac.Write(p)
	if t.esn {
		binary.BigEndian.PutUint32(t.aad[:], uint32(seq>>32))
		t.mac.Write(t.aad[:4])
	}
	return t.mac.Sum(t.sum[:0])[:t.icv]
}

// associated is the additional authenticated data of GCM, RFC 4106 5.
func (t *transform) associated(spi uint32, seq uint64) []byte {
	binary.BigEndian.PutUint32(t.aad[:], spi)
	if t.esn {
		binary.BigEndian.PutUint64(t.aad[4:], seq)
		return t.aad[:]
	}
	binary.BigEndian.PutUint32(t.aad[4:], uint32(seq))
	return t.aad[:header]
}
