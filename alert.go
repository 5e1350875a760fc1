package tierlimit

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"slices"
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
	c.alerts[i] = l.alertLevels()
}

// alertLevels returns at which usage each threshold is reached; nil if l has no max.
func (l *Limit) alertLevels() []int64 {
	if l.Max <= 0 {
		return nil
	}
	levels := make([]int64, len(l.Alerts))
	for i, threshold := range l.Alerts {
		levels[i] = usageAt(l.Max, threshold)
	}
	return levels
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
	if !e.plan.isCustomers() {
		return
	}
	for i, levels := range e.compiled.alerts {
		if count := &o.Counts[i]; len(levels) > 0 && count.Used >= levels[0] && count.Reset > 0 {
			a.reached(e.plan, e.Subject, &e.compiled.limits[i], levels, count.Used, o.At+count.Reset, o.At)
		}
	}
}

// settled tells of the thresholds that a settlement has reached. Windows of sliding limits are left
// to the next decision: a settlement does not say when they end.
func (a *alerts) settled(plan *Plan, subject string, s *Settlement) {
	if !plan.isCustomers() {
		return
	}
	for i := range s.Limits {
		one := &s.Limits[i]
		j := slices.IndexFunc(plan.cfg.Limits, func(l Limit) bool { return l.Name == one.Limit && len(l.Alerts) > 0 && l.Algorithm != Sliding })
		if j >= 0 && !one.Ended {
			limit := &plan.cfg.Limits[j]
			a.reached(plan, subject, limit, limit.alertLevels(), one.Used, one.End, s.At)
		}
	}
}

// isCustomers reports whether p is surely the plan of a customer.
func (p *Plan) isCustomers() bool { return !p.cfg.Unknown && !p.cfg.Fallback }

// reached tells of the thresholds of a limit that used has reached, unless that was told before.
func (a *alerts) reached(plan *Plan, subject string, limit *Limit, levels []int64, used, ends, at int64) {
	for i := 0; i < len(levels) && used >= levels[i]; i++ {
		mark := a.mark(subject, limit.Name, ends, limit.Alerts[i])
		set := a.set(mark)
		if wasTold(set, mark) {
			continue
		}
		if a.tell(Crossing{
			Subject: subject, Tier: plan.cfg.Tier, Limit: limit.Name, Threshold: limit.Alerts[i],
			Used: used, Max: limit.Max, EndsAt: time.UnixMilli(ends).UTC(), At: time.UnixMilli(at).UTC(),
		}) {
			remember(set, mark)
		}
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

func wasTold(set []atomic.Uint64, mark uint64) bool {
	for i := range set {
		if set[i].Load() == mark {
			return true
		}
	}
	return false
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
