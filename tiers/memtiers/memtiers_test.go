package memtiers_test

import (
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
