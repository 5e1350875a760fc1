// Package tierstest is the one suite that every catalogue passes. It is for
// tests only.
package tierstest

import (
	"errors"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit/tiers"
)

// Run holds a catalogue to the contract of tiers.Catalogue. start returns a
// fresh one that holds tiers.Builtin and no subject.
func Run(t *testing.T, start func(t *testing.T) tiers.Catalogue) {
	for name, test := range map[string]func(*testing.T, tiers.Editor){
		"begins with the built-in tiers":              builtin,
		"a tier comes back as it was written":         roundTrip,
		"a wrong tier names every wrong field":        invalidTier,
		"a tier's life":                               tierLife,
		"a replaced limit is gone":                    replacedLimit,
		"there is always exactly one default":         oneDefault,
		"a tier in use cannot be deleted":             tierInUse,
		"a subject's life":                            subjectLife,
		"subjects are listed in order, page by page":  subjectPages,
		"of writers who saw the same, one wins":       oneWriterWins,
		"a version is never given twice":              versionsRise,
		"what cannot be a name is not found":          notNames,
		"a subject comes back as it was written":      subjectRoundTrip,
		"a wrong subject names every wrong field":     invalidSubject,
		"a tier that is tried or comes is in use":     tierToComeInUse,
		"what is over holds no tier":                  tierOverIsFree,
		"an override's life":                          overrideLife,
		"each change has its event, and no other":     auditTellsTheStory,
		"what may have taken place has its event":     whatMayHaveTakenPlaceHasItsEvent,
		"a subject has a bounded number of overrides": aSubjectHasABoundedNumberOfOverrides,
		"a subject is erased from the audit log":      aSubjectIsErased,
		"an actor is erased from the audit log":       anActorIsErased,
		"old events are deleted from the audit log":   oldEventsAreDeleted,
		"subjects are filtered":                       subjectFilters,
		"a credential's life":                         credentialLife,
		"a wrong credential names every wrong field":  invalidCredential,
		"a subject takes its keys along":              subjectTakesKeysAlong,
		"secrets are not kept":                        secretsAreNotKept,
		"a dry run changes nothing":                   dryRun,
		"an attempt is made once":                     attempts,
		"load control is kept":                        loadControl,
		"a command is made whole or not at all":       commandsAreWhole,
		"what goes along has its event":               whatGoesAlong,
		"a patch is merged into what is there":        patches,
		"a writer says what it expects":               expectations,
		"an override is of a limit there is":          overrideOfNothing,
		"what is so already is no change":             whatIsSoAlreadyIsNoChange,
		"a webhook's life":                            webhookLife,
		"a wrong webhook names every wrong field":     invalidWebhook,
		"a crossing is written once":                  aCrossingIsWrittenOnce,
		"deliveries are claimed and finished":         deliveriesAreClaimed,
		"a test message goes to one webhook":          aTestMessageGoesToOneWebhook,
		"alerts end":                                  alertsEnd,
		"changes of subjects are told":                changesOfSubjectsAreTold,
		"alerts of a tier come back":                  alertsOfATierComeBack,
	} {
		t.Run(name, func(t *testing.T) { test(t, tiers.Editor{Catalogue: start(t)}) })
	}
}

func versionsRise(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	last := int64(0)
	for range 3 {
		s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
		if s.Version <= last {
			t.Fatalf("version %d after %d: a deleted subject's version came back", s.Version, last)
		}
		last = s.Version
		if err := c.DeleteSubject(ctx, "acct_1", s.Version); err != nil {
			t.Fatal(err)
		}
	}
}

func notNames(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	for _, name := range []string{"", "\x00", "a\x00b", "\xff", strings.Repeat("x", 10_000)} {
		_, err := c.Subject(ctx, name)
		wantErr(t, err, tiers.ErrNotFound)
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%d bytes of error", len(err.Error()))
		}
		wantErr(t, c.DeleteSubject(ctx, name, 1), tiers.ErrNotFound)
		_, err = c.Tier(ctx, name)
		wantErr(t, err, tiers.ErrNotFound)
		wantErr(t, c.DeleteTier(ctx, name, 1), tiers.ErrNotFound)
	}
}

// must returns what a call returned, once the test is told of its error.

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
