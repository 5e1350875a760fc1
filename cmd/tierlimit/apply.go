package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// A tierFile says what tiers there should be.
type tierFile struct {
	Tiers []json.RawMessage `json:"tiers"`
}

type applyFlags struct {
	file          string
	dryRun, prune bool
}

func applyCommand(s streams) *cobra.Command {
	var f applyFlags
	cmd := adminCommand(s, "apply -f FILE", "Make the tiers what a YAML file says", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		return apply(ctx, c, &f)
	})
	cmd.Long = "Make the tiers what a YAML file says, and show the difference.\n" +
		"To apply a file again changes nothing. Tiers that are not in it stay, unless --prune is given."
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "the file; - for standard input")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the difference and who would be affected, and change nothing")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "delete tiers that are not in the file")
	_ = cmd.MarkFlagRequired("file") // it is there
	return cmd
}

// A plan is what becomes of one tier.
type tierChange struct {
	Key     string            `json:"key"`
	Action  string            `json:"action"` // create, replace, delete or keep
	Changes []jsondiff.Change `json:"changes"`

	Subjects int  `json:"subjects"` // how many known ones are on it
	Unknown  bool `json:"unknown"`  // also whoever is not known

	want *tiers.Tier
}

func apply(ctx context.Context, c *client, f *applyFlags) error {
	want, err := readTierFile(c.in, f.file)
	if err != nil {
		return err
	}
	have, err := all[tiers.Tier](ctx, c, "/tiers", nil)
	if err != nil {
		return err
	}
	changes, err := compare(have, want, f.prune)
	if err != nil {
		return err
	}
	for i := range changes {
		if err := affects(ctx, c, &changes[i], have); err != nil {
			return err
		}
	}
	if !f.dryRun {
		for i := range changes {
			if err := changes[i].make(ctx, c, have); err != nil {
				return err
			}
		}
	}
	return c.show(changes, func(w io.Writer) { printChanges(w, changes, f) })
}

func readTierFile(in io.Reader, name string) ([]tiers.Tier, error) {
	var text []byte
	var err error
	if name == "-" {
		text, err = io.ReadAll(in)
	} else {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, err
	}
	list, err := parseTiers(text)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", name, err))
	}
	return list, nil
}

// parseTiers reads a tier file and reports all that is wrong in it, each field
// under its tier.
func parseTiers(text []byte) ([]tiers.Tier, error) {
	converted, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, errors.New(yaml.FormatError(err, false, true))
	}
	if bytes.Equal(bytes.TrimSpace(converted), []byte("null")) {
		return nil, &tierlimit.FieldError{Field: "tiers", Want: "given: a list of tiers"}
	}
	var file tierFile
	if err := strictjson.Strict(converted, &file); err != nil {
		return nil, err
	}
	if len(file.Tiers) == 0 {
		return nil, &tierlimit.FieldError{Field: "tiers", Want: "given: a list of tiers"}
	}
	list := make([]tiers.Tier, len(file.Tiers))
	var errs []error
	seen := make(map[string]bool)
	for i, raw := range file.Tiers {
		t := &list[i]
		err := strictjson.Strict(raw, t)
		if err == nil {
			t.Normalize()
			err = t.Validate()
		} else {
			err = strictjson.Also(err, t)
		}
		name := cmp.Or(t.Key, strconv.Itoa(i+1))
		if err == nil && seen[t.Key] {
			err = &tierlimit.FieldError{Field: "key", Value: t.Key, Want: "different from that of every other tier"}
		}
		seen[t.Key] = true
		if err != nil {
			errs = append(errs, strictjson.In("tiers."+name, err)...)
		}
		if t.Version != 0 {
			errs = append(errs, &tierlimit.FieldError{Field: "tiers." + name + ".version", Value: strconv.FormatInt(t.Version, 10), Want: strictjson.NoSuchField + " in a file"})
		}
	}
	return list, errors.Join(errs...)
}

// compare says what is to be done, the new default tier first: it takes that from
// the one that was.
func compare(have, want []tiers.Tier, prune bool) (changes []tierChange, err error) {
	for i := range want {
		t := &want[i]
		change := tierChange{Key: t.Key, Action: "create", want: t}
		var before json.RawMessage
		if old := find(have, t.Key); old != nil {
			change.Action = "replace"
			if before, err = plain(old); err != nil {
				return nil, err
			}
		}
		after, err := plain(t)
		if err != nil {
			return nil, err
		}
		if change.Changes, err = jsondiff.Of(before, after); err != nil {
			return nil, err
		}
		if len(change.Changes) == 0 {
			change.Action = "keep"
		}
		changes = append(changes, change)
	}
	for i := range have {
		if find(want, have[i].Key) != nil {
			continue
		}
		change := tierChange{Key: have[i].Key, Action: "keep"}
		if prune {
			change.Action = "delete"
		}
		changes = append(changes, change)
	}
	slices.SortStableFunc(changes, func(a, b tierChange) int { return cmp.Compare(a.turn(), b.turn()) })
	return changes, nil
}

// turn is when a change is made: deletions last, when nothing moves away any more.
func (t *tierChange) turn() int {
	switch {
	case t.want == nil:
		return 2
	case t.want.Default:
		return 0
	default:
		return 1
	}
}

func find(list []tiers.Tier, key string) *tiers.Tier {
	for i := range list {
		if list[i].Key == key {
			return &list[i]
		}
	}
	return nil
}

// affects asks who is on the tier.
func affects(ctx context.Context, c *client, t *tierChange, have []tiers.Tier) error {
	old := find(have, t.Key)
	if t.Action == "keep" || old == nil {
		return nil
	}
	same := *old // what would be affected does not depend on how it is changed
	a, err := c.ask(ctx, http.MethodPut, "/tiers/"+url.PathEscape(t.Key), url.Values{"dry_run": {"true"}}, etagOf(old), same)
	if err != nil {
		return err
	}
	var effect struct {
		Affected struct {
			Subjects int
			Unknown  bool
		}
	}
	err = json.Unmarshal(a.body, &effect)
	t.Subjects, t.Unknown = effect.Affected.Subjects, effect.Affected.Unknown
	return err
}

func etagOf(t *tiers.Tier) string { return strconv.Quote(strconv.FormatInt(t.Version, 10)) }

// make makes a change, if nobody else has made one since the comparison.
func (t *tierChange) make(ctx context.Context, c *client, have []tiers.Tier) error {
	path := "/tiers/" + url.PathEscape(t.Key)
	old := find(have, t.Key)
	var err error
	switch t.Action {
	case "create":
		_, err = c.ask(ctx, http.MethodPost, "/tiers", nil, "", t.want)
	case "replace":
		_, err = c.ask(ctx, http.MethodPut, path, nil, etagOf(old), t.want)
	case "delete":
		_, err = c.ask(ctx, http.MethodDelete, path, nil, etagOf(old), nil)
	case "keep":
		return nil
	}
	if err == nil && t.want != nil && t.want.Default && (old == nil || !old.Default) {
		err = loseDefault(ctx, c, have, t.Key)
	}
	return err
}

// loseDefault reads anew what was the default: the server has changed that itself.
func loseDefault(ctx context.Context, c *client, have []tiers.Tier, to string) error {
	for i := range have {
		if !have[i].Default || have[i].Key == to {
			continue
		}
		a, err := c.get(ctx, "/tiers/"+url.PathEscape(have[i].Key), nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(a.body, &have[i])
	}
	return nil
}

func printChanges(w io.Writer, changes []tierChange, f *applyFlags) {
	made := 0
	for i := range changes {
		t := &changes[i]
		sign := map[string]string{"create": "+", "replace": "~", "delete": "-", "keep": "="}[t.Action]
		switch {
		case t.Action == "keep" && t.want == nil:
			fmt.Fprintf(w, "%s %s\tnot in the file; --prune deletes it\n", sign, t.Key)
		case t.Action == "keep":
			fmt.Fprintf(w, "%s %s\n", sign, t.Key)
		default:
			made++
			fmt.Fprintf(w, "%s %s\t%s\n", sign, t.Key, t.affected())
		}
		for _, change := range t.Changes {
			fmt.Fprintf(w, "    %s\t%s -> %s\n", change.Field, shownJSON(change.From), shownJSON(change.To))
		}
	}
	verb := "changed"
	if f.dryRun {
		verb = "would be changed"
	}
	if made == 0 {
		verb, made = "changed: nothing differs", 0
	}
	fmt.Fprintf(w, "%d of %d tiers %s\n", made, len(changes), verb)
}

func (t *tierChange) affected() string {
	text := fmt.Sprintf("%d known subjects", t.Subjects)
	switch {
	case t.Action == "create":
		return "new"
	case t.Subjects == 1:
		text = "1 known subject"
	}
	if t.Unknown {
		text += ", and whoever is not known"
	}
	return text
}

func shownJSON(v any) string {
	if v == nil {
		return "none"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
