package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The program that the README shows compiles as it stands there.
func TestTheReadmesProgramCompiles(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	_, rest, found := strings.Cut(string(readme), "```go\npackage main\n")
	program, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the README has no program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	must(t, os.WriteFile(file, []byte("package main\n"+program), 0o644))
	vet := exec.CommandContext(t.Context(), "go", "vet", file)
	vet.Dir = ".."
	if out, err := vet.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
