package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/strictyaml"
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

// An appliedTier is the server's result for one tier.
type appliedTier struct {
	Key      string            `json:"key"`
	Action   string            `json:"action"` // create, replace, delete or keep
	Named    bool              `json:"named"`  // in the file
	Changes  []jsondiff.Change `json:"changes"`
	Affected struct {
		Subjects int  `json:"subjects"` // number of known subjects on the tier
		Unknown  bool `json:"unknown"`  // whether unknown subjects are affected too
		Checked  int  `json:"checked"`
		Denied   []struct {
			Subject string `json:"subject"`
			Limit   string `json:"limit"`
			Over    int64  `json:"over"`
		} `json:"denied"`
	} `json:"affected"`
}

// apply sends a file of tiers to the server, which applies it in one transaction.
func apply(ctx context.Context, c *client, f *applyFlags) error {
	want, err := readTierFile(c.in, f.file)
	if err != nil {
		return err
	}
	for i := range want {
		want[i].Version = 0
	}
	query := url.Values{}
	if f.dryRun {
		query.Set("dry_run", "true")
	}
	a, err := c.ask(ctx, http.MethodPost, "/tiers:apply", query, "", struct {
		Tiers []tiers.Tier `json:"tiers"`
		Prune bool         `json:"prune"`
	}{want, f.prune})
	if err != nil {
		return err
	}
	var said struct{ Tiers []appliedTier }
	if err := json.Unmarshal(a.body, &said); err != nil {
		return err
	}
	return c.show(a.body, func(w io.Writer) { printApplied(w, said.Tiers, f) })
}

func readTierFile(in io.Reader, name string) ([]tiers.Tier, error) {
	var text []byte
	var err error
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	text, err = io.ReadAll(io.LimitReader(in, strictyaml.MaxSize+1))
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
	converted, err := strictyaml.ToJSON(text)
	if err != nil {
		return nil, err
	}
	if converted == nil {
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

func printApplied(w io.Writer, list []appliedTier, f *applyFlags) {
	made := 0
	for i := range list {
		t := &list[i]
		sign := map[string]string{"create": "+", "replace": "~", "delete": "-", "keep": "="}[t.Action]
		switch {
		case t.Action == "keep" && !t.Named:
			fmt.Fprintf(w, "%s %s\tnot in the file; --prune deletes it\n", sign, t.Key)
		case t.Action == "keep":
			fmt.Fprintf(w, "%s %s\n", sign, t.Key)
		default:
			made++
			fmt.Fprintf(w, "%s %s\t%s\n", sign, t.Key, t.affected())
		}
		for _, change := range t.Changes {
			fmt.Fprintf(w, "    %s\t%s -> %s\n", change.Field, shownJSON(change.Field, change.From), shownJSON(change.Field, change.To))
		}
		for _, d := range t.Affected.Denied {
			fmt.Fprintf(w, "    %s\twould be denied by %s, %s over\n", d.Subject, d.Limit, count(d.Over))
		}
	}
	verb := "changed"
	if f.dryRun {
		verb = "would be changed"
	}
	if made == 0 {
		verb = "changed: nothing differs"
	}
	fmt.Fprintf(w, "%d of %d tiers %s\n", made, len(list), verb)
}

func (t *appliedTier) affected() string {
	text := fmt.Sprintf("%d known subjects", t.Affected.Subjects)
	switch {
	case t.Action == "create":
		return "new"
	case t.Affected.Subjects == 1:
		text = "1 known subject"
	}
	if t.Affected.Unknown {
		text += ", and whoever is not known"
	}
	return text
}

func shownJSON(field string, v any) string {
	if v == nil && (field == "max" || strings.HasSuffix(field, ".max")) {
		return "unlimited"
	}
	if v == nil {
		return "none"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
