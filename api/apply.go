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

// A tierFile is a request body that lists the desired tiers.
type tierFile struct {
	Tiers []tiers.Tier `json:"tiers"`
	Prune bool         `json:"prune"` // delete the tiers that are not listed
}

// applied is the response: what was done to each tier or, in a dry run, would be done.
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

// maxTierFile is the maximum size of a tierFile, in bytes.
const maxTierFile = 1 << 20

// applyTiers changes the tiers to those of a tierFile, in one command.
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
			err = at.Err // this error names the tier
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

// check returns an error if the file contradicts itself or a tier in it is invalid.
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

// operations returns the operations that apply f to the tiers in have. The default tier comes
// first, because it replaces the previous default. Deletions come last.
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

// applied returns what a command has done to each tier or, in a dry run, would do.
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
		if e.Kind != tiers.KindTier { // a subject that named the tier for a trial or a change in the past
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

// turn returns the sort key of t: listed tiers come before all others.
func (t *appliedTier) turn() int {
	if t.Named {
		return 0
	}
	return 1
}
