package ipsec

import (
	"fmt"
	"slices"
	"strings"
)

// Suite is an encryption and an integrity algorithm by name: "aes128-sha256", "null-sha384", "aes256-gcm".
//
//	encryption   aes128 aes192 aes256 (CBC, RFC 3602)   null (RFC 2410)   aes128 aes192 aes256 with gcm (RFC 4106, 16-octet ICV)
//	integrity    sha256 sha384 sha512 (HMAC, RFC 4868)   sha1 (HMAC-SHA1-96, RFC 2404: only to interoperate)
type Suite string

type encryption struct {
	name string
	key  int // octets
}

type integrity struct {
	name     string
	key, icv int // octets
}

var (
	encryptions = []encryption{{"aes128", 16}, {"aes192", 24}, {"aes256", 32}, {"null", 0}}
	integrities = []integrity{
		{"sha256", 32, 16}, {"sha384", 48, 24}, {"sha512", 64, 32}, // RFC 4868 2.6: keys of the hash's size, ICVs of half of it
		{"sha1", 20, 12},
	}
)

const (
	gcmICV  = 16
	gcmSalt = 4 // RFC 4106 8.1: the last four octets of the keying material
)

// parse splits the name. gcm: auth is the zero value.
func (s Suite) parse() (enc encryption, auth integrity, gcm bool, err error) {
	e, a, _ := strings.Cut(string(s), "-")
	i := slices.IndexFunc(encryptions, func(x encryption) bool { return x.name == e })
	j := slices.IndexFunc(integrities, func(x integrity) bool { return x.name == a })
	if i >= 0 && a == "gcm" && encryptions[i].key > 0 {
		return encryptions[i], integrity{}, true, nil
	}
	if i < 0 || j < 0 {
		return enc, auth, false, fmt.Errorf("unknown suite %q: want one of %s", s, strings.Join(Suites(), ", "))
	}
	return encryptions[i], integrities[j], false, nil
}

// Suites lists the suites that may have static keys, the recommended one first.
func Suites() []string {
	var all []string
	for _, e := range encryptions {
		for _, a := range integrities {
			all = append(all, e.name+"-"+a.name)
		}
	}
	return all
}

// errStaticGCM quotes RFC 4106 section 2.
const errStaticGCM = `RFC 4106 2: "implementations MUST use an automated key management system" with AES-GCM; with static keys write %s`

// CheckStatic says whether the suite may be used with static keys, and if not, why and what to write instead.
func (s Suite) CheckStatic() error {
	enc, _, gcm, err := s.parse()
	if err == nil && gcm {
		return fmt.Errorf("suite %s: "+errStaticGCM, s, enc.name+"-sha256")
	}
	return err
}

// confidential says whether the suite encrypts.
func (s Suite) confidential() bool { return !strings.HasPrefix(string(s), "null-") }
