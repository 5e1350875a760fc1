// Package scripts embeds the Lua scripts that count in Redis.
//
// Each file says at its top what it takes, what it returns and what is atomic.
// The package knows no Redis client: redisstore sends the scripts.
package scripts

import (
	"crypto/sha1" //nolint:gosec // the name Redis gives a script, not a secret
	"embed"
	"encoding/hex"
	"strings"
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
	Take    = script(read("time.lua"), read("lone.lua"), "local function make_any(now)\n", read("value.lua"), read("any.lua"), "end\n", read("take.lua"))
	Hold    = script(read("time.lua"), read("value.lua"), read("holds.lua"), "local function make_any(now)\n", read("any.lua"), "end\n", read("hold.lua"))
	Settle  = script(read("time.lua"), read("value.lua"), read("holds.lua"), read("settle.lua"))
	Renew   = script(read("time.lua"), read("value.lua"), read("holds.lua"), read("renew.lua"))
	Open    = script(read("time.lua"), read("value.lua"), read("holds.lua"), read("open.lua"))
	Reset   = script(read("time.lua"), read("value.lua"), read("holds.lua"), read("reset.lua"))
	Restore = script(read("time.lua"), read("value.lua"), read("restore.lua"))
	Show    = script(read("show.lua"))

	Publish   = script(read("time.lua"), read("publish.lua"))
	Published = script(read("time.lua"), read("published.lua"))
)

// Time is the source of the functions that know when windows end, for tests
// that hold them against the calendar.
var Time = read("time.lua")

func read(name string) string {
	source, err := files.ReadFile(name)
	if err != nil {
		panic(err) // embedded: missing only if the build is wrong
	}
	return string(source)
}

// script joins parts, in order.
func script(parts ...string) Script {
	source := strings.Join(parts, "")
	sum := sha1.Sum([]byte(source)) //nolint:gosec // as above
	return Script{Source: source, SHA: hex.EncodeToString(sum[:])}
}
