package redisstore

import "strings"

// Key returns the Redis key of a subject's counters, tl:{<encoded subject>}.
//
// The braces make the subject the hash tag, so that a cluster keeps everything
// of a subject in one slot. Bytes that could close the tag, or that do not
// print, are written %XX: two subjects never share a key.
func Key(subject string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len("tl:{}") + len(subject))
	b.WriteString("tl:{")
	for i := range len(subject) {
		if c := subject[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	b.WriteByte('}')
	return b.String()
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("_-.:@/+=,", c) >= 0
}
