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

// The minimum and maximum duration of a hold.
const (
	MinHold = time.Second
	MaxHold = time.Hour
)

// DefaultMaxHolds is a store's default for the maximum number of open holds of a subject.
const DefaultMaxHolds = 1024

// Keep is a cost that leaves the charge unchanged.
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

// The first byte of an ID: whether the hold is shared or local.
const (
	sharedHold byte = 2
	localHold  byte = 3
)

// String returns the ID: base64url of the location byte, the hold's own id, and the
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

// A Correction asks a Store to settle an open hold: to replace the estimate by the actual
// cost, and to close the hold.
type Correction struct {
	Subject string
	ID      HoldID
	// Cost applies to the limits that were charged Request.Cost: 0 to MaxCount, or Keep.
	Cost int64
	// Costs maps limits to their actual costs, 0 to MaxCount. A limit that was charged from
	// Request.Costs and is not in Costs keeps its charge. Exception: if Cost is 0 and Costs is
	// empty, all charges are given back.
	Costs    map[string]int64
	Deadline time.Time // of the answer; the zero time: the Store's own timeout
}

// GivesBack reports whether c gives back all charges of the hold.
func (c *Correction) GivesBack() bool { return c.Cost == 0 && len(c.Costs) == 0 }

// Validate returns a *FieldError if c is malformed.
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

// Real returns the actual cost of a limit. estimate is the cost charged so far; own says
// whether it came from Request.Costs.
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

// A Settlement is the result of a Correction.
type Settlement struct {
	// Found reports whether the hold was open. If the hold is settled, expired or unknown,
	// Found is false and nothing has changed.
	Found  bool
	At     int64          // on the store's clock, in milliseconds since the epoch
	Limits []SettledLimit // the charged limits, in ascending order of names
}

// A SettledLimit is the result of a settlement for one limit.
type SettledLimit struct {
	Limit    string
	Spec     window.Spec // how the window counts over time, without the anchor of a period
	Estimate int64       // the cost charged before the settlement
	Cost     int64       // the cost charged after the settlement
	Ended    bool        // nothing changed: the charge's window has ended or was reset
	Used     int64       // usage of the window after the settlement; 0 if Ended
	End      int64       // end of the window, as in Count; 0 if Ended
}

// A Renewal asks a Store to keep a hold open.
type Renewal struct {
	Subject  string
	ID       HoldID
	For      time.Duration // from now on, MinHold to MaxHold
	Deadline time.Time     // as in Correction
}

// Validate returns a *FieldError if r is malformed.
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

// A HeldLimit is the charge of a hold to one limit.
type HeldLimit struct {
	Limit      string
	Cost       int64
	Concurrent bool // whether the limit is concurrent
}

// A HoldStore manages open holds. Store and LocalStore include it.
type HoldStore interface {
	// Settle corrects the charge of an open hold and closes the hold, at most once. A retry
	// after an error is safe: if the first call has settled the hold, Found is false.
	Settle(ctx context.Context, c Correction) (Settlement, error)
	// Renew changes when an open hold expires, and reports whether the hold is open.
	Renew(ctx context.Context, r Renewal) (found bool, err error)
	// Holds returns the open holds of a subject, the first to expire first.
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

// Settle replaces the charge of a decision's hold by the actual cost and closes the hold,
// exactly once. cost applies to the limits that were charged Request.Cost, and costs to the
// limits that it names. All other limits keep their charge: pass [Keep] as cost to correct
// only the limits in costs, and name each limit that was charged from Request.Costs. A cost
// of 0 without costs gives back all charges.
//
// The actual cost is charged even if it exceeds what remains: used is then above max, and
// the next request is denied. If a window has ended, neither it nor its successor changes.
//
// If the hold is settled, expired or unknown, Settle returns no error and Found is false.
// After an error the hold may have been settled; a retry is safe. The error is a *FieldError
// if an argument is malformed.
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
	event := HoldSettled
	if c.GivesBack() {
		event = HoldGivenBack
	}
	l.toldOfHold(event, s.Found)
	if l.alerts != nil && s.Found && !h.local {
		if plan, err := l.tiers.Resolve(ctx, h.subject, time.Now()); err == nil { // from memory
			l.alerts.settled(plan, h.subject, &s)
		}
	}
	return s, nil
}

// Renew sets the hold of a decision to expire in d, 1 s to 1 h. It reports whether the hold
// is open; an expired hold cannot be renewed. The error is a *FieldError if an argument is
// malformed.
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
	l.toldOfHold(HoldRenewed, found)
	return found, nil
}

// An OpenHoldState describes an open hold to a user.
type OpenHoldState struct {
	ID      string // for Settle and Renew
	Expires time.Time
	Limits  []HeldLimit
}

// Holds returns the open holds of a subject in the shared store, the first to expire first.
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

// holdsOf returns the store that has hold h, or nil if h is local and l has no local store.
func (l *Limiter) holdsOf(h holdRef) HoldStore {
	switch {
	case !h.local:
		return l.store
	case l.local != nil:
		return l.local
	}
	return nil
}
