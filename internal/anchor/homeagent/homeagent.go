// Package homeagent is the home agent's rules and state: registrations that mobile nodes make themselves (RFC 6275 section 10,
// RFC 5555 sections 4 and 5, draft-soliman-v4v6-mipv6-00).
package homeagent
