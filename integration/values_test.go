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
