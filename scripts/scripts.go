// Package scripts embeds the Lua scripts that count in Redis.
//
// Each file says at its top what it takes, what it returns and what is atomic.
// The package knows no Redis client: redisstore sends the scripts.
package scripts

import (
	"crypto/sha1" //nolint:gosec // the name Redis gives a script, not a secret
	"embed"
	"encoding/hex"
)

//go:embed *.lua
var files embed.FS

// A Script is a Lua script ready to send.
type Script struct {
	Source string
	SHA    string // its name for EVALSHA: SHA-1 in hex
}

// The scripts.
var (
	Take    = load("time.lua", "value.lua", "take.lua")
	Reset   = load("time.lua", "value.lua", "reset.lua")
	Refund  = load("time.lua", "value.lua", "refund.lua")
	Restore = load("time.lua", "value.lua", "restore.lua")
	Show    = load("show.lua")
)

// Time is the source of the functions that know when windows end, for tests
// that hold them against the calendar.
var Time = load("time.lua").Source

// load joins files, in order, to one script.
func load(names ...string) Script {
	var source []byte
	for _, name := range names {
		part, err := files.ReadFile(name)
		if err != nil {
			panic(err) // embedded: missing only if the build is wrong
		}
		source = append(source, part...)
	}
	sum := sha1.Sum(source) //nolint:gosec // as above
	return Script{Source: string(source), SHA: hex.EncodeToString(sum[:])}
}
