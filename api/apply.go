package api

import (
	"cmp"
	"errors"
	"net/http"
	"slices"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// A tierFile says what tiers there should be.
type tierFile struct {
	Tiers []tiers.Tier `json:"tiers"`
	Prune bool         `json:"prune"` // delete those that are not named
}

// applied is what became of the tiers, or would become of them.
type applied struct {
	DryRun bool          `json:"dry_run"`
	Tiers  []appliedTier `json:"tiers"`
}

type appliedTier struct {
	Key      string            `json:"key"`
	Action   string            `json:"action"` // create, replace, delete, or keep
	Named    bool              `json:"named"`  // in the file
	Changes  []jsondiff.Change `json:"changes"`
	Affected affected          `json:"affected"`
}

// maxTierFile bounds what is read of a file of tiers.
const maxTierFile = 1 << 20

// applyTiers makes the tiers what a file says: all of it, or nothing.
func (a *admin) applyTiers(w http.ResponseWriter, r *http.Request) error {
	dry, err := dryRun(r, false)
	if err != nil {
		return err
	}
	body, err := readBodyOf(w, r, maxTierFile)
	if err != nil {
		return err
	}
	var file tierFile
	if err := decodeJSON(body, &file); err != nil {
		return err
	}
	if err := file.check(); err != nil {
		return err
	}
	have, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return err
	}
	c := tiers.Command{Actor: actorOf(r), DryRun: dry, Operations: file.operations(have)}
	result, err := a.do(r.Context(), c)
	if err != nil {
		var at *tiers.OperationError
		if errors.As(err, &at) {
			err = at.Err // which names the tier
		}
		return err
	}
	out, err := a.applied(r, &c, &result, have)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, out)
	return nil
}

// check refuses a file that no order of changes would satisfy.
func (f *tierFile) check() error {
	seen, defaults := make(map[string]bool), 0
	var errs []error
	for i := range f.Tiers {
		t := &f.Tiers[i]
		t.Normalize()
		errs = append(errs, strictjson.In("tiers."+t.Key, t.Validate())...)
		if seen[t.Key] {
			errs = append(errs, &tierlimit.FieldError{Field: "tiers." + t.Key + ".key", Value: t.Key, Want: "different from that of every other tier"})
		}
		if t.Default {
			defaults++
		}
		seen[t.Key] = true
	}
	switch {
	case len(f.Tiers) == 0:
		errs = append(errs, &tierlimit.FieldError{Field: "tiers", Want: "given: a list of tiers"})
	case defaults > 1:
		errs = append(errs, &tierlimit.FieldError{Field: "default", Value: "true", Want: "of one tier alone"})
	case defaults == 0 && f.Prune:
		errs = append(errs, &tierlimit.FieldError{Field: "default", Value: "false", Want: "true for one tier, where those that are not named are deleted"})
	}
	return errors.Join(errs...)
}

// operations puts the new default tier first, which takes that from the one that was, and
// deletes last, when nothing moves away any more.
func (f *tierFile) operations(have []tiers.Tier) (list []tiers.Operation) {
	put := slices.Clone(f.Tiers)
	slices.SortStableFunc(put, func(a, b tiers.Tier) int {
		if a.Default == b.Default {
			return 0
		}
		if a.Default {
			return -1
		}
		return 1
	})
	for _, t := range put {
		list = append(list, tiers.Operation{Ref: tiers.TierRef(t.Key), Expect: tiers.Anything, Put: t})
	}
	for _, t := range have {
		named := slices.ContainsFunc(f.Tiers, func(one tiers.Tier) bool { return one.Key == t.Key })
		if f.Prune && !named {
			list = append(list, tiers.Operation{Ref: tiers.TierRef(t.Key), Expect: tiers.Present})
		}
	}
	return list
}

// applied tells what a command for tiers has done, or would do.
func (a *admin) applied(r *http.Request, c *tiers.Command, result *tiers.Result, have []tiers.Tier) (applied, error) {
	out := applied{DryRun: c.DryRun, Tiers: []appliedTier{}}
	events, err := tiers.EventsOf(c, result)
	if err != nil {
		return out, err
	}
	told := make(map[string]bool)
	named := make(map[string]bool)
	for i := range c.Operations {
		named[c.Operations[i].Object] = c.Operations[i].Put != nil
	}
	for i := range events {
		e := &events[i]
		if e.Kind != tiers.KindTier { // a subject for which the tier had ended already
			continue
		}
		one := appliedTier{Key: e.Object, Action: e.Action[len("tier."):], Named: named[e.Object]}
		if one.Changes, err = jsondiff.Of(e.Before, e.After); err != nil {
			return out, err
		}
		one.Changes = slices.DeleteFunc(one.Changes, func(c jsondiff.Change) bool { return c.Field == "version" })
		if one.Affected, err = a.affected(r, e); err != nil {
			return out, err
		}
		if one.Affected.Sample == nil {
			one.Affected.Sample = []string{}
		}
		told[one.Key] = true
		out.Tiers = append(out.Tiers, one)
	}
	for i := range c.Operations {
		if key := c.Operations[i].Object; !told[key] {
			told[key] = true
			out.Tiers = append(out.Tiers, kept(key, true))
		}
	}
	for _, t := range have {
		if !told[t.Key] {
			out.Tiers = append(out.Tiers, kept(t.Key, false))
		}
	}
	slices.SortStableFunc(out.Tiers, func(a, b appliedTier) int { return cmp.Compare(a.turn(), b.turn()) })
	return out, nil
}

func kept(key string, named bool) appliedTier {
	return appliedTier{Key: key, Action: "keep", Named: named, Changes: []jsondiff.Change{}, Affected: affected{Sample: []string{}}}
}

// turn sorts those that were not named behind the others.
func (t *appliedTier) turn() int {
	if t.Named {
		return 0
	}
	return 1
}
