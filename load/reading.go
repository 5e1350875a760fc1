package load

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Reading says how busy a source is: the part of its CPUs that one machine, container or process
// uses.
type Reading struct {
	Source   string  `json:"source"`   // what was measured: a name such as api-7f9c
	CPU      float64 `json:"cpu"`      // utilisation, 0 to 1
	Capacity float64 `json:"capacity"` // CPUs that the source may use: the weight of the reading
}

// MaxCapacity is the largest Reading.Capacity. No machine has as many CPUs; a larger number is a
// mistake that would make all other readings count for nothing.
const MaxCapacity = 4096

// Validate reports everything that is wrong with r, each as a *tierlimit.FieldError, joined.
//
// A CPU above 1 is refused rather than taken for 1: it may be a percentage, and then 2 % would
// count as full. Whoever computes it from averages, which may exceed 1, must cut it off.
func (r Reading) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(tierlimit.ValidName(r.Source), "source", r.Source, tierlimit.NameRule)
	check(r.CPU >= 0 && r.CPU <= 1, "cpu", number(r.CPU), "the part of the capacity that is used, from 0 to 1; 0.8 is 80 %")
	check(r.Capacity > 0 && r.Capacity <= MaxCapacity, "capacity", number(r.Capacity), "a number of CPUs, more than 0 and at most "+strconv.Itoa(MaxCapacity))
	return errors.Join(errs...)
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

const (
	// freshFor is the age up to which a reading counts. It bridges the loss of some reports.
	freshFor = 5 * time.Second
	// forgetAfter is the age up to which a reading is shown.
	forgetAfter = 10 * time.Second
	// maxSources is the most sources that one replica holds the reports of.
	maxSources = 256
)

// ownPrefix is the beginning of the source of a replica's own reading. No report has such a source.
const ownPrefix = "replica:"

// KindReport is the kind of a reading that a protected service has reported.
const KindReport = "report"

// An entry is a reading that this replica knows.
type entry struct {
	Reading
	kind      string    // KindReport, or the Source of the Meter
	protected bool      // it is of what is protected: it counts while it is fresh
	at        time.Time // when it was measured or reported, by this replica's clock
}

func (e entry) counts(now time.Time) bool { return e.protected && now.Sub(e.at) <= freshFor }

// valid is Validate for a reading from a Board, which may be a replica's own.
func (e entry) valid() bool {
	r := e.Reading
	r.Source = strings.TrimPrefix(r.Source, ownPrefix)
	return r.Validate() == nil
}

// mean returns the load of what is protected: the mean of the readings that count, each weighted
// by its capacity. known is false if none counts.
func mean(entries map[string]entry, now time.Time) (cpu float64, known bool) {
	var used, capacity float64
	for _, e := range entries {
		if e.counts(now) {
			used += e.CPU * e.Capacity
			capacity += e.Capacity
		}
	}
	if capacity == 0 {
		return 0, false
	}
	return min(used/capacity, 1), true
}

// keepYoungest adds e to entries unless they have a younger one of the same source.
func keepYoungest(entries map[string]entry, e entry) {
	if old, there := entries[e.Source]; !there || e.at.After(old.at) {
		entries[e.Source] = e
	}
}

// youngest returns the youngest reading of each source.
func youngest(some, more map[string]entry) map[string]entry {
	all := make(map[string]entry, len(some)+len(more))
	for _, e := range some {
		keepYoungest(all, e)
	}
	for _, e := range more {
		keepYoungest(all, e)
	}
	return all
}
