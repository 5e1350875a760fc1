package tierlimit

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/window"
)

// Bounds of how long a hold stays open.
const (
	MinHold = time.Second
	MaxHold = time.Hour
)

// DefaultMaxHolds is the most open holds of a subject, unless a store is configured with
// another number.
const DefaultMaxHolds = 1024

// Keep as a cost leaves the charge as it is.
const Keep int64 = -1

// A HoldID names a hold among those of its subject: 128 random bits.
type HoldID [16]byte

func newHoldID() (id HoldID) {
	_, _ = rand.Read(id[:]) // crypto/rand: Read never fails
	return id
}

// A holdRef is the parsed form of a Decision's ID: the subject, the id of the hold, and
// whether the hold is in the shared store or in the memory of one process.
type holdRef struct {
	subject string
	id      HoldID
	local   bool
}

// The first byte of an ID says where the hold is.
const (
	sharedHold byte = 2
	localHold  byte = 3
)

// String returns the ID: base64url of where the hold is, the hold's own id, and the
// subject.
func (h holdRef) String() string {
	place := sharedHold
	if h.local {
		place = localHold
	}
	b := append(make([]byte, 0, 1+len(h.id)+len(h.subject)), place)
	b = append(append(b, h.id[:]...), h.subject...)
	return base64.RawURLEncoding.EncodeToString(b)
}

// maxHoldRef is the length of the longest ID.
var maxHoldRef = base64.RawURLEncoding.EncodedLen(1 + len(HoldID{}) + MaxSubject)

// parseHold parses the ID of a decision. An error is a *FieldError.
func parseHold(id string) (h holdRef, err error) {
	wrong := &FieldError{Field: "id", Value: id, Want: "the id of a decision, as it was sent"}
	if len(id) > maxHoldRef {
		wrong.Value = fmt.Sprintf("%d bytes", len(id))
		return h, wrong
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || strings.ContainsAny(id, "\r\n") || len(b) <= 1+len(h.id) || b[0] != sharedHold && b[0] != localHold {
		return h, wrong
	}
	h.local = b[0] == localHold
	h.subject = string(b[1+copy(h.id[:], b[1:]):])
	if !ValidSubject(h.subject) {
		return h, wrong
	}
	return h, nil
}

// A Hold asks a Store to keep a charge open for correction.
type Hold struct {
	ID  HoldID
	For time.Duration // MinHold to MaxHold, whole milliseconds
}

// A Correction asks a Store to settle an open hold: to charge what the request really
// cost in place of the estimate, and to close the hold.
type Correction struct {
	Subject string
	ID      HoldID
	// Cost is for the limits that were charged the request's Cost: 0 to MaxCount, or Keep.
	Cost int64
	// Costs are for the limits that they name, 0 to MaxCount. A limit with a cost of its
	// own in the request that is not named keeps its charge, unless Cost is 0 and Costs
	// are empty: then everything is given back.
	Costs    map[string]int64
	Deadline time.Time // when the answer must be there; the zero time: whenever the Store gives up
}

// GivesBack reports whether c gives everything back.
func (c *Correction) GivesBack() bool { return c.Cost == 0 && len(c.Costs) == 0 }

// Validate reports a correction that no store should see, as a *FieldError.
func (c *Correction) Validate() error {
	if err := checkSubject(c.Subject); err != nil {
		return err
	}
	if c.Cost != Keep {
		if err := checkCost(c.Cost); err != nil {
			return err
		}
	}
	return checkCosts(c.Costs)
}

// Real returns what a limit really cost whose estimate was charged. own says that the
// request had a cost of its own for the limit.
func (c *Correction) Real(limit string, estimate int64, own bool) int64 {
	if cost, named := c.Costs[limit]; named {
		return cost
	}
	if c.GivesBack() {
		return 0
	}
	if own || c.Cost == Keep {
		return estimate
	}
	return c.Cost
}

// A Settlement is what came of a Correction.
type Settlement struct {
	// Found is false if there is no such open hold: it was settled before, has expired, or
	// never was. Nothing is changed then.
	Found  bool
	At     int64          // on the store's clock, in milliseconds since the epoch
	Limits []SettledLimit // those that were charged, in ascending order of names
}

// A SettledLimit is what a settlement did to the charge of one limit.
type SettledLimit struct {
	Limit    string
	Spec     window.Spec // how the window counts over time, without the anchor of a period
	Estimate int64       // charged until then
	Cost     int64       // charged from then on
	Ended    bool        // the window of the charge has ended, or its usage was reset: nothing was changed
	Used     int64       // of the window after it; 0 if it has ended
	End      int64       // of the window, as Count has it; 0 if it has ended
}

// A Renewal asks a Store to keep a hold open.
type Renewal struct {
	Subject  string
	ID       HoldID
	For      time.Duration // from now on, MinHold to MaxHold
	Deadline time.Time     // as Correction has it
}

// Validate reports a renewal that no store should see, as a *FieldError.
func (r *Renewal) Validate() error {
	if err := checkSubject(r.Subject); err != nil {
		return err
	}
	return checkHold(r.For)
}

// An OpenHold is a hold as a Store keeps it.
type OpenHold struct {
	ID      HoldID
	Expires int64 // on the store's clock, in milliseconds since the epoch
	Limits  []HeldLimit
}

// A HeldLimit is what a hold has charged to one limit.
type HeldLimit struct {
	Limit      string
	Cost       int64
	Concurrent bool // it is one of a concurrent limit's
}

// A HoldStore is what a Store and a LocalStore do about holds that are open.
type HoldStore interface {
	// Settle corrects the charge of an open hold, and closes the hold, at most once: to ask
	// again after an error is safe, and finds nothing if the first was made.
	Settle(ctx context.Context, c Correction) (Settlement, error)
	// Renew has an open hold expire later, or sooner. It reports whether there is one.
	Renew(ctx context.Context, r Renewal) (found bool, err error)
	// Holds returns the holds that a subject has open, the first to expire first.
	Holds(ctx context.Context, subject string) ([]OpenHold, error)
}

func checkHold(d time.Duration) error {
	if d < MinHold || d > MaxHold || d%time.Millisecond != 0 {
		return &FieldError{Field: "hold", Value: d.String(), Want: "whole milliseconds from 1s to 1h"}
	}
	return nil
}

func checkCosts(costs map[string]int64) error {
	if len(costs) > MaxLimits {
		return &FieldError{Field: "costs", Value: strconv.Itoa(len(costs)), Want: "at most 16 limits"}
	}
	for _, name := range slices.Sorted(maps.Keys(costs)) {
		if !ValidName(name) {
			return &FieldError{Field: "costs", Value: name, Want: "names of limits, each " + NameRule}
		}
		if cost := costs[name]; cost < 0 || cost > MaxCount {
			return &FieldError{Field: "costs." + name, Value: strconv.FormatInt(cost, 10), Want: CostRule}
		}
	}
	return nil
}

// Settle corrects what the hold of a decision has charged to what the request really cost,
// and closes the hold, exactly once. cost is for the limits that were charged the
// request's Cost, costs for those that it names. A limit that neither concerns keeps its
// charge: cost is [Keep] to correct none but those named, and a limit to which the request
// gave a cost of its own must be named. A cost of 0 without costs gives everything back.
//
// More than was left is charged all the same: used may then be above max, and the next
// request is denied. A window that has ended is left as it is, and so is the one after.
//
// A hold that was settled before, has expired or never was is not found: that is no error.
// After an error the hold may have been settled; to ask again is safe. An error is a
// *FieldError if an argument is malformed.
func (l *Limiter) Settle(ctx context.Context, id string, cost int64, costs map[string]int64) (Settlement, error) {
	h, err := parseHold(id)
	if err != nil {
		return Settlement{}, err
	}
	c := Correction{Subject: h.subject, ID: h.id, Cost: cost, Costs: costs, Deadline: l.deadline(ctx, time.Now())}
	if err := c.Validate(); err != nil {
		return Settlement{}, err
	}
	store := l.holdsOf(h)
	if store == nil {
		return Settlement{}, nil
	}
	s, err := store.Settle(ctx, c)
	l.denials.forget(h.subject)
	if err != nil {
		return Settlement{}, fmt.Errorf("settle a hold of subject %q: %w", h.subject, serverError(err))
	}
	return s, nil
}

// Renew has the hold of a decision expire after d from now, 1 s to 1 h. It reports whether
// the hold is open: one that has expired cannot be renewed. An error is a *FieldError if an
// argument is malformed.
func (l *Limiter) Renew(ctx context.Context, id string, d time.Duration) (found bool, err error) {
	h, err := parseHold(id)
	if err != nil {
		return false, err
	}
	r := Renewal{Subject: h.subject, ID: h.id, For: d, Deadline: l.deadline(ctx, time.Now())}
	if err := r.Validate(); err != nil {
		return false, err
	}
	store := l.holdsOf(h)
	if store == nil {
		return false, nil
	}
	if found, err = store.Renew(ctx, r); err != nil {
		return false, fmt.Errorf("renew a hold of subject %q: %w", h.subject, serverError(err))
	}
	return found, nil
}

// An OpenHoldState is an open hold as people see it.
type OpenHoldState struct {
	ID      string // for Settle and Renew
	Expires time.Time
	Limits  []HeldLimit
}

// Holds returns the open holds of a subject in the shared store, in the order of their
// expiry.
func (l *Limiter) Holds(ctx context.Context, subject string) ([]OpenHoldState, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	list, err := l.store.Holds(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("holds of subject %q: %w", subject, serverError(err))
	}
	states := make([]OpenHoldState, len(list))
	for i, h := range list {
		states[i] = OpenHoldState{
			ID:      holdRef{subject: subject, id: h.ID}.String(),
			Expires: time.UnixMilli(h.Expires).UTC(), Limits: h.Limits,
		}
	}
	return states, nil
}

// holdsOf returns where a hold is, nil if no store of this process can have it.
func (l *Limiter) holdsOf(h holdRef) HoldStore {
	switch {
	case !h.local:
		return l.store
	case l.local != nil:
		return l.local
	}
	return nil
}
