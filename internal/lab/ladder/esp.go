package ladder

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
)

// SA is what is needed to read ESP of one security association (RFC 4303): AES-CBC and HMAC. It is an implementation of its
// own, so that what the daemons send is judged by other code than theirs.
type SA struct {
	Encryption []byte // AES key; empty = NULL encryption
	Integrity  []byte
	Hash       string // sha1 sha256 sha384 sha512
}

// Keys are the associations that a reader knows, by SPI. It may be nil.
type Keys map[uint32]SA

var hashes = map[string]struct {
	make func() hash.Hash
	icv  int
}{"sha1": {sha1.New, 12}, "sha256": {sha256.New, 16}, "sha384": {sha512.New384, 24}, "sha512": {sha512.New, 32}}

// open verifies and decrypts the payload of an ESP packet: next is the number of what is inside. ok is false for an unknown
// SPI, a wrong integrity check value and what is malformed.
func (k Keys) open(b []byte) (next uint8, inner []byte, ok bool) {
	if len(b) < 8 {
		return 0, nil, false
	}
	sa, known := k[binary.BigEndian.Uint32(b)]
	h, usable := hashes[sa.Hash]
	if !known || !usable || len(b) < 8+h.icv {
		return 0, nil, false
	}
	body, icv := b[:len(b)-h.icv], b[len(b)-h.icv:]
	mac := hmac.New(h.make, sa.Integrity)
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil)[:h.icv], icv) {
		return 0, nil, false
	}
	body = body[8:]
	if len(sa.Encryption) > 0 {
		c, err := aes.NewCipher(sa.Encryption)
		if err != nil || len(body) < 2*aes.BlockSize || len(body)%aes.BlockSize != 0 {
			return 0, nil, false
		}
		plain := make([]byte, len(body)-aes.BlockSize)
		cipher.NewCBCDecrypter(c, body[:aes.BlockSize]).CryptBlocks(plain, body[aes.BlockSize:])
		body = plain
	}
	if len(body) < 2 || len(body) < 2+int(body[len(body)-2]) {
		return 0, nil, false
	}
	return body[len(body)-1], body[:len(body)-2-int(body[len(body)-2])], true
}
