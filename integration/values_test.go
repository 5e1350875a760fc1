package integration

import (
	bigendian "encoding/binary"
	"sort"
	"strings"
)

// A storedWindow is a limit's numbers as a value in Redis holds them.
type storedWindow struct {
	limit     string
	used, end int64
}

// storedValue writes windows as scripts/value.lua says they stand.
func storedValue(windows ...storedWindow) string {
	sort.Slice(windows, func(i, j int) bool { return windows[i].limit < windows[j].limit })
	var names []string
	var used, ends []byte
	for _, w := range windows {
		names = append(names, w.limit)
		used = append(used, bigendian.BigEndian.AppendUint64(nil, uint64(w.used))[1:]...)
		ends = append(ends, bigendian.BigEndian.AppendUint64(nil, uint64(w.end))[2:]...)
	}
	return strings.Join(names, ",") + ":" + string(used) + string(ends)
}

func binary64(n uint64) []byte { return bigendian.BigEndian.AppendUint64(nil, n) }

// A frame is what scripts.Take takes beside its keys, with no check of what
// stands in it. See scripts/take.lua.
type frame struct {
	again  byte
	groups []frameGroup
}

type frameGroup struct {
	keys, n, m int
	head       string
	limits     [][3]uint64 // max, period, length
	runs       [][2]uint64 // cost, count
}

func (f frame) String() string {
	b := []byte{f.again}
	put := func(n uint64, size int) {
		b = append(b, bigendian.BigEndian.AppendUint64(nil, n)[8-size:]...)
	}
	for _, g := range f.groups {
		put(uint64(g.keys), 4)
		put(uint64(g.m), 2)
		put(uint64(g.n), 1)
		put(uint64(len(g.head)), 2)
		b = append(b, g.head...)
		for _, l := range g.limits {
			put(l[0], 7)
			put(l[1], 1)
			put(l[2], 6)
		}
		for _, r := range g.runs {
			put(r[0], 7)
			put(r[1], 7)
		}
	}
	return string(b)
}
