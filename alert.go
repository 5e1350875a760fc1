package tierlimit

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Crossing is a window whose usage has reached a threshold.
type Crossing struct {
	Subject   string
	Tier      string
	Limit     string
	Threshold int       // percent of Max
	Used      int64     // when the threshold was seen to be reached
	Max       int64     // as the plan says, whatever the load
	EndsAt    time.Time // of the window, by the store's clock; all processes see the same
	At        time.Time // when the store counted, by its own clock
}

// Bounds of Limit.Alerts.
const (
	MaxAlerts    = 8    // thresholds of a limit
	MaxThreshold = 1000 // percent: usage passes 100 where a limit is in shadow mode, or a settlement costs more
)

// CheckAlerts returns a *FieldError unless list can be Limit.Alerts.
func CheckAlerts(list []int) error {
	ok := len(list) <= MaxAlerts
	for i, threshold := range list {
		ok = ok && threshold >= 1 && threshold <= MaxThreshold && (i == 0 || threshold > list[i-1])
	}
	if !ok {
		return &FieldError{Field: "alerts", Value: alertsText(list), Want: "at most 8 whole numbers from 1 to 1000, percent of the max, in ascending order"}
	}
	return nil
}

func alertsText(list []int) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ", ")
}

// addAlerts works out at which usage the thresholds of limit i are reached.
func (c *compiled) addAlerts(i int) {
	l := &c.limits[i]
	if len(l.Alerts) == 0 || l.Max <= 0 {
		return
	}
	if c.alerts == nil {
		c.alerts = make([][]int64, len(c.limits))
	}
	for _, threshold := range l.Alerts {
		c.alerts[i] = append(c.alerts[i], usageAt(l.Max, threshold))
	}
}

// usageAt returns the smallest usage that is at least threshold percent of most.
func usageAt(most int64, threshold int) int64 {
	hi, lo := bits.Mul64(uint64(most), uint64(threshold)) //nolint:gosec // neither is negative
	lo, carry := bits.Add64(lo, 99, 0)
	at, _ := bits.Div64(hi+carry, lo, 100)
	return int64(at) //nolint:gosec // at most ten times MaxCount
}

// alerts tells of windows that have reached a threshold. It looks at the level of usage, not at
// the one charge that passes the threshold: a charge whose reply was lost, or whose process ended,
// is seen with the next decision for the subject. What was told is remembered in a table of fixed
// size without locks; a crossing that was forgotten is told again.
type alerts struct {
	tell func(Crossing) bool
	seed maphash.Seed

	made  sync.Once
	table atomic.Pointer[[]atomic.Uint64] // made with the first crossing
}

// The table holds 2^19 crossings in sets of four: 4 MiB.
const (
	toldSlots = 1 << 19
	toldWays  = 4
)

func newAlerts(tell func(Crossing) bool) *alerts {
	if tell == nil {
		return nil
	}
	return &alerts{tell: tell, seed: maphash.MakeSeed()}
}

// see tells of the thresholds that the store's answer to e has reached. Only customers are looked
// at: anybody can make up another name.
func (a *alerts) see(e *evaluation, o *Outcome) {
	for i, levels := range e.compiled.alerts {
		count := &o.Counts[i]
		if len(levels) == 0 || count.Used < levels[0] || count.Reset == 0 || e.plan.cfg.Unknown || e.plan.cfg.Fallback {
			continue
		}
		for j := 0; j < len(levels) && count.Used >= levels[j]; j++ {
			a.reached(e, o, i, j)
		}
	}
}

// reached tells that threshold j of limit i is reached, unless that was told before.
func (a *alerts) reached(e *evaluation, o *Outcome, i, j int) {
	limit, count := &e.compiled.limits[i], &o.Counts[i]
	ends := o.At + count.Reset
	mark := a.mark(e.Subject, limit.Name, ends, limit.Alerts[j])
	set := a.set(mark)
	for k := range set {
		if set[k].Load() == mark {
			return
		}
	}
	if a.tell(Crossing{
		Subject: e.Subject, Tier: e.plan.cfg.Tier, Limit: limit.Name, Threshold: limit.Alerts[j],
		Used: count.Used, Max: limit.Max, EndsAt: time.UnixMilli(ends).UTC(), At: time.UnixMilli(o.At).UTC(),
	}) {
		remember(set, mark)
	}
}

// mark identifies a crossing. It is never 0.
func (a *alerts) mark(subject, limit string, ends int64, threshold int) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	var numbers [16]byte
	binary.LittleEndian.PutUint64(numbers[:8], uint64(ends))      //nolint:gosec // bits
	binary.LittleEndian.PutUint64(numbers[8:], uint64(threshold)) //nolint:gosec // bits
	_, _ = h.Write(numbers[:])                                    // it does not fail
	_, _ = h.WriteString(limit)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(subject)
	return h.Sum64() | 1
}

func (a *alerts) set(mark uint64) []atomic.Uint64 {
	a.made.Do(func() {
		table := make([]atomic.Uint64, toldSlots)
		a.table.Store(&table)
	})
	first := mark >> 1 % (toldSlots / toldWays) * toldWays
	return (*a.table.Load())[first : first+toldWays]
}

// remember puts mark into a free slot of set, or in the place of any other mark.
func remember(set []atomic.Uint64, mark uint64) {
	for i := range set {
		if set[i].CompareAndSwap(0, mark) {
			return
		}
	}
	set[mark>>40%toldWays].Store(mark)
}
