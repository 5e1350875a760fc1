package tierlimit

import (
	"context"
	"math"
	"strconv"
	"time"
)

// A Store counts charges per subject and limit. It knows neither tiers nor
// load: each charge brings the ceilings in force. Implementations are safe for
// concurrent use and pass the suite in store/storetest.
type Store interface {
	// Take charges c against all its ceilings, or against none if one of them
	// would be passed. A cost of 0 only reads. An error that wraps
	// ErrStoreUnavailable may come after the charge was made; it is never made
	// twice.
	Take(ctx context.Context, c Charge) (Outcome, error)
	// Reset forgets what the subject used of the named limits, or of all when
	// none is named.
	Reset(ctx context.Context, subject string, limits ...string) error
	// Refund takes a charge off those of its windows that still run, once for each
	// nonce. It reports whether it took anything off.
	Refund(ctx context.Context, r Refund) (refunded bool, err error)
}

// An Immediate is a Store that can answer some charges at once, from what it has
// in this process. A Limiter asks it first: there is nothing to wait for, and so
// no budget to keep. A Store that wraps another and wants to see every charge
// must not pass this on.
type Immediate interface {
	// TakeNow answers as Take does. If it cannot answer now, ok is false and
	// nothing was charged.
	TakeNow(c Charge) (o Outcome, ok bool)
}

// A Charge asks a Store to add Cost to each of a subject's windows.
type Charge struct {
	Subject  string
	Cost     int64     // 0 to MaxCount
	Ceilings []Ceiling // ascending by name, names unique, at least one; shared, never changed
	Counts   []Count   // room for the answer's counts, of length 0; a Store makes its own if it is too small
}

// A Ceiling is a limit as a Store sees it: the max in force, load included.
type Ceiling struct {
	Name   string
	Max    int64 // 0 to MaxCount, or Unlimited
	Window Window
	Lease  bool // a Store that others share may take a part of it to serve alone

	Sliding bool // counts the window before too, by [Weighted]; of fixed length, and not leased
}

func (c *Ceiling) algorithm() Algorithm {
	if c.Sliding {
		return Sliding
	}
	return Fixed
}

// An Outcome is a Store's answer to a Charge.
type Outcome struct {
	Allowed bool
	Counts  []Count // one for each ceiling, in the same order
	Source  Source
	// StandsFor is how long a denial may be given again from memory while its
	// windows last. 0 for a store that is as near as memory.
	StandsFor time.Duration
	// At is when the store decided, on its own clock, in milliseconds since the
	// epoch; of a charge served from a lease, when that was charged.
	At int64
}

// A Count is the state of one window after the charge, or as found if the
// charge was not made.
type Count struct {
	Used  int64
	Reset time.Duration // until nothing of it is left, to the millisecond; 0 when a fixed window has not begun
	Began bool          // with this charge, or with one that travelled with it
	End   int64         // when it ends, or a sliding one turns, on the store's clock: milliseconds since the epoch; 0 when it has not begun

	// Of a sliding window: Used is Weighted(Previous, Turn, Length) and what was
	// used since it last turned.
	Previous int64         // used of the window before
	Turn     time.Duration // until it turns: what was used is then of the window before; 0 when it has not begun
}

// Weighted is what counts of a sliding window's previous charges while it turns
// in a while: the part of them that lies within the last length, rounded up. It
// is the approximation by two counters that is usual; see for instance
// https://blog.cloudflare.com/counting-things-a-lot-of-different-things/.
func Weighted(previous int64, turn, length time.Duration) int64 {
	if turn <= 0 || previous <= 0 {
		return 0
	}
	part := float64(turn.Milliseconds()) / float64(length.Milliseconds())
	return int64(math.Ceil(float64(previous) * min(part, 1)))
}

// Room returns a count for each ceiling, for a Store to fill in: those of
// c.Counts where they are enough.
func (c *Charge) Room() []Count {
	if cap(c.Counts) >= len(c.Ceilings) {
		return c.Counts[:len(c.Ceilings)]
	}
	return make([]Count, len(c.Ceilings))
}

// Validate reports a charge that no store should see. Stores call it before
// they write anything.
func (c *Charge) Validate() error {
	if err := checkSubject(c.Subject); err != nil {
		return err
	}
	if err := checkCost(c.Cost); err != nil {
		return err
	}
	if len(c.Ceilings) == 0 || len(c.Ceilings) > MaxLimits {
		return &FieldError{Field: "limits", Value: strconv.Itoa(len(c.Ceilings)), Want: "1 to 16 limits"}
	}
	previous := ""
	for i := range c.Ceilings {
		ceiling := &c.Ceilings[i]
		limit := Limit{Name: ceiling.Name, Max: ceiling.Max, Window: ceiling.Window, Lease: ceiling.Lease, Algorithm: ceiling.algorithm()}
		if err := limit.Validate(); err != nil {
			return err
		}
		if ceiling.Name <= previous {
			return &FieldError{Field: "name", Value: ceiling.Name, Want: "unique and in ascending order"}
		}
		previous = ceiling.Name
	}
	return nil
}
