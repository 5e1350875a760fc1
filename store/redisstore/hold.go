package redisstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/window"
)

// holdsKey returns the key of a subject's open holds, in the slot of its counters.
func holdsKey(subject string) string { return Key(subject) + ":holds" }

// do runs a script at most once, and returns the reply or, at the deadline, an error.
func (s *Store) do(ctx context.Context, script *scripts.Script, subject string, deadline time.Time, args ...any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w: %w", ErrNotSent, tierlimit.ErrStoreUnavailable, err)
	}
	deadline = s.deadline(ctx, deadline)
	line, err := s.server.lineTo(ctx, subject, deadline)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	c := &command{script: script, subject: subject, args: args}
	err = line.run(c, deadline)
	if errors.Is(err, errMoved) || isBusy(err) { // nothing ran
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		return s.run(ctx, *script, c.keys(), args)
	}
	if err != nil { // a pending call may still write c.reply
		return nil, err
	}
	return c.reply, nil
}

// deadline returns the earlier of deadline and ctx's. A zero deadline means the store's budget.
func (s *Store) deadline(ctx context.Context, deadline time.Time) time.Time {
	if deadline.IsZero() {
		deadline = time.Now().Add(s.budget)
	}
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		return earlier
	}
	return deadline
}

// takeWithHolds makes a charge that is not Plain, by scripts/hold.lua.
func (s *Store) takeWithHolds(ctx context.Context, c *tierlimit.Charge) (tierlimit.Outcome, error) {
	reply, err := s.do(ctx, &scripts.Hold, c.Subject, c.Deadline, appendHold(nil, c, s.holds))
	if err != nil {
		return tierlimit.Outcome{}, err
	}
	text, _ := reply.(string)
	return readHold(c, text)
}

// appendHold encodes a charge for scripts/hold.lua.
func appendHold(b []byte, c *tierlimit.Charge, most int) []byte {
	var hold tierlimit.Hold
	if c.Hold != nil && c.Cost > 0 {
		hold = *c.Hold
	}
	charge := byte(0)
	if c.Cost > 0 {
		charge = 1
	}
	b = append(b, charge)
	b = binary.BigEndian.AppendUint32(b, uint32(hold.For.Milliseconds())) //nolint:gosec // at most an hour
	b = binary.BigEndian.AppendUint16(b, uint16(most))                    //nolint:gosec // checked when the store was made
	b = append(append(b, hold.ID[:]...), c.Ceilings.Encoded()...)
	for i := range c.Ceilings.Len() {
		own := byte(0)
		if c.Own(i) {
			own = 1
		}
		b = appendUint(append(b, own), c.CostOf(i), count)
	}
	return b
}

// readHold decodes a reply of scripts/hold.lua.
func readHold(c *tierlimit.Charge, text string) (o tierlimit.Outcome, err error) {
	const each = count + instant + count + count
	n := c.Ceilings.Len()
	if len(text) != instant+1+instant+n*each {
		return o, errReply
	}
	now, status, first := readUint(text, instant), text[instant], readUint(text[instant+1:], instant)
	text = text[instant+1+instant:]
	o = tierlimit.Outcome{
		Allowed: status == 0, Counts: make([]tierlimit.Count, n), Source: tierlimit.SourceRedis, At: now,
		TooManyHolds: status == 2,
	}
	if first > now {
		o.FirstExpiry = first - now
	}
	if !c.Ceilings.CountHolds() {
		o.StandsFor = standsFor
	}
	for i := range o.Counts {
		spec, held := c.Ceilings.Spec(i), text[:each]
		text = text[each:]
		stored := window.Stored{Used: readUint(held, count), End: readUint(held[count:], instant)}
		if spec.Kind == window.Concurrent {
			o.Counts[i].State = window.State{Used: stored.Used, Reset: o.FirstExpiry}
			continue
		}
		if spec.Kind == window.Sliding && stored.End > 0 {
			stored.Previous, stored.PreviousEnd = readUint(held[count+instant:], count), stored.End-spec.Length
		}
		if o.Allowed && c.Begins(i) {
			o.Counts[i].Began = stored.End == 0
			stored = spec.Charge(stored, c.CostOf(i), now)
		}
		o.Counts[i].State = spec.State(stored, now)
		if c.CountsHolds() {
			o.Counts[i].Held = readUint(held[count+instant+count:], count)
		}
	}
	return o, nil
}

// Settle implements tierlimit.HoldStore.
func (s *Store) Settle(ctx context.Context, c tierlimit.Correction) (tierlimit.Settlement, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Settlement{}, err
	}
	back := 0
	if c.GivesBack() {
		back = 1
	}
	args := []any{c.ID[:], c.Cost, back}
	for name, cost := range c.Costs {
		args = append(args, name, cost)
	}
	reply, err := s.do(ctx, &scripts.Settle, c.Subject, c.Deadline, args...)
	if err != nil {
		return tierlimit.Settlement{}, fmt.Errorf("settle a hold of %s: %w", Key(c.Subject), err)
	}
	return readSettlement(reply)
}

// readSettlement decodes a reply of scripts/settle.lua.
func readSettlement(reply any) (settled tierlimit.Settlement, err error) {
	r := list{rest: elements(reply)}
	settled.At, settled.Found = r.number(), r.number() == 1
	for len(r.rest) > 0 && !r.bad {
		l := tierlimit.SettledLimit{Limit: r.text(), Spec: window.Spec{Kind: window.Kind(r.number() & 7), Length: r.number()}, Estimate: r.number(), Cost: r.number(), Used: r.number(), End: r.number()}
		l.Ended = l.End == 0
		settled.Limits = append(settled.Limits, l)
	}
	if r.bad {
		return tierlimit.Settlement{}, errReply
	}
	return settled, nil
}

// Renew implements tierlimit.HoldStore.
func (s *Store) Renew(ctx context.Context, r tierlimit.Renewal) (bool, error) {
	if err := r.Validate(); err != nil {
		return false, err
	}
	reply, err := s.do(ctx, &scripts.Renew, r.Subject, r.Deadline, r.ID[:], r.For.Milliseconds())
	if err != nil {
		return false, fmt.Errorf("renew a hold of %s: %w", Key(r.Subject), err)
	}
	return reply == int64(1), nil
}

// Holds implements tierlimit.HoldStore.
func (s *Store) Holds(ctx context.Context, subject string) (holds []tierlimit.OpenHold, err error) {
	reply, err := s.do(ctx, &scripts.Open, subject, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("holds of %s: %w", Key(subject), err)
	}
	for _, one := range elements(reply) {
		r := list{rest: elements(one)}
		id, h := r.text(), tierlimit.OpenHold{Expires: r.number()}
		if copy(h.ID[:], id) != len(h.ID) {
			r.bad = true
		}
		for len(r.rest) > 0 && !r.bad {
			h.Limits = append(h.Limits, tierlimit.HeldLimit{Limit: r.text(), Cost: r.number(), Concurrent: r.number() == 1})
		}
		if r.bad {
			return nil, fmt.Errorf("holds of %s: %w", Key(subject), errReply)
		}
		holds = append(holds, h)
	}
	slices.SortFunc(holds, func(a, b tierlimit.OpenHold) int {
		if a.Expires != b.Expires {
			return int(a.Expires - b.Expires)
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	return holds, nil
}

func elements(reply any) []any {
	list, _ := reply.([]any)
	return list
}

// A list decodes a reply element by element.
type list struct {
	rest []any
	bad  bool
}

func (l *list) next() (one any) {
	if len(l.rest) == 0 {
		l.bad = true
		return nil
	}
	one, l.rest = l.rest[0], l.rest[1:]
	return one
}

func (l *list) number() int64 {
	n, ok := l.next().(int64)
	l.bad = l.bad || !ok
	return n
}

func (l *list) text() string {
	text, ok := l.next().(string)
	l.bad = l.bad || !ok
	return text
}
