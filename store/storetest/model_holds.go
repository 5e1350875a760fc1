package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tierlimit/tierlimit"
)

// modelHolds maps ids to open holds.
type modelHolds map[tierlimit.HoldID]*modelHold

type modelHold struct {
	subject string
	expires time.Time
	limits  []modelCharge
}

// A modelCharge is the charge of a hold to one limit.
type modelCharge struct {
	ceiling tierlimit.Ceiling
	cost    int64
	own     bool
	end     time.Time // of the window; the zero time: it was forgiven
}

func (h modelHolds) open(c *tierlimit.Charge, windows []modelWindow, now time.Time) {
	one := &modelHold{subject: c.Subject, expires: now.Add(c.Hold.For)}
	for i, w := range windows {
		charge := modelCharge{ceiling: c.Ceilings.At(i), cost: c.CostOf(i), own: c.Own(i)}
		if !charge.ceiling.Concurrent {
			charge.end = w.end
		}
		one.limits = append(one.limits, charge)
	}
	h[c.Hold.ID] = one
}

// turn returns until when the charge can be corrected.
func (c *modelCharge) turn() time.Time {
	if c.ceiling.Sliding && !c.end.IsZero() {
		return c.end.Add(-c.ceiling.Window.Length)
	}
	return c.end
}

// correct replaces the charge c by cost, and reports whether the window of c still runs.
func (c *modelCharge) correct(m model, subject string, cost int64, now time.Time) bool {
	key := subject + " " + c.ceiling.Name
	w := m[key]
	if !c.turn().After(now) || !w.end.Equal(c.end) {
		return false
	}
	w.used = max(0, w.used+cost-c.cost)
	m[key] = w
	return true
}

func (h modelHolds) expire(m model, now time.Time) {
	for id, one := range h {
		if one.expires.After(now) {
			continue
		}
		delete(h, id)
		for i := range one.limits {
			if one.limits[i].ceiling.Release {
				one.limits[i].correct(m, one.subject, 0, now)
			}
		}
	}
}

func (h modelHolds) settle(m model, c tierlimit.Correction, now time.Time) (settled tierlimit.Settlement) {
	h.expire(m, now)
	one := h[c.ID]
	if one == nil || one.subject != c.Subject {
		return settled
	}
	delete(h, c.ID)
	settled.Found = true
	for i := range one.limits {
		charge := &one.limits[i]
		if charge.ceiling.Concurrent {
			continue
		}
		l := tierlimit.SettledLimit{Limit: charge.ceiling.Name, Estimate: charge.cost, Cost: c.Real(charge.ceiling.Name, charge.cost, charge.own)}
		if charge.correct(m, c.Subject, l.Cost, now) {
			l.Used = m[c.Subject+" "+charge.ceiling.Name].used
		} else {
			l.Ended, l.Cost = true, charge.cost
		}
		settled.Limits = append(settled.Limits, l)
	}
	return settled
}

func (h modelHolds) reset(subject string, limits []string) {
	for _, one := range h {
		for i := range one.limits {
			if one.subject == subject && (len(limits) == 0 || slices.Contains(limits, one.limits[i].ceiling.Name)) {
				one.limits[i].end = time.Time{}
			}
		}
	}
}

func (h modelHolds) places(subject, limit string) (n int64) {
	for _, one := range h {
		for i := range one.limits {
			if one.subject == subject && one.limits[i].ceiling.Concurrent && one.limits[i].ceiling.Name == limit {
				n++
			}
		}
	}
	return n
}

// held returns the sum that open holds have charged to a window.
func (h modelHolds) held(subject string, ceiling tierlimit.Ceiling, w modelWindow) (n int64) {
	for _, one := range h {
		for i := range one.limits {
			if c := &one.limits[i]; one.subject == subject && c.ceiling.Name == ceiling.Name && !c.end.IsZero() && c.end.Equal(w.end) {
				n += c.cost
			}
		}
	}
	return n
}

// first returns how many milliseconds pass until the first hold of a subject expires.
func (h modelHolds) first(subject string, now time.Time) (ms int64) {
	for _, one := range h {
		if left := one.expires.Sub(now).Milliseconds(); one.subject == subject && (ms == 0 || left < ms) {
			ms = left
		}
	}
	return ms
}

// drawHold adds a hold, costs by limit or a concurrent limit to a charge, or leaves the charge
// plain.
func drawHold(t *rapid.T, c tierlimit.Charge) tierlimit.Charge {
	var list []tierlimit.Ceiling
	for i := range c.Ceilings.Len() {
		ceiling := c.Ceilings.At(i)
		ceiling.Release = ceiling.Name == "b"
		list = append(list, ceiling)
	}
	if rapid.Bool().Draw(t, "concurrent") {
		list = append(list, concurrent("z", rapid.Int64Range(0, 4).Draw(t, "places")))
	}
	c.Ceilings = Ceilings(list...)
	if c.Cost > 0 && rapid.Bool().Draw(t, "hold") {
		c.Hold = newHold(rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Minute, time.Hour}).Draw(t, "for"))
	}
	if c.Cost > 0 && rapid.Bool().Draw(t, "costs") {
		for range list {
			c.Costs = append(c.Costs, rapid.Int64Range(-1, 6).Draw(t, "own"))
		}
	}
	c.Held = rapid.Bool().Draw(t, "held")
	return c
}

// modelWithHolds compares the store with the model under random holds, settlements, renewals,
// resets and charges, while the clock advances.
func modelWithHolds(t *testing.T, start func(t *testing.T) Harness) {
	h := start(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		prefix := fmt.Sprintf("held-%d-%d-", time.Now().UnixNano(), run)
		g := charger{
			subjects: []string{prefix + "x", prefix + "y"},
			windows:  []tierlimit.Window{length(time.Minute), length(time.Hour), length(36 * time.Hour)},
		}
		// Held covers only the window that was charged last. If windows keep changing their
		// length, Held may be too low, and a sliding window may lose its predecessor.
		changing := rapid.Bool().Draw(rt, "windows change")
		if g.sliding = !changing; !changing {
			g.windows = g.windows[run%len(g.windows):][:1]
		}
		m, holds := model{}, modelHolds{}
		var ids []tierlimit.HoldID // of all that were ever open, so that closed ones are asked for too
		now := at("2026-03-10T12:00:00Z")
		h.SetNow(now)
		check := func(rt *rapid.T, c tierlimit.Charge, got tierlimit.Outcome, fits bool, want []tierlimit.Count) {
			for i := range want {
				if changing {
					want[i].Held, got.Counts[i].Held = 0, 0
				}
				if c.Ceilings.At(i).Concurrent && fits {
					want[i].Reset, got.Counts[i].Reset = 0, 0 // a lower bound
				}
			}
			if got.Allowed != fits || !slices.Equal(got.Counts, want) {
				rt.Fatalf("%+v at %s: allowed %v %v, want %v %v", c, now.UTC(), got.Allowed, got.Counts, fits, want)
			}
		}
		anyID := func(rt *rapid.T) tierlimit.HoldID {
			if len(ids) == 0 {
				rt.Skip("no hold yet")
			}
			return rapid.SampledFrom(ids).Draw(rt, "id")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				c := drawHold(rt, g.draw(rt))
				fits, want := m.takeWith(holds, c, now)
				got, err := h.Store.Take(t.Context(), c)
				if err != nil {
					rt.Fatal(err)
				}
				check(rt, c, got, fits, want)
				if c.Hold != nil && fits {
					ids = append(ids, c.Hold.ID)
				}
			},
			"settle": func(rt *rapid.T) {
				c := tierlimit.Correction{Subject: rapid.SampledFrom(g.subjects).Draw(rt, "subject"), ID: anyID(rt), Cost: rapid.Int64Range(-1, 12).Draw(rt, "cost")}
				for _, limit := range drawLimits(rt) {
					if c.Costs == nil {
						c.Costs = make(map[string]int64)
					}
					c.Costs[limit] = rapid.Int64Range(0, 12).Draw(rt, "own")
				}
				want := holds.settle(m, c, now)
				got, err := h.Store.Settle(t.Context(), c)
				if err != nil || got.Found != want.Found || len(got.Limits) != len(want.Limits) {
					rt.Fatalf("%+v: %+v, %v; want %+v", c, got, err, want)
				}
				for i, l := range got.Limits {
					if w := want.Limits[i]; l.Limit != w.Limit || l.Estimate != w.Estimate || l.Cost != w.Cost || l.Ended != w.Ended || l.Used != w.Used {
						rt.Fatalf("%+v: %+v; want %+v", c, got, want)
					}
				}
			},
			"renew": func(rt *rapid.T) {
				r := tierlimit.Renewal{Subject: rapid.SampledFrom(g.subjects).Draw(rt, "subject"), ID: anyID(rt), For: rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(rt, "for")}
				holds.expire(m, now)
				one := holds[r.ID]
				found := one != nil && one.subject == r.Subject
				if found {
					one.expires = now.Add(r.For)
				}
				if got, err := h.Store.Renew(t.Context(), r); err != nil || got != found {
					rt.Fatalf("%+v: %v, %v; want %v", r, got, err, found)
				}
			},
			"list": func(rt *rapid.T) {
				holds.expire(m, now)
				for _, subject := range g.subjects {
					list, err := h.Store.Holds(t.Context(), subject)
					if err != nil {
						rt.Fatal(err)
					}
					n := 0
					for _, one := range holds {
						if one.subject == subject {
							n++
						}
					}
					for _, got := range list {
						one := holds[got.ID]
						if one == nil || one.subject != subject || one.expires.UnixMilli() != got.Expires || len(one.limits) != len(got.Limits) {
							rt.Fatalf("%s has %+v, want %+v", subject, got, one)
						}
					}
					if len(list) != n {
						rt.Fatalf("%s has %d holds, want %d", subject, len(list), n)
					}
				}
			},
			"reset": func(rt *rapid.T) {
				subject, limits := rapid.SampledFrom(g.subjects).Draw(rt, "subject"), drawLimits(rt)
				holds.expire(m, now)
				m.reset(subject, limits)
				holds.reset(subject, limits)
				if err := h.Store.Reset(t.Context(), subject, limits...); err != nil {
					rt.Fatal(err)
				}
			},
			"time passes": func(rt *rapid.T) {
				d := rapid.SampledFrom([]time.Duration{ms(1), time.Second, 59 * time.Second, time.Minute, time.Hour, 12 * time.Hour}).Draw(rt, "d")
				now = now.Add(d)
				h.Advance(d)
			},
		})
	})
}
