package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tierlimit/tierlimit"
)

// The model is what a store should be, written for reading and not for speed:
// one entry for each subject and limit.
type model map[string]modelWindow

// A modelWindow that slides counts from turn minus its length to turn, and until
// end what it used then is still looked at.
type modelWindow struct {
	used     int64
	end      time.Time
	previous int64     // used in the window that ended, or
	turn     time.Time // will end, at
	looked   time.Time // the turn it was last looked at with
}

// look returns the window of a ceiling at now, the zero one if none runs. Only a charge
// keeps an end that was brought forward.
func (m model) look(subject string, ceiling tierlimit.Ceiling, now time.Time, charge bool) modelWindow {
	keep := func(w modelWindow) {
		if charge {
			m[subject+" "+ceiling.Name] = w
		}
	}
	w := m[subject+" "+ceiling.Name]
	if !w.end.After(now) {
		return modelWindow{}
	}
	w.end = earlier(w.end, latest(ceiling, now))
	keep(w)
	if !ceiling.Sliding {
		return w
	}
	length := ceiling.Window.Length
	turn := w.end.Add(-length)
	w.looked = turn
	keep(w)
	if !turn.After(now) {
		return modelWindow{previous: w.used, turn: w.end, end: w.end.Add(length)}
	}
	if !turn.Equal(w.turn) { // that was a window of another length, or it did not slide
		w.previous = 0
	}
	w.turn = turn
	return w
}

func latest(ceiling tierlimit.Ceiling, now time.Time) time.Time {
	end := ceiling.Window.End(now)
	if ceiling.Sliding {
		end = end.Add(ceiling.Window.Length)
	}
	return end
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (m model) take(c tierlimit.Charge, now time.Time) (bool, []tierlimit.Count) {
	return m.takeWith(modelHolds{}, c, now)
}

// takeWith is take for a charge that may have a hold.
func (m model) takeWith(holds modelHolds, c tierlimit.Charge, now time.Time) (bool, []tierlimit.Count) {
	now = now.Truncate(time.Millisecond)
	holds.expire(m, now)
	windows := make([]modelWindow, c.Ceilings.Len())
	fits := true
	for i := range windows {
		ceiling, cost := c.Ceilings.At(i), c.CostOf(i)
		used := holds.places(c.Subject, ceiling.Name)
		if !ceiling.Concurrent {
			windows[i] = m.look(c.Subject, ceiling, now, c.Cost > 0)
			used = windows[i].count(ceiling, now).Used
		}
		fits = fits && (ceiling.Max == tierlimit.Unlimited || used+cost <= ceiling.Max || cost == 0 && c.Cost > 0)
	}
	charged := fits && c.Cost > 0
	counts := make([]tierlimit.Count, len(windows))
	began := make([]bool, len(windows))
	for i, w := range windows {
		ceiling, cost := c.Ceilings.At(i), c.CostOf(i)
		began[i] = charged && c.Begins(i) && w.end.IsZero()
		if charged && c.Begins(i) {
			if began[i] {
				w.end = latest(ceiling, now)
				w.turn = w.end.Add(-ceiling.Window.Length)
			}
			w.used += cost
			m[c.Subject+" "+ceiling.Name] = w
		}
		windows[i] = w
	}
	if charged && c.Hold != nil {
		holds.open(&c, windows, now)
	}
	for i, w := range windows {
		ceiling := c.Ceilings.At(i)
		if ceiling.Concurrent {
			counts[i].Used = holds.places(c.Subject, ceiling.Name)
			counts[i].Reset = holds.first(c.Subject, now)
			continue
		}
		counts[i] = w.count(ceiling, now)
		counts[i].Began = began[i]
		if c.CountsHolds() {
			counts[i].Held = holds.held(c.Subject, ceiling, w)
		}
	}
	return fits, counts
}

func (w modelWindow) count(ceiling tierlimit.Ceiling, now time.Time) tierlimit.Count {
	var c tierlimit.Count
	c.Used, c.Since = w.used, w.used
	if w.end.IsZero() {
		if ceiling.Window.Period != "" {
			c.Reset = ceiling.Window.End(now).Sub(now).Milliseconds()
		}
		return c
	}
	c.Reset, c.End = w.end.Sub(now).Milliseconds(), w.end.UnixMilli()
	if ceiling.Sliding {
		c.Previous, c.Turn, c.End = w.previous, w.turn.Sub(now).Milliseconds(), w.turn.UnixMilli()
		if w.used == 0 {
			c.Reset = c.Turn
		}
		length := ceiling.Window.Length.Milliseconds()
		c.Used += (c.Previous*min(c.Turn, length) + length - 1) / length // the model's numbers are small
	}
	return c
}

func (m model) endedSince(past, now time.Time) bool {
	for _, w := range m {
		if w.end.After(past) && !w.end.After(now) || w.turn.After(past) && !w.turn.After(now) || w.looked.After(past) && !w.looked.After(now) {
			return true
		}
	}
	return false
}

func (m model) reset(subject string, limits []string) {
	for key := range m {
		var s, limit string
		if _, err := fmt.Sscan(key, &s, &limit); err != nil {
			panic(err)
		}
		if s == subject && (len(limits) == 0 || slices.Contains(limits, limit)) {
			delete(m, key)
		}
	}
}

var modelLimits = []string{"a", "b", "c", "d"}

// A charger draws charges over few subjects, limits and maxes, so that they
// meet.
type charger struct {
	subjects []string
	windows  []tierlimit.Window
	sliding  bool // some limits slide
}

func (g charger) draw(t *rapid.T) tierlimit.Charge {
	c := tierlimit.Charge{
		Subject: rapid.SampledFrom(g.subjects).Draw(t, "subject"),
		Cost:    rapid.Int64Range(0, 6).Draw(t, "cost"),
	}
	var list []tierlimit.Ceiling
	for _, name := range modelLimits {
		if rapid.Bool().Draw(t, name) {
			w := rapid.SampledFrom(g.windows).Draw(t, "window")
			list = append(list, tierlimit.Ceiling{
				Name:    name,
				Max:     rapid.SampledFrom([]int64{tierlimit.Unlimited, 0, 1, 5, 10, 25, 1e15}).Draw(t, "max"),
				Window:  w,
				Sliding: g.sliding && w.Period == "" && (name == "c" || name == "d"),
			})
		}
	}
	if len(list) == 0 {
		list = append(list, tierlimit.Ceiling{Name: "a", Max: 5, Window: g.windows[0]})
	}
	c.Ceilings = Ceilings(list...)
	return c
}

func drawLimits(t *rapid.T) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(modelLimits), 0, 2, rapid.ID[string]).Draw(t, "limits")
}

// modelWithoutTime runs on stores whose clock cannot be set: all windows are
// far longer than the test, and only counts are compared.
func modelWithoutTime(t *testing.T, start func(t *testing.T) Harness) {
	h := start(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		prefix := fmt.Sprintf("model-%d-%d-", time.Now().UnixNano(), run)
		g := charger{
			subjects: []string{prefix + "x", prefix + "y"},
			windows:  []tierlimit.Window{length(time.Hour), length(2 * time.Hour)},
		}
		m, now := model{}, time.Unix(0, 0)
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				c := g.draw(rt)
				fits, want := m.take(c, now)
				got, err := h.Store.Take(t.Context(), c)
				if err != nil {
					rt.Fatal(err)
				}
				for i := range want {
					if got.Allowed != fits || got.Counts[i].Used != want[i].Used {
						rt.Fatalf("%s %d %q: allowed %v %v, want %v %v", c.Subject, c.Cost, c.Ceilings.Encoded(), got.Allowed, got.Counts, fits, want)
					}
				}
			},
			"reset": func(rt *rapid.T) {
				subject, limits := rapid.SampledFrom(g.subjects).Draw(rt, "subject"), drawLimits(rt)
				m.reset(subject, limits)
				if err := h.Store.Reset(t.Context(), subject, limits...); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}

// modelWithTime compares counts and resets to the millisecond, over windows of
// every kind and a clock that passes and steps.
func modelWithTime(t *testing.T, start func(t *testing.T) Harness) {
	h := start(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		prefix := fmt.Sprintf("timed-%d-%d-", time.Now().UnixNano(), run)
		g := charger{
			subjects: []string{prefix + "x", prefix + "y"},
			windows: []tierlimit.Window{
				length(time.Millisecond), length(250 * time.Millisecond), length(time.Minute), length(36 * time.Hour),
				period(tierlimit.Day), period(tierlimit.Week), period(tierlimit.Month), monthly("2026-01-31T17:03:04.005Z"),
			},
			sliding: true,
		}
		m := model{}
		now := time.UnixMilli(rapid.Int64Range(at("2024-01-01T00:00:00Z").UnixMilli(), at("2105-01-01T00:00:00Z").UnixMilli()).Draw(rt, "start"))
		h.SetNow(now)
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				c := g.draw(rt)
				fits, want := m.take(c, now)
				got, err := h.Store.Take(t.Context(), c)
				if err != nil {
					rt.Fatal(err)
				}
				if got.Allowed != fits || !slices.Equal(got.Counts, want) {
					rt.Fatalf("%s %d %q at %s: allowed %v %v, want %v %v", c.Subject, c.Cost, c.Ceilings.Encoded(), now.UTC(), got.Allowed, got.Counts, fits, want)
				}
			},
			"reset": func(rt *rapid.T) {
				subject, limits := rapid.SampledFrom(g.subjects).Draw(rt, "subject"), drawLimits(rt)
				m.reset(subject, limits)
				if err := h.Store.Reset(t.Context(), subject, limits...); err != nil {
					rt.Fatal(err)
				}
			},
			"time passes": func(rt *rapid.T) {
				d := rapid.SampledFrom([]time.Duration{ms(1), ms(249), ms(250), time.Minute, time.Hour, 24 * time.Hour, 31 * 24 * time.Hour}).Draw(rt, "d")
				now = now.Add(d)
				h.Advance(d)
			},
			"the clock steps back": func(rt *rapid.T) {
				back := now.Add(-rapid.SampledFrom([]time.Duration{ms(1), time.Second, 25 * time.Hour}).Draw(rt, "step"))
				if m.endedSince(back, now) {
					rt.Skip("a store may or may not remember a window that has ended")
				}
				now = back
				h.SetNow(now)
			},
		})
	})
}
