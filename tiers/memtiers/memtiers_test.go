package memtiers_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
	"github.com/tierlimit/tierlimit/tiers/tierstest"
)

func TestMemory(t *testing.T) {
	tierstest.Run(t, func(t *testing.T) tiers.Catalogue {
		m, err := memtiers.New(tiers.Builtin())
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}

func TestMemoryInAFile(t *testing.T) {
	tierstest.Run(t, func(t *testing.T) tiers.Catalogue {
		m, err := memtiers.Open(filepath.Join(t.TempDir(), "data.json"), tiers.Builtin())
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}

func TestAFileKeepsTheCatalogueAcrossRestarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.json")
	m, err := memtiers.Open(file, tiers.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	moved, err := tiers.Editor{Catalogue: m}.CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := memtiers.Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := again.Subject(t.Context(), "acct_42"); err != nil || !reflect.DeepEqual(s, moved) {
		t.Fatalf("after a restart: %+v, %v; want %+v", s, err, moved)
	}
	if err := os.WriteFile(file, []byte(`{"tiers":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := memtiers.Open(file, tiers.Builtin()); err == nil || !strings.Contains(err.Error(), "no tier is the default") {
		t.Fatalf("a file without tiers: %v", err)
	}
}

// Each erasure added an event beyond the bound.
func TestErasuresKeepTheBoundOfEvents(t *testing.T) {
	m, err := memtiers.New(tiers.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	for range 1010 {
		e := tiers.Event{Action: "usage.reset", Kind: tiers.KindUsage, Object: "acct_42"}
		if err := m.Record(t.Context(), e, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := m.Erase(t.Context(), tiers.Actor{}, tiers.Erasure{Subject: "acct_42"}, false); err != nil || n != 1000 {
		t.Errorf("erased %d, %v", n, err)
	}
	list, err := m.Events(t.Context(), tiers.EventFilter{Most: 2000})
	if err != nil || len(list) != 1000 || list[0].Action != "audit.erase" {
		t.Errorf("%d events, %v", len(list), err)
	}
}
