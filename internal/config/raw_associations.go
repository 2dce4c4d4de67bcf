package config

// The shape of what more than signalling ESP protects between a mobile node and its home agent (RFC 4877 6).

type rawReturnRoutability struct {
	at
	SPIIn   leaf[spi]    `yaml:"spi-in" doc:"Security Parameters Index of what comes from the peer: its spi-out." ex:"0x103" req:"1" range:"256..2147483647" rfc:"RFC 4303 2.1: 1 to 255 are reserved; 2^31 and up is for data"`
	SPIOut  leaf[spi]    `yaml:"spi-out" doc:"Security Parameters Index of what goes to the peer: its spi-in." ex:"0x104" req:"1" range:"256..4294967295" rfc:"RFC 4303 2.1: 1 to 255 are reserved"`
	Suite   leaf[string] `yaml:"suite" doc:"Encryption and integrity, the same at both ends. It must encrypt (RFC 3776 4.3)." enum:"aes128-sha256|aes256-sha256|aes256-sha384|aes256-sha512|aes128-sha1" never:"gcm: static keys and GCM do not go together: \"implementations MUST use an automated key management system\" (RFC 4106 2)" def:"aes128-sha256"`
	KeyFile leaf[string] `yaml:"key-file" doc:"File with the keys, readable by its owner only. A relative path begins at this file's directory." ex:"keys/laptop-rr" req:"1"`
}

type rawPrefixDiscovery struct {
	at
	SPIIn   leaf[spi]    `yaml:"spi-in" doc:"Security Parameters Index of what comes from the peer: its spi-out." ex:"0x105" req:"1" range:"256..2147483647" rfc:"RFC 4303 2.1: 1 to 255 are reserved; 2^31 and up is for data"`
	SPIOut  leaf[spi]    `yaml:"spi-out" doc:"Security Parameters Index of what goes to the peer: its spi-in." ex:"0x106" req:"1" range:"256..4294967295" rfc:"RFC 4303 2.1: 1 to 255 are reserved"`
	Suite   leaf[string] `yaml:"suite" doc:"Encryption and integrity, the same at both ends." enum:"aes128-sha256|aes256-sha256|aes256-sha384|aes256-sha512|null-sha256|aes128-sha1" never:"gcm: static keys and GCM do not go together: \"implementations MUST use an automated key management system\" (RFC 4106 2)" def:"aes128-sha256"`
	KeyFile leaf[string] `yaml:"key-file" doc:"File with the keys, readable by its owner only. A relative path begins at this file's directory." ex:"keys/laptop-prefix" req:"1"`
}
