package tierlimit

import (
	"context"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/window"
)

// The words of this file are for those who write a Store. Programs that ask for
// decisions need none of them.

// A Store counts charges per subject and limit. It knows neither tiers nor load:
// each charge brings the ceilings in force. Implementations are safe for concurrent
// use and pass the suite in store/storetest.
type Store interface {
	// Take charges c against all its ceilings, or against none if one of them would
	// be passed. A cost of 0 only reads. Take returns by c.Deadline. An error that
	// wraps ErrStoreUnavailable may come after the charge was made; it is never made
	// twice.
	Take(ctx context.Context, c Charge) (Outcome, error)
	// Reset forgets what the subject used of the named limits, or of all when none is
	// named.
	Reset(ctx context.Context, subject string, limits ...string) error
	HoldStore
}

// A LocalStore counts for this process alone while the Store is unavailable, for plans
// whose policy is Local. It is safe for concurrent use and never waits.
type LocalStore interface {
	// Saw takes what the Store answered to c: TakeShare counts from there. Answers may
	// arrive in another order than the Store gave them in (see Outcome.At).
	Saw(c Charge, o Outcome)
	// TakeShare charges c. Of what was left under each ceiling when the Store last
	// answered, it grants until the window ends this process' share, 1/replicas, and at
	// least a charge of 1.
	TakeShare(c Charge, replicas int) (Outcome, error)
	// Reset forgets what the subject used, as Store.Reset does.
	Reset(ctx context.Context, subject string, limits ...string) error
	HoldStore
}

// A Charge asks a Store to add Cost to each of a subject's windows.
type Charge struct {
	Subject  string  // valid: see ValidSubject
	Cost     int64   // 0 to MaxCount; 0 only reads
	Costs    []int64 // one for each ceiling: what it costs, or -1 for Cost, which is above 0; nil: Cost for all
	Hold     *Hold   // makes the charge correctable and counts under concurrent ceilings; nil: neither
	Held     bool    // fill in Count.Held
	Ceilings *Ceilings
	Deadline time.Time // when the answer must be there; the zero time: whenever the Store gives up
	Unknown  bool      // no customer has this name: anybody may have made it up
}

// A Ceiling is a limit as a Store sees it: the max in force, load included.
type Ceiling struct {
	Name       string // ValidName
	Max        int64  // 0 to MaxCount, or Unlimited
	Window     Window // the zero Window if Concurrent
	Sliding    bool   // counts the window before too, see window.Weighted; of fixed length
	Concurrent bool   // counts open holds
	Release    bool   // a hold that expires gives its charge back
}

// Ceilings are those that one charge is held to. They are checked when they are made,
// and never change: a Store can trust them, and keep them.
type Ceilings struct {
	list    []Ceiling
	specs   []window.Spec
	encoded string
	holds   bool
}

// NewCeilings returns the ceilings of list, which must be in ascending order of names,
// or a *FieldError.
func NewCeilings(list ...Ceiling) (*Ceilings, error) {
	if len(list) == 0 || len(list) > MaxLimits {
		return nil, &FieldError{Field: "limits", Value: strconv.Itoa(len(list)), Want: "1 to 16 limits"}
	}
	previous := ""
	for i := range list {
		if err := list[i].limit().Validate(); err != nil {
			return nil, err
		}
		if list[i].Name <= previous {
			return nil, &FieldError{Field: "name", Value: list[i].Name, Want: "unique and in ascending order"}
		}
		previous = list[i].Name
	}
	return newCeilings(slices.Clone(list)), nil
}

func (c *Ceiling) limit() Limit {
	l := Limit{Name: c.Name, Max: c.Max, Window: c.Window}
	if c.Release {
		l.OnExpiry = ReleaseOnExpiry
	}
	switch {
	case c.Concurrent:
		l.Algorithm = Concurrent
	case c.Sliding:
		l.Algorithm = Sliding
	}
	return l
}

// newCeilings is NewCeilings for a list that is valid, and is not changed any more.
func newCeilings(list []Ceiling) *Ceilings {
	c := &Ceilings{list: list, specs: make([]window.Spec, len(list))}
	for i := range list {
		c.specs[i] = list[i].Window.spec(list[i].Sliding)
		if list[i].Concurrent {
			c.specs[i] = window.Spec{Kind: window.Concurrent}
		}
		c.holds = c.holds || list[i].Concurrent || list[i].Release
	}
	c.encoded = c.encode()
	return c
}

// Len returns how many ceilings there are: 1 to MaxLimits.
func (c *Ceilings) Len() int { return len(c.list) }

// At returns the ceiling at index i, in ascending order of names.
func (c *Ceilings) At(i int) Ceiling { return c.list[i] }

// Name returns the name of the ceiling at index i.
func (c *Ceilings) Name(i int) string { return c.list[i].Name }

// Max returns the max of the ceiling at index i.
func (c *Ceilings) Max(i int) int64 { return c.list[i].Max }

// Spec returns how the ceiling at index i counts over time.
func (c *Ceilings) Spec(i int) window.Spec { return c.specs[i] }

// CountHolds reports whether any ceiling counts open holds or gives back the charges of
// expired holds. The outcome of each charge then depends on the subject's holds.
func (c *Ceilings) CountHolds() bool { return c.holds }

// Equal reports whether c and other are the same ceilings.
func (c *Ceilings) Equal(other *Ceilings) bool { return c == other || c.encoded == other.encoded }

// sameWindows reports whether c and other differ in nothing but their maxes.
func (c *Ceilings) sameWindows(other *Ceilings) bool {
	if c == other {
		return true
	}
	return slices.Equal(c.specs, other.specs) &&
		slices.EqualFunc(c.list, other.list, func(a, b Ceiling) bool { return a.Name == b.Name })
}

// Encoded returns the canonical form of c, which scripts/take.lua reads, big-endian:
// the number of ceilings (1 byte), the length of the head (2 bytes), the head (the
// names in order, with a comma between two and a colon at the end), and for each
// ceiling its max (7 bytes, all ones for Unlimited), the kind of its window (1 byte,
// see window.Kind; 64 more if Release), and the window's length or a period's anchor (6 bytes,
// milliseconds). Two Ceilings are equal exactly if their encoded forms are.
func (c *Ceilings) Encoded() string { return c.encoded }

func (c *Ceilings) encode() string {
	var head strings.Builder
	for i := range c.list {
		if i > 0 {
			head.WriteByte(',')
		}
		head.WriteString(c.list[i].Name)
	}
	head.WriteByte(':')
	b := []byte{byte(len(c.list))}                           //nolint:gosec // at most MaxLimits
	b = binary.BigEndian.AppendUint16(b, uint16(head.Len())) //nolint:gosec // at most 16 names of 64 bytes
	b = append(b, head.String()...)
	for i := range c.list {
		most, spec := uint64(1<<56-1), c.specs[i]
		if c.list[i].Max != Unlimited {
			most = uint64(c.list[i].Max) //nolint:gosec // valid: not negative
		}
		kind := byte(spec.Kind)
		if c.list[i].Release {
			kind |= 64
		}
		b = append(appendUint(b, most, 7), kind)
		b = appendUint(b, uint64(spec.Length+spec.Anchor), 6) //nolint:gosec // one of them is 0, none negative
	}
	return string(b)
}

// appendUint writes the size lowest bytes of n.
func appendUint(b []byte, n uint64, size int) []byte {
	for shift := 8 * (size - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift)) //nolint:gosec // one byte at a time
	}
	return b
}

// An Outcome is a Store's answer to a Charge.
type Outcome struct {
	Allowed bool
	Counts  []Count // one for each ceiling, in the same order; nobody else changes them
	Source  Source
	// Maxes are what a LocalStore held the charge to, one for each ceiling; nil where
	// that is the ceilings' own.
	Maxes []int64
	// StandsFor is how long a denial may be given again from memory while its windows
	// last. 0 for a store that is as near as memory.
	StandsFor time.Duration
	// At is when the store decided, on its own clock, in milliseconds since the epoch.
	At int64
	// TooManyHolds reports that the charge was denied because the subject has the maximum
	// number of open holds.
	TooManyHolds bool
	// FirstExpiry is the number of milliseconds until the first open hold expires; 0 if no
	// hold is open or Charge.CountsHolds is false.
	FirstExpiry int64
}

// A Count is the state of one window after the charge, or as found if the charge was
// not made.
type Count struct {
	window.State
	Began bool  // with this charge, or with one that travelled with it
	Held  int64 // the part of Used charged by open holds; 0 unless Charge.CountsHolds
}

// Validate reports a charge that no store should see, as a *FieldError. Stores call it
// before they write anything; the ceilings were checked when they were made.
func (c *Charge) Validate() error {
	if c.Ceilings == nil || len(c.Ceilings.list) == 0 {
		return &FieldError{Field: "ceilings", Value: "nil", Want: "those of NewCeilings"}
	}
	if err := checkSubject(c.Subject); err != nil {
		return err
	}
	if c.Costs != nil && len(c.Costs) != len(c.Ceilings.list) {
		return &FieldError{Field: "costs", Value: strconv.Itoa(len(c.Costs)), Want: "one for each ceiling"}
	}
	for _, cost := range c.Costs {
		if cost != takesCost {
			if err := checkCost(cost); err != nil {
				return err
			}
		}
	}
	if c.Hold != nil {
		if err := checkHold(c.Hold.For); err != nil {
			return err
		}
	}
	return checkCost(c.Cost)
}

// CostOf returns the cost of c under the ceiling at index i. Under a concurrent ceiling the
// cost is 1 if c has a hold.
func (c *Charge) CostOf(i int) int64 {
	switch {
	case c.Cost == 0:
		return 0
	case c.Ceilings.specs[i].Kind == window.Concurrent:
		if c.Hold != nil {
			return 1
		}
		return 0
	case c.Own(i):
		return c.Costs[i]
	}
	return c.Cost
}

// Begins reports whether c begins the window of the ceiling at index i if no window runs:
// it does if it has a cost there, or a hold, whose settlement may raise the cost from 0.
func (c *Charge) Begins(i int) bool {
	return c.Cost > 0 && c.Ceilings.specs[i].Kind != window.Concurrent && (c.Hold != nil || c.CostOf(i) > 0)
}

// Own reports whether c.Costs has a cost for the ceiling at index i.
func (c *Charge) Own(i int) bool { return c.Costs != nil && c.Costs[i] != takesCost }

// takesCost is the element of Charge.Costs for a ceiling that is charged Charge.Cost.
const takesCost = -1

// CountsHolds reports whether the outcome of c includes held usage.
func (c *Charge) CountsHolds() bool { return c.Hold != nil || c.Held || c.Ceilings.holds }

// Plain reports whether c does not depend on holds and has the same cost under all
// ceilings.
func (c *Charge) Plain() bool {
	return c.Costs == nil && !c.CountsHolds()
}
