package redisstore

import "strings"

// Key returns the Redis key of a subject's counters, tl:{<encoded subject>}.
//
// The braces make the subject the hash tag, so that a cluster keeps everything
// of a subject in one slot. Bytes that could close the tag, or that do not
// print, are written %XX: two subjects never share a key.
func Key(subject string) string { return string(appendKey(nil, subject)) }

func appendKey(b []byte, subject string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, "tl:{"...)
	for i := range len(subject) {
		if c := subject[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '}')
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("_-.:@/+=,", c) >= 0
}
